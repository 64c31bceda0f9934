package e2e

import (
	"bytes"
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
)

const allAttributes = "attributes: [container.id, k8s.pod.uid, systemd.unit, process.linux.cgroup, process.executable.name]\n"

// load runs known programs in a cgroup and keeps count of what the sidecar must have seen.
type load struct {
	t         testing.TB
	directory string
	cgroup    string
	expected  map[string]int64 // by metric and labels, as in totals.sum
}

func newLoad(t testing.TB, name string) *load {
	l := &load{t: t, expected: map[string]int64{}}
	l.directory, l.cgroup = newCgroup(t, name)
	return l
}

func (l *load) expect(metric string, n int64, labels ...string) {
	labels = append(labels, "process.linux.cgroup="+l.cgroup)
	l.expected[metric+" "+strings.Join(labels, " ")] += n
}

// run runs a command to its end in the load's cgroup. It must execute one program, that name.
func (l *load) run(command *exec.Cmd, name string) []byte {
	l.t.Helper()
	directory := inCgroup(l.t, command, l.directory)
	defer directory.Close()
	output, err := command.Output()
	if command.ProcessState == nil {
		l.t.Fatal(err)
	}
	l.expect("system.process.created", 1)
	l.expect("linux.process.executions", 1, "process.executable.name="+name)
	status := command.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		l.expect("linux.process.exits", 1, "linux.signal.name="+signalNames[status.Signal()])
	} else {
		l.expect("linux.process.exits", 1, "process.exit.code="+strconv.Itoa(status.ExitStatus()))
	}
	return output
}

var signalNames = map[syscall.Signal]string{
	syscall.SIGKILL: "SIGKILL", syscall.SIGTERM: "SIGTERM", syscall.SIGSEGV: "SIGSEGV", syscall.SIGUSR1: "SIGUSR1",
}

// differences lists where the Collector has something else than what is expected.
func (l *load) differences(c *collector) []string {
	counters, _ := c.received(l.t)
	var wrong []string
	for key, want := range l.expected {
		metric, labels, _ := strings.Cut(key, " ")
		if got := counters.sum(metric, strings.Fields(labels)...); got != want {
			wrong = append(wrong, fmt.Sprintf("%s: %d, want %d", key, got, want))
		}
	}
	return wrong
}

// check waits for the expected totals, and then for nothing more to come.
func (l *load) check(c *collector, within time.Duration) {
	l.t.Helper()
	var wrong []string
	for deadline := time.Now().Add(within); ; time.Sleep(200 * time.Millisecond) {
		if wrong = l.differences(c); len(wrong) == 0 {
			break
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("in the Collector's file:\n%s", strings.Join(wrong, "\n"))
		}
	}
}

func TestCountsReachTheCollector(t *testing.T) {
	c := startCollector(t)
	sidecar := startSidecar(t, allAttributes+"export: {interval: 500ms}\n", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.endpoint)
	l := newLoad(t, fmt.Sprintf("counts-%d.service", os.Getpid()))
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
		l.run(exec.Command(shell, "-c", "kill -"+signal+" $$"), "known-shell")
	}
	script := filepath.Join(files, "known-script")
	if err := os.WriteFile(script, []byte("#!"+shell+"\nexit 9\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.run(exec.Command(script), "known-shell")
	if err := exec.Command(filepath.Join(files, "missing")).Run(); err == nil {
		t.Fatal("a program that is not there ran")
	}

	// A process whose first thread ends first, one that another thread ends, and one without a file.
	self := filepath.Join(files, "known-helper")
	copyExecutable(t, self)
	helper := func(mode string) *exec.Cmd {
		command := exec.Command(self)
		command.Env = append(os.Environ(), helperVariable+"="+mode)
		return command
	}
	l.run(helper("leader"), "known-helper")
	l.run(helper("group"), "known-helper")
	l.run(helper("memfd"), "known-helper")
	l.expect("linux.process.executions", 1, "process.executable.name=memfd:known")

	// Threads, in a cgroup where nothing else has any.
	threaded := newLoad(t, fmt.Sprintf("threads-%d", os.Getpid()))
	for range 3 {
		output := threaded.run(helper("threads"), "known-helper")
		threads, err := strconv.ParseInt(string(bytes.TrimSpace(output)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d threads", threads)
		threaded.expect("linux.thread.created", threads)
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

	l.check(c, 15*time.Second)
	threaded.check(c, time.Second)
	if code, took := sidecar.stop(t); code != 0 || took > 5*time.Second {
		t.Errorf("SIGTERM: exit code %d after %v", code, took)
	}
	l.check(c, time.Second)

	counters, histograms := c.received(t)
	lifetimes := uint64(0)
	for key, p := range histograms {
		if strings.HasPrefix(key, "linux.process.lifetime{") && hasAll(p.Attributes, []string{"process.linux.cgroup=" + l.cgroup}) {
			lifetimes += p.Count
		}
	}
	if exits := counters.sum("linux.process.exits", "process.linux.cgroup="+l.cgroup); int64(lifetimes) != exits {
		t.Errorf("%d lifetimes of %d processes that exited", lifetimes, exits)
	}
	if unit := counters.sum("system.process.created", "systemd.unit="+filepath.Base(l.cgroup)); unit == 0 {
		t.Error("no series has the systemd unit")
	}
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
