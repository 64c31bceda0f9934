package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
)

func TestCollectorThatComesUpLater(t *testing.T) {
	c := newCollector(t)
	sidecar := startSidecar(t, allAttributes+"export: {interval: 500ms}\n", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.Endpoint)
	l := newLoad(t, "")
	program := filepath.Join(t.TempDir(), "known-later")
	copyFile(t, "/bin/true", program)
	run := func() {
		for range 20 + rand.IntN(50) {
			l.run(exec.Command(program), "known-later")
		}
	}
	run()
	told := func(what string) int { return strings.Count(sidecar.Output.String(), what) }
	harness.Eventually(t, "the log says that the export fails", func() bool { return told("export failing") > 0 })
	run()
	c.Start(t)
	l.check(c)
	run()
	l.check(c)
	if failing, recovered := told("export failing"), told("export recovered"); failing != 1 || recovered != 1 {
		t.Errorf("%d lines say that the export fails and %d that it recovered, want 1 each", failing, recovered)
	}
}

func TestNoCollector(t *testing.T) {
	c := newCollector(t) // is never started
	sidecar := startSidecar(t, "export: {interval: 200ms}\n", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.Endpoint)
	time.Sleep(3 * time.Second)
	before := residentSet(t, sidecar.Process.Pid)
	time.Sleep(10 * time.Second)
	after := residentSet(t, sidecar.Process.Pid)
	t.Logf("resident set: %d KiB, then %d KiB", before, after)
	if after > before+2<<10 { // 0.2 MiB were measured
		t.Errorf("the resident set grew from %d to %d KiB without a Collector", before, after)
	}
	if code, took := sidecar.Stop(t); code != 0 || took > 5*time.Second {
		t.Errorf("SIGTERM: exit code %d after %v, want 0 in under 5 s", code, took)
	}
}

// residentSet is a process's, in KiB.
func residentSet(t testing.TB, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const nobody = 65534

// brief is a command of the sidecar that is to end by itself. One that runs, which it should not, is ended.
func brief(arguments ...string) (*exec.Cmd, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	return exec.CommandContext(ctx, sidecarBinary, arguments...), cancel
}

// TestLeastPrivilege runs the sidecar as nobody, first with the two capabilities that it needs and then with none.
func TestLeastPrivilege(t *testing.T) {
	c := startCollector(t)
	command := exec.Command(sidecarBinary, "run", "--strict")
	command.Env = append(os.Environ(), "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.Endpoint, "OTEL_METRIC_EXPORT_INTERVAL=500")
	command.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
		AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_PERFMON},
	}
	sidecar := harness.Start(t, command)
	harness.Eventually(t, "counts arrive", func() bool {
		counters, _ := c.Received(t)
		return counters.Sum("linux.scheduler.context_switches") > 0
	})
	if code, _ := sidecar.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}

	for _, verb := range []string{"run", "check"} {
		plain, cancel := brief(verb)
		defer cancel()
		plain.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		output, _ := plain.CombinedOutput()
		if code := plain.ProcessState.ExitCode(); code != 1 {
			t.Errorf("%s as a plain user: exit code %d, want 1", verb, code)
		}
		for _, capability := range []string{"CAP_BPF", "CAP_PERFMON"} {
			if !strings.Contains(string(output), capability) {
				t.Errorf("%s as a plain user does not name %s:\n%s", verb, capability, output)
			}
		}
	}
}

