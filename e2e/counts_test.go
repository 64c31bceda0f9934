package e2e

import (
	"errors"
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

	"github.com/ebpf-sidecar/sidecar/internal/harness"
	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

const allAttributes = "attributes: [container.id, k8s.pod.uid, systemd.unit, process.linux.cgroup, process.executable.name]\n"

// load runs known programs in a cgroup of its own and keeps count of what the sidecar must have seen.
type load struct {
	t        testing.TB
	group    *kerneltest.Cgroup
	expected map[string]int64 // by metric and labels, as in Totals.Sum
}

func newLoad(t testing.TB, suffix string) *load {
	return &load{t, kerneltest.NewCgroup(t, suffix), map[string]int64{}}
}

// expect expects n events more, and no others of that metric: its total in the cgroup is expected as well.
func (l *load) expect(metric string, n int64, labels ...string) {
	l.expected[metric] += n
	if len(labels) > 0 {
		l.expected[metric+" "+strings.Join(labels, " ")] += n
	}
}

// run runs a command to its end in the load's cgroup. It must execute one program, that name.
func (l *load) run(command *exec.Cmd, name string) {
	l.t.Helper()
	l.start(command)
	l.wait(command, name)
}

func (l *load) start(command *exec.Cmd) {
	l.t.Helper()
	l.group.Enter(command)
	if err := command.Start(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *load) wait(command *exec.Cmd, name string) {
	_ = command.Wait() // how it ended is seen below
	l.expect("system.process.created", 1)
	l.expect("linux.process.executions", 1, "process.executable.name="+name)
	status := command.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		l.expect("linux.process.exits", 1, "linux.signal.name="+signalNames[status.Signal()])
	} else {
		l.expect("linux.process.exits", 1, "process.exit.code="+strconv.Itoa(status.ExitStatus()))
	}
}

// fail runs a command that there is no program for.
func (l *load) fail(command *exec.Cmd) {
	l.t.Helper()
	l.group.Enter(command)
	if err := command.Run(); err == nil {
		l.t.Fatal("a program that is not there ran")
	}
	l.expect("system.process.created", 1)
	l.expect("linux.process.exits", 1, "process.exit.code=253") // of Go's child, where exec fails (forkAndExecInChild)
}

var signalNames = map[syscall.Signal]string{
	syscall.SIGKILL: "SIGKILL", syscall.SIGTERM: "SIGTERM", syscall.SIGSEGV: "SIGSEGV", syscall.SIGUSR1: "SIGUSR1",
}

// differences lists where the Collector has something else than what is expected.
func (l *load) differences(c *harness.Collector) []string {
	counters, _ := c.Received(l.t)
	var wrong []string
	for key, want := range l.expected {
		metric, labels, _ := strings.Cut(key, " ")
		if got := counters.Sum(metric, append(strings.Fields(labels), l.label())...); got != want {
			wrong = append(wrong, fmt.Sprintf("%s: %d, want %d", key, got, want))
		}
	}
	return wrong
}

// label is what all series of the load have.
func (l *load) label() string { return "process.linux.cgroup=" + l.group.Name }

// check waits until the Collector has what is expected.
func (l *load) check(c *harness.Collector) {
	l.t.Helper()
	var wrong []string
	for deadline := time.Now().Add(harness.Patience); ; time.Sleep(200 * time.Millisecond) {
		if wrong = l.differences(c); len(wrong) == 0 {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("in the Collector's file:\n%s", strings.Join(wrong, "\n"))
		}
	}
}

func TestCountsReachTheCollector(t *testing.T) {
	c := startCollector(t)
	sidecar := startSidecar(t, allAttributes+"export: {interval: 500ms}\n", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.Endpoint)
	l := newLoad(t, ".service")
	files := t.TempDir()

	// Under a name of its own, a number of times drawn at random.
	name := fmt.Sprintf("known-%d", rand.Uint32())
	program := filepath.Join(files, name)
	copyFile(t, "/bin/true", program)
	n := 50 + rand.IntN(200)
	t.Logf("%d executions of %s", n, name)
	for range n {
		l.run(exec.Command(program), name)
	}

	shell := filepath.Join(files, "known-shell")
	copyFile(t, "/bin/sh", shell)
	for code := range 5 {
		l.run(exec.Command(shell, "-c", fmt.Sprintf("exit %d", code*50)), "known-shell")
	}
	for _, signal := range []string{"KILL", "TERM", "SEGV", "USR1"} {
		command := exec.Command(shell, "-c", "kill -"+signal+" $$")
		command.Dir = files // for a core dump
		l.run(command, "known-shell")
	}
	script := filepath.Join(files, "known-script")
	if err := os.WriteFile(script, []byte("#!"+shell+"\nexit 9\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.run(exec.Command(script), "known-shell")
	l.fail(exec.Command(filepath.Join(files, "missing")))

	// A process whose first thread ends first, one that another thread ends, and one without a file.
	self := filepath.Join(files, "known-helper")
	copyFile(t, "/proc/self/exe", self)
	helper := func(words string) *exec.Cmd {
		command := exec.Command(self)
		command.Env = append(os.Environ(), kerneltest.HelperVariable+"="+words)
		return command
	}
	l.run(helper("leader 41"), "known-helper")
	l.run(helper("group 42"), "known-helper")
	l.run(helper("memfd"), "known-helper")
	l.expect("linux.process.executions", 1, "process.executable.name=memfd:known")

	// Threads, in a cgroup where nothing else has any.
	threaded := newLoad(t, "")
	for range 3 {
		threaded.runThreads(helper(fmt.Sprint("threads ", 1+rand.IntN(20))), "known-helper")
	}

	// Names that a process chose to do harm.
	for hostile, clean := range map[string]string{
		"bad-\xff\xfe":        `bad-\xff\xfe`,
		"line\nfeed":          `line\nfeed`,
		"\x1b[2J\x1b]0;owned": `\x1b[2J\x1b]0;owned`,
	} {
		program := filepath.Join(files, hostile)
		copyFile(t, "/bin/true", program)
		l.run(exec.Command(program), clean)
	}

	l.check(c)
	threaded.check(c)
	l.run(exec.Command(program), name) // for the last export
	if code, took := sidecar.Stop(t); code != 0 || took > 5*time.Second {
		t.Errorf("SIGTERM: exit code %d after %v", code, took)
	}
	c.Stop(t) // it writes all that it has
	for _, wrong := range append(l.differences(c), threaded.differences(c)...) {
		t.Errorf("in the Collector's file at the end: %s", wrong)
	}

	counters, histograms := c.Received(t)
	lifetimes := uint64(0)
	for key, p := range histograms {
		if strings.HasPrefix(key, "linux.process.lifetime{") && harness.HasAll(p.Attributes, []string{l.label()}) {
			lifetimes += p.Count
		}
	}
	if exits := counters.Sum("linux.process.exits", l.label()); int64(lifetimes) != exits {
		t.Errorf("%d lifetimes of %d processes that exited", lifetimes, exits)
	}
	if unit := counters.Sum("system.process.created", "systemd.unit="+filepath.Base(l.group.Name)); unit == 0 {
		t.Error("no series has the systemd unit")
	}
}

// runThreads runs a helper that has threads, which are expected as well.
func (l *load) runThreads(command *exec.Cmd, name string) {
	l.t.Helper()
	input, inputErr := command.StdinPipe()
	output, outputErr := command.StdoutPipe()
	if err := errors.Join(inputErr, outputErr); err != nil {
		l.t.Fatal(err)
	}
	l.start(command)
	if _, err := output.Read(make([]byte, 1)); err != nil { // it says when it is ready
		l.t.Fatal(err)
	}
	before, now := -1, 0
	for before != now { // until the Go runtime starts no more; those that there are stay
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", command.Process.Pid))
		if err != nil {
			l.t.Fatal(err)
		}
		before, now = now, len(tasks)
		time.Sleep(50 * time.Millisecond)
	}
	l.t.Logf("%d threads", now-1)
	l.expect("linux.thread.created", int64(now-1))
	input.Close()
	l.wait(command, name)
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		t.Fatal(err)
	}
}
