package probes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// helpers are those that package kerneltest does not have; the test binary is all of them.
var helpers = map[string]func(arguments []string){}

// addHelper makes a function one of the helpers, as a variable of the file that it is in.
func addHelper(name string, f func(arguments []string)) string { //nolint:unparam // a variable must have a value
	helpers[name] = f
	return name
}

var (
	_ = addHelper("exit", helpExit)
	_ = addHelper("raise", helpRaise)
	_ = addHelper("storm", helpStorm)
	_ = addHelper("forks", helpForks)
	_ = addHelper("chain", helpChain)
	_ = addHelper("spin", helpSpin)
	_ = addHelper("starve", helpStarve)
	_ = addHelper("load", helpLoad)
)

const (
	helperVariable = kerneltest.HelperVariable
	gaveUp         = kerneltest.GaveUp
)

var giveUp, number = kerneltest.GiveUp, kerneltest.Number

func TestMain(m *testing.M) {
	kerneltest.BeHelper(helpers)
	os.Exit(m.Run())
}

// helpExit exits with a code.
func helpExit(arguments []string) { os.Exit(number(arguments, 0)) }

// helpRaise dies of a signal: its default action, not that of the Go runtime.
func helpRaise(arguments []string) {
	signal := number(arguments, 0)
	// A core dump goes with the folder of the test, if it is there at all (core(5)). Without one there is only less to see.
	if pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err == nil && !bytes.ContainsAny(pattern[:1], "|/") {
		core := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &core)
	}
	var action [64]byte // struct sigaction; SIG_DFL is 0
	if signal != int(unix.SIGKILL) {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(signal), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
		if errno != 0 {
			giveUp(errno)
		}
	}
	// The runtime blocks nothing; a signal that the parent blocked is let in.
	var none uint64
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0)
	if err := unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.Signal(signal)); err != nil {
		giveUp(err)
	}
	time.Sleep(time.Minute)
	giveUp(errors.New("still alive"))
}

// helpStorm exits while it has many threads, which then all exit at the same time.
func helpStorm(arguments []string) {
	kerneltest.StartThreads(number(arguments, 0))
	_, _, _ = syscall.Syscall(syscall.SYS_EXIT_GROUP, uintptr(number(arguments, 1)), 0, 0)
}

// helpForks creates n processes one after the other. syscall's ForkExec creates nothing else, unlike package os.
func helpForks(arguments []string) {
	for range number(arguments, 0) {
		pid, err := syscall.ForkExec("/proc/self/exe", []string{"child"}, &syscall.ProcAttr{
			Env: []string{helperVariable + "=exit 0"}, Files: []uintptr{0, 1, 2},
		})
		if err != nil {
			giveUp(err)
		}
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
			giveUp(err)
		}
	}
}

// helpChain executes itself n times in the one process, from whatever thread, then exits with a code.
func helpChain(arguments []string) {
	left := number(arguments, 0)
	if left == 0 {
		os.Exit(number(arguments, 1))
	}
	done := make(chan error)
	go func() { // as a rule on a thread that is not the leader, so that the kernel makes it the leader
		runtime.LockOSThread()
		done <- syscall.Exec("/proc/self/exe", []string{"chain"}, []string{
			fmt.Sprintf("%s=chain %d %s", helperVariable, left-1, arguments[1]),
		})
	}()
	giveUp(<-done)
}

// helpSpin keeps a CPU busy.
func helpSpin([]string) {
	fmt.Println("ready")
	for {
		_ = unix.Getpid()
	}
}

// helpStarve needs a CPU most of the time, and gives it up now and then.
func helpStarve([]string) {
	fmt.Println("ready")
	for {
		for start := time.Now(); time.Since(start) < 3*time.Millisecond; {
			_ = unix.Getpid()
		}
		pause := unix.NsecToTimespec(int64(time.Millisecond))
		_ = unix.Nanosleep(&pause, nil)
	}
}

// helpLoad creates processes and switches between threads, all the time.
func helpLoad([]string) {
	fmt.Println("ready")
	there, back := make(chan int), make(chan int)
	for range 2 {
		go func() {
			runtime.LockOSThread()
			for n := range there {
				back <- n
			}
		}()
		go func() {
			runtime.LockOSThread()
			for n := 0; ; n++ {
				there <- n
				<-back
			}
		}()
	}
	for {
		helpForks([]string{"1"})
	}
}

// testProcess is a helper that runs.
type testProcess struct {
	*exec.Cmd
	input io.Closer
}

// helper prepares a helper to run in a cgroup, or where the test runs if there is none.
func helper(t testing.TB, group *kerneltest.Cgroup, words ...any) *exec.Cmd {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(path)
	command.Env = []string{
		helperVariable + "=" + strings.TrimSuffix(fmt.Sprintln(words...), "\n"),
		"GODEBUG=asyncpreemptoff=1", // the runtime's signals would wake the helpers' threads
	}
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if group != nil {
		group.Enter(command)
	}
	return command
}

// run runs a helper and returns what wait4 says of it.
func run(t testing.TB, command *exec.Cmd) syscall.WaitStatus {
	t.Helper()
	status, err := wait4(command)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func wait4(command *exec.Cmd) (syscall.WaitStatus, error) {
	var exit *exec.ExitError
	if err := command.Run(); err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return command.ProcessState.Sys().(syscall.WaitStatus), nil
}

// mustRun runs helpers, one after the other, that are to exit with 0.
func mustRun(t testing.TB, commands ...*exec.Cmd) {
	t.Helper()
	for _, command := range commands {
		if status := run(t, command); status != 0 {
			t.Fatalf("%q: status %#x", command.Env, status)
		}
	}
}

// start starts a helper that lives until its finish, or the end of the test. On some CPUs only, if there are any.
func start(t testing.TB, command *exec.Cmd, cpus ...int) *testProcess {
	t.Helper()
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	onCPUs(t, cpus, func() { err = command.Start() })
	if err != nil {
		t.Fatal(err)
	}
	p := &testProcess{Cmd: command, input: input}
	t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	})
	if _, err := output.Read(make([]byte, 1)); err != nil { // it says when it is ready
		t.Fatalf("%q: %v", command.Env, err)
	}
	return p
}

// finish lets a helper end that waits for its input to.
func (p *testProcess) finish(t testing.TB) {
	t.Helper()
	if err := errors.Join(p.input.Close(), p.Wait()); err != nil {
		t.Fatal(err)
	}
}

// onCPUs calls f on a thread that may run on some CPUs only, which the processes that it starts inherit.
func onCPUs(t testing.TB, cpus []int, f func()) {
	t.Helper()
	if len(cpus) == 0 {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	setAffinity(t, 0, cpus...)
	f()
	if err := unix.SchedSetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
}

func setAffinity(t testing.TB, tid int, cpus ...int) {
	t.Helper()
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	if err := unix.SchedSetaffinity(tid, &set); err != nil {
		t.Fatalf("let thread %d run on %v: %v", tid, cpus, err)
	}
}