func TestSeriesLimit(t *testing.T) {
	c := startCollector(t)
	sidecar := startSidecar(t, allAttributes+"series_limit: 64\nexport: {interval: 500ms}\n",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.Endpoint)
	files := t.TempDir()
	for i := range 1000 {
		program := filepath.Join(files, fmt.Sprintf("program-%03d", i))
		if err := os.Link("/bin/true", program); err != nil {
			copyFile(t, "/bin/true", program)
		}
		if err := exec.Command(program).Run(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(program); err != nil {
			t.Fatal(err)
		}
	}
	var counters harness.Totals
	harness.Eventually(t, "1,000 executions arrive, by name or in the overflow series", func() bool {
		counters, _ = c.Received(t)
		named := 0
		for key, p := range counters {
			if strings.Contains(key, "process.executable.name=program-") {
				named++
				if p.GetAsInt() != 1 {
					t.Errorf("%s: %d, want 1", key, p.GetAsInt())
				}
			}
		}
		if named > 64 {
			t.Fatalf("%d series, the limit being 64", named)
		}
		// Other programs of this machine overflow as well.
		return named > 0 && int64(named)+counters.Sum("linux.process.executions", "otel.metric.overflow=true") >= 1000
	})
	if counters.Sum("sidecar.series.overflow") == 0 {
		t.Error("the self-metrics do not tell of the overflow")
	}
	if !strings.Contains(sidecar.Output.String(), "overflow") {
		t.Error("the log does not tell of the overflow")
	}
}

// TestCommands holds the exit codes and the advice of the command line.
func TestCommands(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("series_limit: many\nprobe: {}\nexport: {endpoint: \"127.0.0.1:4317\"}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		arguments   string
		environment string
		code        int
		says        []string
	}{
		{"version", "", 0, []string{"sidecar e2e "}},
		{"config default", "", 0, []string{"# series_limit: 2000"}},
		{"config schema", "", 0, []string{`"series_limit"`}},
		{"config validate", "", 0, []string{"valid"}},
		{"config validate " + bad, "", 2, []string{"bad.yaml:1:15", "bad.yaml:2:1", "bad.yaml:3:20", "http://"}},
		{"run --config " + bad, "", 2, []string{"bad.yaml:1:15"}},
		{"run --config /nonexistent.yaml", "", 2, []string{"/nonexistent.yaml"}},
		{"run", "OTEL_EXPORTER_OTLP_ENDPOINT=localhost:4317", 2, []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317"}},
		{"run", "OTEL_METRICS_EXPORTER=prometheus", 2, []string{"OTEL_METRICS_EXPORTER"}},
		{"run", "SIDECAR_MEMORY_LIMIT=1KiB", 2, []string{"memory_limit"}},
		{"walk", "", 2, []string{"walk", "--help"}},
		{"run --fast", "", 2, []string{"--fast"}},
		{"probes --output xml", "", 2, []string{"json"}},
		{"probes", "", 0, []string{"process", "scheduler", "supported"}},
		{"check", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9", 0, []string{"CAP_BPF", "endpoint TCP", "OTEL_EXPORTER_OTLP_ENDPOINT"}},
		{"check --output json", "", 0, []string{`"check": "kernel"`}},
	} {
		t.Run(test.arguments+" "+test.environment, func(t *testing.T) {
			command, cancel := brief(strings.Fields(test.arguments)...)
			defer cancel()
			command.Env = append(os.Environ(), test.environment)
			output, _ := command.CombinedOutput()
			if code := command.ProcessState.ExitCode(); code != test.code {
				t.Errorf("exit code %d, want %d:\n%s", code, test.code, output)
			}
			for _, says := range test.says {
				if !strings.Contains(string(output), says) {
					t.Errorf("does not say %q:\n%s", says, output)
				}
			}
		})
	}
}

// TestSafe runs without any program loaded.
func TestSafe(t *testing.T) {
	c := startCollector(t)
	command := exec.Command(sidecarBinary, "run", "--safe")
	command.Env = append(os.Environ(), "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.Endpoint, "OTEL_METRIC_EXPORT_INTERVAL=500")
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	harness.Start(t, command)
	harness.Eventually(t, "self-metrics arrive", func() bool {
		content, err := os.ReadFile(c.File)
		return err == nil && strings.Contains(string(content), "sidecar.build.info")
	})
}

// TestConsole looks at the table that a terminal gets.
func TestConsole(t *testing.T) {
	command := exec.Command(sidecarBinary, "run")
	command.Env = append(os.Environ(), "OTEL_METRICS_EXPORTER=console", "OTEL_METRIC_EXPORT_INTERVAL=500")
	sidecar := harness.Start(t, command)
	harness.Eventually(t, "a table is printed", func() bool {
		return strings.Contains(sidecar.Output.String(), "linux.scheduler.context_switches")
	})
	if strings.Contains(sidecar.Output.String(), "\x1b") {
		t.Error("escape sequences in a pipe")
	}
}
