// Package e2e runs the sidecar as its users do: the built binary, on this kernel, against a real OpenTelemetry Collector.
package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// patience is how long a test waits for what is to come; it goes on at once when it came.
const patience = time.Minute

// sidecarBinary is the built command.
var sidecarBinary string

func TestMain(m *testing.M) {
	kerneltest.BeHelper(map[string]func([]string){"memfd": helpMemfd})
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests load BPF programs, which takes root (sudo make test)")
		return 1
	}
	clearEnvironment()
	if signal.Ignored(syscall.SIGHUP) { // as nohup(1) has it, and what is executed would ignore it too
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	directory, err := os.MkdirTemp("", "sidecar-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(directory)
	sidecarBinary = filepath.Join(directory, "sidecar")
	build := exec.Command("make", "-C", "..", "build", "BINARY="+sidecarBinary, "VERSION=e2e", "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the sidecar: %v\n%s", err, output)
		return 1
	}
	// Everything below it is also for the user nobody.
	if err := os.Chmod(directory, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// clearEnvironment takes away what would configure the sidecar, and leaves what is for the tests.
func clearEnvironment() {
	configures := regexp.MustCompile(`^(OTEL|SIDECAR|K8S)_`)
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if configures.MatchString(name) && name != "SIDECAR_LONG" {
			os.Unsetenv(name)
		}
	}
}

// process is a program under test.
type process struct {
	*exec.Cmd
	output *lockedBuffer
	done   chan struct{}
}

// start starts a program and keeps its output.
func start(t testing.TB, command *exec.Cmd) *process {
	t.Helper()
	output := &lockedBuffer{}
	command.Stdout, command.Stderr = output, output
	p := begin(t, command)
	p.output = output
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("output of %s:\n%s", filepath.Base(command.Path), output)
		}
	})
	return p
}

// begin starts a program, which goes with the test.
func begin(t testing.TB, command *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: command, done: make(chan struct{})}
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{}
	}
	command.SysProcAttr.Pdeathsig = syscall.SIGKILL // with this process: no thread of it ends before
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = command.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-p.done
	})
	return p
}

// stop sends SIGTERM and returns the exit code and how long the process took to end.
func (p *process) stop(t testing.TB) (code int, took time.Duration) {
	t.Helper()
	begin := time.Now()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%s does not end", p.Path)
	}
	return p.ProcessState.ExitCode(), time.Since(begin)
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// eventually fails the test unless the condition comes to hold.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// startSidecar runs the sidecar with a configuration and waits until its gate is open.
func startSidecar(t testing.TB, configuration string, environment ...string) *process {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(configuration), 0o644); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(sidecarBinary, "run", "--strict", "--config", path)
	command.Env = append(os.Environ(), environment...)
	p := start(t, command)
	eventually(t, "the sidecar runs", func() bool {
		select {
		case <-p.done:
			t.Fatalf("the sidecar ended:\n%s", p.output)
		default:
		}
		return strings.Contains(p.output.String(), "msg=running")
	})
	return p
}

// collector is a real Collector that writes what it receives to a file.
type collector struct {
	*process
	endpoint string
	file     string
}

var collectorBinary = sync.OnceValues(func() (string, error) {
	output, err := exec.Command("collector/build.sh").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("build the Collector: %w\n%s", err, exit.Stderr)
	}
	return strings.TrimSpace(string(output)), err
})

// newCollector prepares a Collector without starting it, so that its endpoint is known before. The address, one of the 16
// million of this host, is its own; a free port could be another program's by the time it starts.
func newCollector(t testing.TB) *collector {
	t.Helper()
	return &collector{
		endpoint: fmt.Sprintf("127.%d.%d.%d:4317", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254)),
		file:     filepath.Join(t.TempDir(), "metrics.jsonl"),
	}
}

func (c *collector) start(t testing.TB) {
	t.Helper()
	binary, err := collectorBinary()
	if err != nil {
		t.Fatal(err)
	}
	configuration := fmt.Sprintf(`
receivers: {otlp: {protocols: {grpc: {endpoint: "%s"}}}}
exporters: {file: {path: "%s", append: true, flush_interval: 100ms}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {metrics: {receivers: [otlp], exporters: [file]}}
`, c.endpoint, c.file)
	path := filepath.Join(t.TempDir(), "collector.yaml")
	if err := os.WriteFile(path, []byte(configuration), 0o644); err != nil {
		t.Fatal(err)
	}
	c.process = start(t, exec.Command(binary, "--config", path))
	eventually(t, "the Collector listens", func() bool {
		connection, err := net.Dial("tcp", c.endpoint)
		if err != nil {
			return false
		}
		return connection.Close() == nil
	})
}

// startCollector starts a Collector of the test's own.
func startCollector(t testing.TB) *collector {
	t.Helper()
	c := newCollector(t)
	c.start(t)
	return c
}

// totals is what a Collector has received: the last value of every series, a series being its metric, attributes and start.
type totals map[string]*metrics.NumberDataPoint

// received reads the Collector's file.
func (c *collector) received(t testing.TB) (counters totals, histograms map[string]*metrics.ExponentialHistogramDataPoint) {
	t.Helper()
	counters, histograms = totals{}, map[string]*metrics.ExponentialHistogramDataPoint{}
	file, err := os.Open(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		return counters, histograms
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewReaderSize(file, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil { // the end, or a line that is still being written
			return counters, histograms
		}
		var request collectormetrics.ExportMetricsServiceRequest
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(line, &request); err != nil {
			t.Fatalf("%s: %v", c.file, err)
		}
		for _, resource := range request.ResourceMetrics {
			for _, scope := range resource.ScopeMetrics {
				for _, m := range scope.Metrics {
					for _, p := range m.GetSum().GetDataPoints() {
						key := identity(m.Name, p.Attributes, p.StartTimeUnixNano)
						before := counters[key]
						if m.GetSum().IsMonotonic && before != nil && before.GetAsInt() > p.GetAsInt() {
							t.Errorf("%s fell from %d to %d", key, before.GetAsInt(), p.GetAsInt())
						}
						counters[key] = p
					}
					for _, p := range m.GetExponentialHistogram().GetDataPoints() {
						histograms[identity(m.Name, p.Attributes, p.StartTimeUnixNano)] = p
					}
				}
			}
		}
	}
}

func identity(metric string, attributes []*common.KeyValue, start uint64) string {
	return fmt.Sprintf("%s{%s}@%d", metric, strings.Join(labels(attributes), ","), start)
}

func labels(attributes []*common.KeyValue) []string {
	var all []string
	for _, a := range attributes {
		value := a.Value.GetStringValue()
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_IntValue:
			value = fmt.Sprint(v.IntValue)
		case *common.AnyValue_BoolValue:
			value = fmt.Sprint(v.BoolValue)
		}
		all = append(all, a.Key+"="+value)
	}
	slices.Sort(all)
	return all
}

// sum adds up the series of a metric that have all of the labels ("key=value").
func (all totals) sum(metric string, with ...string) (total int64) {
	for key, point := range all {
		if strings.HasPrefix(key, metric+"{") && hasAll(point.Attributes, with) {
			total += point.GetAsInt()
		}
	}
	return total
}

func hasAll(attributes []*common.KeyValue, with []string) bool {
	have := labels(attributes)
	for _, label := range with {
		if !slices.Contains(have, label) {
			return false
		}
	}
	return true
}
