// Package e2e runs the sidecar as its users do: the built binary, on this kernel, against a real OpenTelemetry Collector.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

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

// startSidecar runs the sidecar with a configuration and waits until its gate is open.
func startSidecar(t testing.TB, configuration string, environment ...string) *harness.Process {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(configuration), 0o644); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(sidecarBinary, "run", "--strict", "--config", path)
	command.Env = append(os.Environ(), environment...)
	p := harness.Start(t, command)
	harness.Eventually(t, "the sidecar runs", func() bool {
		select {
		case <-p.Done:
			t.Fatalf("the sidecar ended:\n%s", p.Output)
		default:
		}
		return strings.Contains(p.Output.String(), "msg=running")
	})
	return p
}

var collectorBinary = sync.OnceValues(func() (string, error) {
	output, err := exec.Command("collector/build.sh").Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("build the Collector: %w\n%s", err, exit.Stderr)
	}
	return strings.TrimSpace(string(output)), err
})

// newCollector prepares a Collector without starting it.
func newCollector(t testing.TB) *harness.Collector {
	t.Helper()
	binary, err := collectorBinary()
	if err != nil {
		t.Fatal(err)
	}
	return harness.NewCollector(t, binary)
}

// startCollector starts a Collector of the test's own.
func startCollector(t testing.TB) *harness.Collector {
	t.Helper()
	c := newCollector(t)
	c.Start(t)
	return c
}
