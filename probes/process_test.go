package probes

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

const (
	created    = "system.process.created"
	threadsNew = "linux.thread.created"
	executions = "linux.process.executions"
	exits      = "linux.process.exits"
	lifetime   = "linux.process.lifetime"
)

// runAll runs commands, some at a time, and returns what wait4 said of each.
func runAll(t testing.TB, commands []*exec.Cmd) []syscall.WaitStatus {
	t.Helper()
	statuses := make([]syscall.WaitStatus, len(commands))
	errs := make([]error, len(commands))
	var workers sync.WaitGroup
	const n = 4
	for worker := range n {
		workers.Go(func() {
			for i := worker; i < len(commands); i += n {
				statuses[i], errs[i] = wait4(commands[i])
			}
		})
	}
	workers.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return statuses
}

// hostileNames are names that a file may have: everything but NUL and slash, up to 255 bytes.
var hostileNames = []string{
	strings.Repeat("n", 255),
	strings.Repeat("n", 41), // from 40 on its slot is not remembered
	strings.Repeat("n", 40),
	strings.Repeat("n", 39),
	strings.Repeat("\xff", 255),
	"\xff\xfe",
	"\xff\xfd",
	"a\xc3",
	"line\nfeed",
	"line\rfeed",
	"\x1b[2J\x1b[31mred",
	"\x9b31m", // the same in one byte
	"\u202etxt.exe",
	"tab\tand \"quotes\"",
	" ",
	"-",
	"ünïcödé 漢字",
	"\x01\x02\x7f",
}

