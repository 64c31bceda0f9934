package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
	"github.com/ebpf-sidecar/sidecar/probes"
)

// stress is a minute of what every probe watches, on all CPUs.
var stress = []string{
	"--fork", "1", "--exec", "1", "--switch", "1", "--sigq", "1", "--timer", "1", "--sock", "1", "--udp", "1",
	"--vm", "1", "--vm-bytes", "64M", "--hdd", "1", "--hdd-bytes", "64M", "--hdd-opts", "direct,fsync", "--fault", "1", "--futex", "1",
	"--vm-populate", "--timeout", "60",
}

// kernelCount is something that the kernel counts too.
type kernelCount struct {
	name  string
	probe string
	read  func(t testing.TB) int64
	ours  func(received) int64
}

// received is what a Collector has, the last value of every series.
type received struct {
	counters   harness.Totals
	histograms map[string]*metrics.ExponentialHistogramDataPoint
}

// count is how many durations the histograms of a metric hold.
func (r received) count(metric string) (n int64) {
	for key, point := range r.histograms {
		if strings.HasPrefix(key, metric+"{") {
			n += int64(point.Count)
		}
	}
	return n
}

func kernelCounts() []kernelCount {
	return []kernelCount{
		{"/proc/stat ctxt", "scheduler",
			func(t testing.TB) int64 {
				return field(t, "/proc/stat", "ctxt", 1) - int64(kerneltest.HiddenSwitches(t))
			},
			func(r received) int64 { return r.counters.Sum("linux.scheduler.context_switches") }},
		{"/proc/stat processes", "process", forks, func(r received) int64 {
			return r.counters.Sum("system.process.created") + r.counters.Sum("linux.thread.created")
		}},
		{"/proc/softirqs", "interrupts", softirqs, func(r received) int64 { return r.count("linux.softirq.duration") }},
		{"/sys/block/*/stat", "block", diskOperations,
			func(r received) int64 { return r.counters.Sum("system.disk.operations") }},
		{"/proc/net/snmp ActiveOpens", "tcp", func(t testing.TB) int64 { return snmp(t, "Tcp", "ActiveOpens") },
			func(r received) int64 {
				return r.counters.Sum("linux.tcp.connections", "linux.tcp.connection.role=active")
			}},
		{"/proc/net/snmp PassiveOpens", "tcp", func(t testing.TB) int64 { return snmp(t, "Tcp", "PassiveOpens") },
			func(r received) int64 {
				return r.counters.Sum("linux.tcp.connections", "linux.tcp.connection.role=passive")
			}},
	}
}

// TestEveryProbeUnderStress has every probe measure all that it can for a minute of stress-ng, and holds what the Collector has in
// the end against what the kernel counted. What a probe says that it missed may be missing.
func TestEveryProbeUnderStress(t *testing.T) {
	log := openKernelLog(t)
	c := startCollector(t)
	configuration := "export: {interval: 2s}\nprobes:\n"
	for _, spec := range probes.All() {
		configuration += fmt.Sprintf("  %s:\n    enabled: true\n    metrics:\n", spec.Name)
		for instrument := range spec.Instruments() {
			configuration += fmt.Sprintf("      %s: true\n", instrument.Name)
		}
	}
	counts := kernelCounts()
	read := func() (values []int64) {
		for _, k := range counts {
			values = append(values, k.read(t))
		}
		return values
	}
	before := read()
	sidecar := startSidecar(t, configuration, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.Endpoint)
	began, hidden := read(), kerneltest.HiddenInterrupts(t)

	load := exec.Command("stress-ng", append([]string{"--quiet", "--temp-path", t.TempDir()}, stress...)...)
	load.SysProcAttr = &syscall.SysProcAttr{}
	p := harness.Start(t, load)
	time.Sleep(20 * time.Second)
	settled := residentSet(t, sidecar.Process.Pid)
	select {
	case <-p.Done:
	case <-time.After(3 * time.Minute):
		t.Fatal("stress-ng does not end")
	}
	grown := residentSet(t, sidecar.Process.Pid)
	t.Logf("resident set: %d KiB a third of the way, %d KiB at the end", settled, grown)
	if grown > settled+16<<10 {
		t.Errorf("the resident set grew from %d to %d KiB", settled, grown)
	}

	ended := read()
	if code, _ := sidecar.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	after := read()
	c.Stop(t) // it keeps the last lines for a moment
	var r received
	r.counters, r.histograms = c.Received(t)
	for i, k := range counts {
		got, least, most := k.ours(r), ended[i]-began[i], after[i]-before[i]
		missed := r.counters.Sum("sidecar.probe.missed", "sidecar.probe.name="+k.probe)
		switch k.probe { // where process 1 is hidden
		case "process":
			missed += int64(kerneltest.HiddenForks(t))
		case "interrupts", "block":
			missed += int64(hidden())
		}
		t.Logf("%s: %d, the kernel %d to %d; missed %d", k.name, got, least, most, missed)
		if k.probe == "tcp" {
			most = max(most, got) // other network namespaces have connections, too
		}
		if got < least-missed || got > most {
			t.Errorf("%s: %d arrived; the kernel counted %d to %d, and %d were missed", k.name, got, least, most, missed)
		}
	}
	for _, spec := range probes.All() {
		name := "sidecar.probe.name=" + spec.Name
		t.Logf("%-12s %12d events, missed %d, in overflow %d", spec.Name, r.counters.Sum("sidecar.probe.events", name),
			r.counters.Sum("sidecar.probe.missed", name), r.counters.Sum("sidecar.series.overflow", name))
		if spec.Name != "memory" && r.counters.Sum("sidecar.probe.events", name) == 0 { // there may be memory enough
			t.Errorf("probe %s has counted nothing", spec.Name)
		}
		if r.counters.Sum("sidecar.probe.state", name, "sidecar.probe.state=attached") != 1 {
			t.Errorf("probe %s is not attached", spec.Name)
		}
	}
	log.check(t)
}

