// Package harness is what the end-to-end tests share: programs that run beside a test, and a real Collector.
package harness

import (
	"bytes"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long a test waits for what is to come; it goes on at once when it came.
var Patience = time.Minute

// Process is a program under test.
type Process struct {
	*exec.Cmd
	Output *Buffer       // nil unless Start started it
	Done   chan struct{} // closed when it has ended
}

// Start starts a program and keeps its output.
func Start(t testing.TB, command *exec.Cmd) *Process {
	t.Helper()
	output := &Buffer{}
	command.Stdout, command.Stderr = output, output
	p := Begin(t, command)
	p.Output = output
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("output of %s:\n%s", filepath.Base(command.Path), output)
		}
	})
	return p
}

// Begin starts a program, which goes with the test.
func Begin(t testing.TB, command *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Cmd: command, Done: make(chan struct{})}
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{}
	}
	command.SysProcAttr.Pdeathsig = syscall.SIGKILL // with this process: no thread of it ends before
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = command.Wait()
		close(p.Done)
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-p.Done
	})
	return p
}

// Stop sends SIGTERM and returns the exit code and how long the process took to end.
func (p *Process) Stop(t testing.TB) (code int, took time.Duration) {
	t.Helper()
	begin := time.Now()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done:
	case <-time.After(Patience):
		t.Fatalf("%s does not end", p.Path)
	}
	return p.ProcessState.ExitCode(), time.Since(begin)
}

// Listens waits until the program, which Start started, listens at an address.
func (p *Process) Listens(t testing.TB, address string) {
	t.Helper()
	Eventually(t, filepath.Base(p.Path)+" listens", func() bool {
		select {
		case <-p.Done:
			t.Fatalf("it ended:\n%s", p.Output)
		default:
		}
		connection, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		return connection.Close() == nil
	})
}

// Buffer is a bytes.Buffer for concurrent use.
type Buffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// Eventually fails the test unless the condition comes to hold.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !condition(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
	}
}
