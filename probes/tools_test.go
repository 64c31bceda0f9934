//go:build !matrix

package probes

import (
	"bufio"
	"context"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tool is another program that measures the same, and what it prints.
type tool struct {
	*exec.Cmd
	*bufio.Scanner
}

// startTool starts a program and returns when it has printed a line that begins so: it is attached. It runs for a minute at most,
// so that Scan ends even if it would not.
func startTool(t testing.TB, ready string, words ...string) tool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	command := exec.CommandContext(ctx, "stdbuf", append([]string{"-oL"}, words...)...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), ready) {
			return tool{command, lines}
		}
	}
	t.Fatalf("%s does not begin: %v (apt-get install libbpf-tools bpftrace)", words[0], lines.Err())
	return tool{}
}

// interrupt asks the program to end, and print what it has.
func (p tool) interrupt(t testing.TB) {
	t.Helper()
	if err := p.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
}

// finish returns when it has ended, after all that it printed was read.
func (p tool) finish(t testing.TB) {
	t.Helper()
	if err := errors.Join(p.Scanner.Err(), p.Wait()); err != nil {
		t.Fatal(err)
	}
}
