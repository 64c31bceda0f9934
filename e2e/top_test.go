package e2e

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
	"github.com/ebpf-sidecar/sidecar/internal/terminal"
)

// topReading is what a test needs of a line that sidecar top --output json prints.
type topReading struct {
	Seconds float64
	Series  []struct {
		Metric     string
		Attributes map[string]string
		Total      float64
		Rate       *float64
		Sum        *float64
		Quantiles  map[string]float64
	}
}

// topReadings are the whole lines that were printed so far.
func topReadings(t *testing.T, output string) (all []topReading) {
	t.Helper()
	for line := range strings.Lines(output) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var r topReading
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		all = append(all, r)
	}
	return all
}

// container makes a cgroup that is a container's by its name, and returns its id.
func container(t *testing.T) (*kerneltest.Cgroup, string) {
	id := fmt.Sprintf("%016x", rand.Uint64())
	id = strings.Repeat(id, 4)
	return kerneltest.NamedCgroup(t, "/docker-"+id+".scope"), id
}

// runIn runs a program n times in a cgroup.
func runIn(t *testing.T, group *kerneltest.Cgroup, n int, program string) {
	t.Helper()
	for range n {
		command := exec.Command(program)
		group.Enter(command)
		if err := command.Run(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTopJSON has sidecar top print while a known load runs: the last total is exact, and so is the sum of what the rates say.
func TestTopJSON(t *testing.T) {
	n := 20 + rand.IntN(80)
	t.Logf("%d executions", n)
	command := exec.Command(sidecarBinary, "top", "--interval", "200ms", "--output", "json")
	command.Env = append(os.Environ(), "OTEL_METRICS_EXPORTER=none", "OTEL_EXPORTER_OTLP_ENDPOINT=http://192.0.2.1:4317",
		"OTEL_METRIC_EXPORT_TIMEOUT=1") // of no effect
	top := harness.Start(t, command)
	harness.Eventually(t, "a first line is printed", func() bool { return len(topReadings(t, top.Output.String())) > 0 })
	group, id := container(t)
	runIn(t, group, n, "/bin/true")

	var total, added, lifetimes float64
	harness.Eventually(t, "all executions are told", func() bool {
		total, added = 0, 0
		for _, r := range topReadings(t, top.Output.String()) {
			for _, s := range r.Series {
				switch {
				case s.Attributes["container.id"] != id:
				case s.Metric == "linux.process.executions" && s.Attributes["process.executable.name"] == "true":
					total = s.Total
					added += *s.Rate * r.Seconds
				case s.Metric == "linux.process.lifetime":
					lifetimes = s.Total
					if s.Quantiles["p99"] < s.Quantiles["p50"] || s.Quantiles["p50"] <= 0 || *s.Sum <= 0 {
						t.Errorf("a lifetime is told as %+v", s)
					}
				}
			}
		}
		return total >= float64(n) && lifetimes >= float64(n)
	})
	if total != float64(n) || lifetimes != float64(n) || math.Abs(added-float64(n)) > 0.001 {
		t.Errorf("%d executions: a total of %v, %v by the rates, %v lifetimes", n, total, added, lifetimes)
	}
	if code, took := top.Stop(t); code != 0 || took > 5*time.Second {
		t.Errorf("ended with %d after %v", code, took)
	}
}

// TestTopOnce prints once, in each format, without an escape sequence, and ends.
func TestTopOnce(t *testing.T) {
	for format, check := range map[string]func([]byte) error{
		"": func(output []byte) error { // text
			if !bytes.Contains(output, []byte("\nlinux.scheduler.context_switches ")) {
				return fmt.Errorf("no context switch in %s", output)
			}
			return nil
		},
		"json": func(output []byte) error { return json.Unmarshal(output, &topReading{}) },
		"csv": func(output []byte) error {
			rows, err := csv.NewReader(bytes.NewReader(output)).ReadAll()
			if err == nil && len(rows) < 10 {
				err = fmt.Errorf("%d rows", len(rows))
			}
			return err
		},
	} {
		t.Run(format, func(t *testing.T) {
			arguments := []string{"top", "--once"}
			if format != "" {
				arguments = append(arguments, "--output", format)
			}
			command := exec.Command(sidecarBinary, arguments...)
			var stderr bytes.Buffer
			command.Stderr = &stderr
			output, err := command.Output()
			if err != nil || stderr.Len() > 0 {
				t.Fatalf("%v: %s", err, &stderr)
			}
			if bytes.ContainsRune(output, '\x1b') {
				t.Error("an escape sequence in a pipe")
			}
			if err := check(output); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTopOnceInterval prints a reading of a whole interval.
func TestTopOnceInterval(t *testing.T) {
	for _, seconds := range []float64{0.3, 1.5, 2.5} {
		command := exec.Command(sidecarBinary, "top", "--once", "--output", "json", "--interval", fmt.Sprintf("%vs", seconds))
		output, err := command.Output()
		if err != nil {
			t.Fatal(err)
		}
		if all := topReadings(t, string(output)); len(all) != 1 || math.Abs(all[0].Seconds-seconds) > 0.25 {
			t.Errorf("with an interval of %v s, %d readings: %s", seconds, len(all), output[:min(len(output), 200)])
		}
	}
}

// TestTopScreen finds a known load in the live view, by its container and then by its executable, and what the probes cost.
func TestTopScreen(t *testing.T) {
	n := 20 + rand.IntN(80)
	t.Logf("%d executions", n)
	group, id := container(t)
	term := terminal.New(t, 120, 40, "default", "GRPC_GO_LOG_SEVERITY_LEVEL=info "+sidecarBinary+" top --interval 200ms")
	sees := func(what string, fields ...string) {
		t.Helper()
		harness.Eventually(t, fmt.Sprintf("the screen has %q", what), func() bool {
			if code, ended := term.Ended(); ended {
				t.Fatalf("it ended with %s:\n%s", code, term.Screen())
			}
			return slices.ContainsFunc(strings.Split(term.Screen(), "\n"), func(line string) bool {
				for _, field := range fields {
					if !slices.Contains(strings.Fields(line), field) {
						return false
					}
				}
				return true
			})
		})
	}
	sees("a probe", "scheduler")
	if screen := term.Screen(); strings.Contains(screen, "INFO") {
		t.Errorf("something was written over the screen:\n%s", screen)
	}
	runIn(t, group, n, "/bin/true")
	term.Press("2", "t")
	sees("the container", "container", id[:12])
	term.Press("/", id[:12], "Enter")
	sees("the filter", "/"+id[:12])
	term.Press("Enter")
	sees("all executions", "true", "process.executions", fmt.Sprint(n))
	term.Press("4")
	harness.Eventually(t, "the screen has what an event costs", func() bool {
		return strings.Contains(term.Screen(), "CPU is of one CPU") && strings.Contains(term.Screen(), "ns")
	})
	if err := exec.Command("kill", term.PID()).Run(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "it ends with 0", func() bool { code, ended := term.Ended(); return ended && code == "0" })
}

// TestTopWithoutKeys prints to a terminal that is not where its input comes from.
func TestTopWithoutKeys(t *testing.T) {
	term := terminal.New(t, 120, 40, "default", "sh -c 'exec "+sidecarBinary+" top --interval 200ms </dev/null'")
	harness.Eventually(t, "a reading is printed", func() bool { return strings.Contains(term.Screen(), "sidecar.series.limit") })
	term.Press("C-c")
	harness.Eventually(t, "it ends", func() bool { _, ended := term.Ended(); return ended })
	if code, _ := term.Ended(); code != "0" {
		t.Errorf("it ended with %s:\n%s", code, term.Screen())
	}
}

// TestTopHangup ends when the terminal goes, unless nohup(1) says that it should stay.
func TestTopHangup(t *testing.T) {
	for _, arguments := range [][]string{{sidecarBinary}, {"nohup", sidecarBinary}} {
		top := harness.Start(t, exec.Command(arguments[0], append(arguments[1:], "top", "--interval", "100ms", "--output", "csv")...))
		harness.Eventually(t, "it prints", func() bool { return top.Output.String() != "" })
		if err := top.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if len(arguments) > 1 {
			before := len(top.Output.String())
			harness.Eventually(t, "it prints on", func() bool { return len(top.Output.String()) > before+10_000 })
			top.Stop(t)
		}
		select {
		case <-top.Done:
		case <-time.After(10 * time.Second):
			t.Errorf("%v: it runs on", arguments)
		}
	}
}

// TestTopUnprivileged says at once what is missing.
func TestTopUnprivileged(t *testing.T) {
	command := exec.Command(sidecarBinary, "top", "--once")
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	output, err := command.CombinedOutput()
	if err == nil || !strings.Contains(string(output), "CAP_BPF and CAP_PERFMON") {
		t.Errorf("%v: %s", err, output)
	}
}

// startOnTerminal runs sidecar top on a new terminal, and returns the end that a terminal emulator has.
func startOnTerminal(t *testing.T) (top *harness.Process, emulator *os.File) {
	t.Helper()
	emulator, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { emulator.Close() })
	fd := int(emulator.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 60, Col: 200}); err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	command := exec.Command(sidecarBinary, "top", "--interval", "100ms")
	command.Env = append(os.Environ(), "TERM=xterm-256color")
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	command.Stdin, command.Stdout, command.Stderr = terminal, terminal, terminal
	return harness.Begin(t, command), emulator
}

// TestTopStuckTerminal has a terminal that takes nothing more: nothing piles up meanwhile, and signals end it.
func TestTopStuckTerminal(t *testing.T) {
	top, emulator := startOnTerminal(t)
	if _, err := io.ReadFull(emulator, make([]byte, 20_000)); err != nil { // some screens
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // and then no more
	before := residentSet(t, top.Process.Pid)
	time.Sleep(3 * time.Second)
	after := residentSet(t, top.Process.Pid)
	t.Logf("resident set: %d KiB, then %d KiB", before, after)
	if after > before+3<<10 {
		t.Errorf("the resident set grew from %d to %d KiB", before, after)
	}
	for range 2 {
		if err := top.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-top.Done:
			return
		case <-time.After(time.Second):
		}
	}
	harness.Eventually(t, "a second signal ends it", func() bool {
		select {
		case <-top.Done:
			return true
		default:
			return false
		}
	})
}

// TestTopTerminalGone takes the terminal away, as a connection that breaks does.
func TestTopTerminalGone(t *testing.T) {
	top, emulator := startOnTerminal(t)
	if _, err := io.ReadFull(emulator, make([]byte, 5_000)); err != nil {
		t.Fatal(err)
	}
	emulator.Close()
	select {
	case <-top.Done:
	case <-time.After(10 * time.Second):
		t.Error("it runs on")
	}
}