// kernelLog is what the kernel says from a moment on.
type kernelLog struct{ *os.File }

func openKernelLog(t testing.TB) kernelLog {
	t.Helper()
	file, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if _, err := file.Seek(0, 2); err != nil {
		t.Fatal(err)
	}
	return kernelLog{file}
}

var alarm = regexp.MustCompile(`BUG|WARNING|Oops|general protection|rcu.*stall|hung task|blocked for more|Call Trace`)

// check fails the test if the kernel has complained.
func (l kernelLog) check(t testing.TB) {
	t.Helper()
	record := make([]byte, 8192)
	for {
		n, err := syscall.Read(int(l.Fd()), record)
		if errors.Is(err, syscall.EPIPE) {
			continue // records that were overwritten
		}
		if err != nil {
			return // EAGAIN: that was all
		}
		if line := string(record[:n]); alarm.MatchString(line) {
			t.Errorf("the kernel says: %s", line)
		}
	}
}

// field is a number of the line that begins with a word.
func field(t testing.TB, path, word string, column int) int64 {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if words := strings.Fields(line); len(words) > column && words[0] == word {
			return number(t, words[column])
		}
	}
	t.Fatalf("%s has no %s", path, word)
	return 0
}

func number(t testing.TB, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// snmp is a number of /proc/net/snmp, which has a line of names before each line of numbers.
func snmp(t testing.TB, protocol, name string) int64 {
	t.Helper()
	content, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(content)) {
		words := strings.Fields(line)
		if words[0] != protocol+":" {
			continue
		}
		for i, n := range names {
			if n == name {
				return number(t, words[i])
			}
		}
		names = words
	}
	t.Fatalf("there is no %s of %s", name, protocol)
	return 0
}

// softirqs is the sum of /proc/softirqs.
func softirqs(t testing.TB) (sum int64) {
	t.Helper()
	content, err := os.ReadFile("/proc/softirqs")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if words := strings.Fields(line); strings.HasSuffix(words[0], ":") {
			for _, word := range words[1:] {
				sum += number(t, word)
			}
		}
	}
	return sum
}

// diskOperations is how many reads, writes, discards and flushes the devices have completed that have requests (Documentation/block/stat.rst).
func diskOperations(t testing.TB) (sum int64) {
	t.Helper()
	stats, err := filepath.Glob("/sys/block/*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), "mq")); err != nil {
			continue // it has none, as device mapper's
		}
		content, err := os.ReadFile(path)
		if err != nil {
			continue // it is gone
		}
		words := strings.Fields(string(content))
		for _, column := range []int{0, 4, 11, 15} {
			sum += number(t, words[column])
		}
	}
	return sum
}