func TestProcessExecutions(t *testing.T) {
	set := open(t, loadOnly("process", ExecutableName, LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	programs := newExecutables(t)
	want := make(map[any]uint64)
	var commands []*exec.Cmd

	execute := func(path string, name any, n int) {
		for range n {
			command := helper(t, group, "exit", 0)
			command.Path = path
			commands = append(commands, command)
		}
		want[name] += uint64(n)
	}
	name := fmt.Sprintf("program-%x", rand.Uint64())
	execute(programs.named(t, name), name, random(t, "executions of one program", 20, scaled(300, 30)))

	// A script is its interpreter.
	interpreter := fmt.Sprintf("interpreter-%x", rand.Uint64())
	script := programs.folder + "/script"
	if err := os.WriteFile(script, []byte("#!"+programs.named(t, interpreter)+" argument\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	execute(script, interpreter, random(t, "executions of a script", 2, 9))

	memory, err := unix.MemfdCreate("in memory", 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(memory), "memfd")
	defer file.Close()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(self); err != nil {
		t.Fatal(err)
	}
	execute(fmt.Sprintf("/proc/self/fd/%d", memory), "memfd:in memory", random(t, "executions of a memfd", 2, 9))

	for _, name := range hostileNames {
		execute(programs.named(t, name), cleanName([]byte(name)), random(t, fmt.Sprintf("executions of %.20q", name), 1, scaled(3, 2)))
	}
	for i, status := range runAll(t, commands) {
		if status != 0 {
			t.Fatalf("%q: status %#x", commands[i].Path, status)
		}
	}

	// A process that executes itself again and again is one process.
	chains := random(t, "executions in one process", 2, 9)
	command := helper(t, group, "chain", chains, 7)
	command.Path = programs.named(t, "chain")
	if status := run(t, command); status.ExitStatus() != 7 {
		t.Fatalf("chain: status %#x", status)
	}
	want["chain"] = uint64(chains) + 1

	failures := failedExecutions(t, group, programs.folder)

	snapshot := read(t, set)
	equal(t, "executions", by(t, snapshot, executions, ExecutableName, in(group)), want)
	processes := uint64(len(commands) + 1 + failures)
	same(t, "processes created", total(t, snapshot, created, in(group)), processes)
	same(t, "exits", total(t, snapshot, exits, in(group)), processes)
	same(t, "overflow", overflow(t, snapshot, executions), 0)
	// The names that are hostile stay apart.
	if got := len(points(t, snapshot, executions, in(group))); got != len(hostileNames)+4 {
		t.Errorf("%d series, want %d", got, len(hostileNames)+4)
	}
}

// failedExecutions lets processes of a cgroup fail to execute something, and returns how many.
func failedExecutions(t *testing.T, group *kerneltest.Cgroup, folder string) (n int) {
	for name, content := range map[string]string{"not-there": "", "no-program": "what is this?", "no-interpreter": "#!/not/there\n"} {
		path := filepath.Join(folder, name)
		if content != "" {
			if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		command := helper(t, group, "exit", 0)
		command.Path = path
		if err := command.Run(); err == nil {
			t.Errorf("%s ran", name)
		}
		n++
	}
	return n
}

func TestProcessCreations(t *testing.T) {
	set := open(t, loadOnly("process", LinuxCgroup))
	forks, threaded := kerneltest.NewCgroup(t, ""), kerneltest.NewCgroup(t, "")

	n := random(t, "processes", 20, scaled(300, 40))
	mustRun(t, helper(t, forks, "forks", n))

	p := start(t, helper(t, threaded, "threads", random(t, "threads", 10, 200)))
	var snapshot *Snapshot
	var before, after []int
	for range 50 { // until the Go runtime starts no thread in the meantime; those that there are stay
		var err, afterErr error
		before, err = threads(p.Process.Pid)
		snapshot = read(t, set)
		after, afterErr = threads(p.Process.Pid)
		if err := errors.Join(err, afterErr); err != nil {
			t.Fatal(err)
		}
		if len(before) == len(after) {
			break
		}
	}
	same(t, "processes created by forking", total(t, snapshot, created, in(forks)), uint64(n)+1)
	same(t, "processes created", total(t, snapshot, created, in(threaded)), 1)
	within(t, "threads created", total(t, snapshot, threadsNew, in(threaded)), uint64(len(before))-1, uint64(len(after))-1)
	p.finish(t)
}

// threads lists the threads of a process.
func threads(pid int) ([]int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	var tids []int
	for _, entry := range entries {
		tid, err := strconv.Atoi(entry.Name())
		if err != nil {
			return nil, err
		}
		tids = append(tids, tid)
	}
	return tids, nil
}

func TestProcessExits(t *testing.T) {
	set := open(t, loadOnly("process", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	folder := t.TempDir() // for core dumps

	var commands []*exec.Cmd
	add := func(words ...any) {
		command := helper(t, group, words...)
		command.Dir = folder
		commands = append(commands, command)
	}
	for _, code := range append(rand.Perm(256)[:scaled(40, 10)], 0, 1, 127, 128, 255) {
		if code == gaveUp {
			continue
		}
		add("exit", code)
		if code%5 == 0 {
			add("leader", code)
			add("group", code)
			add("chain", 1+code%3, code)
		}
	}
	for _, signal := range fatalSignals() {
		add("raise", int(signal))
	}
	want := make(map[string]uint64)
	cores := 0
	for i, status := range runAll(t, commands) {
		switch {
		case status.Signaled():
			want[signalName(int(status.Signal()))]++
			if status.CoreDump() {
				cores++
			}
		case status.ExitStatus() == gaveUp:
			t.Fatalf("%q gave up", commands[i].Env)
		default:
			want[fmt.Sprint(status.ExitStatus())]++
		}
	}
	t.Logf("%d exits, %d core dumps", len(commands), cores)

	snapshot := read(t, set)
	got := make(map[string]uint64)
	for _, p := range points(t, snapshot, exits, in(group)) {
		code, signal := attribute(p, "process.exit.code"), attribute(p, "linux.signal.name")
		if (code == nil) == (signal == nil) {
			t.Errorf("neither one nor the other: %v", p.Attributes.List)
		}
		if code != nil {
			got[fmt.Sprint(code)] += p.Value
		} else {
			got[signal.(string)] += p.Value
		}
	}
	equal(t, "exits with", got, want)
	count, _ := durations(t, snapshot, lifetime, in(group))
	same(t, "lifetimes", count, uint64(len(commands)))
}

// fatalSignals are those that end a process: all, or some in the matrix, but SIGKILL, SIGSEGV and a real-time signal always.
func fatalSignals() []unix.Signal {
	var signals []unix.Signal
	for signal := unix.Signal(1); signal <= 64; signal++ {
		switch signal {
		case unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, // ignored
			unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU: // stop
		case unix.SIGKILL, unix.SIGSEGV, 42:
			signals = append(signals, signal)
		default:
			if !inMatrix || rand.IntN(4) == 0 {
				signals = append(signals, signal)
			}
		}
	}
	return signals
}

// Threads that exit at the same time can each find that no other thread of the process is alive.
func TestProcessExitRace(t *testing.T) {
	set := open(t, loadOnly("process", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	code := random(t, "exit code", 0, 98)
	n := scaled(3000, 60)
	commands := make([]*exec.Cmd, n)
	for i := range commands {
		commands[i] = helper(t, group, "storm", 8, code)
	}
	runAll(t, commands)

	snapshot := read(t, set)
	equal(t, "exits with", by(t, snapshot, exits, "process.exit.code", in(group)), map[any]uint64{int64(code): uint64(n)})
	same(t, "processes created", total(t, snapshot, created, in(group)), uint64(n))
	count, _ := durations(t, snapshot, lifetime, in(group))
	same(t, "lifetimes", count, uint64(n))
	if got := total(t, snapshot, threadsNew, in(group)); got < uint64(8*n) {
		t.Errorf("threads created: %d, want %d at least", got, 8*n)
	}
}

func TestProcessLifetime(t *testing.T) {
	set := open(t, loadOnly("process", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	n := random(t, "processes", 5, scaled(60, 10))
	var low, high time.Duration
	for range n {
		before := time.Now()
		p := start(t, helper(t, group, "wait"))
		born := time.Now()
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		low += time.Since(born)
		p.finish(t)
		high += time.Since(before)
	}
	snapshot := read(t, set)
	count, ns := durations(t, snapshot, lifetime, in(group))
	same(t, "lifetimes", count, uint64(n))
	within(t, "ns lived", ns, uint64(low), uint64(high))
	same(t, "exits", total(t, snapshot, exits, in(group)), uint64(n))
}
