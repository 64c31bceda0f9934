package e2e

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
)

// TestKilled kills the sidecar at random moments, a hundred times in the long run, under a load that never stops, and checks that
// no execution is lost or counted twice: what is pinned counts on, and all are one series.
func TestKilled(t *testing.T) {
	kills := 15
	if long {
		kills = 100
	}
	mount := t.TempDir()
	if err := unix.Mount("bpf", mount, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	c := startCollector(t)
	pins := filepath.Join(mount, "sidecar")
	configuration := allAttributes + "export: {interval: 300ms, endpoint: 'http://" + c.Endpoint + "'}\nstate: {pin: " + pins + "}\n"
	path := filepath.Join(t.TempDir(), "sidecar.yaml")
	if err := os.WriteFile(path, []byte(configuration), 0o644); err != nil {
		t.Fatal(err)
	}
	sidecar := startSidecar(t, configuration)
	kill := func(p *harness.Process) {
		if err := p.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		<-p.Done
	}

	program := filepath.Join(t.TempDir(), "killed-beside")
	copyFile(t, "/bin/true", program)
	var executed atomic.Int64
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := exec.Command(program).Run(); err != nil {
				stopped <- err
				return
			}
			executed.Add(1)
		}
	}()
	for range kills {
		time.Sleep(time.Duration(rand.IntN(700)) * time.Millisecond)
		kill(sidecar)
		starting := harness.Begin(t, exec.Command(sidecarBinary, "run", "--config", path))
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		kill(starting)
		sidecar = startSidecar(t, configuration)
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if code, _ := sidecar.Stop(t); code != 0 {
		t.Errorf("SIGTERM: exit code %d", code)
	}
	const metric, label = "linux.process.executions", "process.executable.name=killed-beside"
	counters, _ := c.Received(t)
	series := 0
	for key := range counters {
		if strings.HasPrefix(key, metric+"{") && strings.Contains(key, label) {
			series++
		}
	}
	t.Logf("%d kills, %d executions", kills, executed.Load())
	if got := counters.Sum(metric, label); got != executed.Load() || series != 1 {
		t.Errorf("%d executions in %d series, want %d in one", got, series, executed.Load())
	}

	detach := exec.Command(sidecarBinary, "detach")
	detach.Env = append(os.Environ(), "SIDECAR_STATE_PIN="+pins)
	if output, err := detach.CombinedOutput(); err != nil {
		t.Errorf("detach: %v\n%s", err, output)
	}
	if _, err := os.Stat(pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("detached, and %s is there: %v", pins, err)
	}
}
