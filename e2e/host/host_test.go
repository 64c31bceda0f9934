//go:build host

// Package host holds the tests of a machine with systemd and Docker, which ../guest boots and runs them in. What belongs to the
// machine is there to be changed: each test leaves it as it was.
package host

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
)

func TestMain(m *testing.M) {
	harness.Patience = 5 * time.Minute // an emulated machine is slow
	os.Exit(m.Run())
}

func TestSystemd(t *testing.T) {
	first, err := os.ReadFile("/proc/1/comm")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(first)); got != "systemd" {
		t.Fatalf("process 1 is %s, want systemd", got)
	}
	output, err := exec.Command("systemctl", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(output), "\n")
	t.Log(line)
}
