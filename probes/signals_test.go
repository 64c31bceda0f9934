package probes

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

var (
	_ = addHelper("signals-ignore", helpSignalsIgnore)
	_ = addHelper("signals-block", helpSignalsBlock)
	_ = addHelper("signals-send", helpSignalsSend)
	_ = addHelper("signals-kernel", helpSignalsKernel)
)

const (
	signalsSent = "linux.signals"
	signalsReal = 32 // the first real-time signal
	signalsLast = 64
)

// helpSignalsIgnore ignores all signals that can be, and stays until its input ends.
func helpSignalsIgnore([]string) {
	var action [32]byte // struct sigaction
	action[0] = 1       // SIG_IGN
	for number := 1; number <= signalsLast; number++ {
		if unix.Signal(number) == unix.SIGKILL || unix.Signal(number) == unix.SIGSTOP {
			continue
		}
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(number), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
		if errno != 0 {
			giveUp(errno)
		}
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// helpSignalsBlock is the same, and its first thread blocks all signals: those that are sent to it stay pending.
func helpSignalsBlock([]string) {
	all := ^uint64(0)
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), 0, 8, 0, 0)
	if errno != 0 {
		giveUp(errno)
	}
	helpSignalsIgnore(nil)
}

// helpSignalsSend sends a process so many of a signal.
func helpSignalsSend(arguments []string) {
	for range number(arguments, 2) {
		if err := unix.Kill(number(arguments, 0), unix.Signal(number(arguments, 1))); err != nil {
			giveUp(err)
		}
	}
}

// helpSignalsKernel has the kernel send it so many of SIGPIPE, SIGSEGV, SIGALRM and a timer's real-time signal.
func helpSignalsKernel(arguments []string) {
	var ends [2]int
	if err := errors.Join(unix.Pipe2(ends[:], 0), unix.Close(ends[0])); err != nil {
		giveUp(err)
	}
	for range number(arguments, 0) {
		if _, err := unix.Write(ends[1], []byte{0}); !errors.Is(err, unix.EPIPE) {
			giveUp(err)
		}
	}
	for range number(arguments, 1) {
		func() {
			defer func() { _ = recover() }()
			var nowhere *[4096]byte
			nowhere[rand.IntN(4096)]++
		}()
	}

	received := make(chan os.Signal, 1)
	signal.Notify(received, unix.SIGALRM, signalsTimer)
	for range number(arguments, 2) {
		if _, err := unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{Value: unix.Timeval{Usec: 100}}); err != nil {
			giveUp(err)
		}
		<-received
	}
	event := struct { // struct sigevent
		value        uint64
		signal, kind int32 // SIGEV_SIGNAL is 0
		_            [48]byte
	}{signal: int32(signalsTimer)}
	var timer int32
	_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)),
		uintptr(unsafe.Pointer(&timer)))
	for range number(arguments, 3) {
		when := unix.ItimerSpec{Value: unix.Timespec{Nsec: 100_000}}
		if errno == 0 {
			_, _, errno = unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(timer), 0, uintptr(unsafe.Pointer(&when)), 0, 0, 0)
		}
		if errno != 0 {
			giveUp(errno)
		}
		<-received
	}
}

const signalsTimer = unix.Signal(41)

// signalCounts sums a cgroup's signals by "name result".
func signalCounts(t testing.TB, set *Set, group *kerneltest.Cgroup) map[string]uint64 {
	t.Helper()
	counts := make(map[string]uint64)
	for _, p := range points(t, read(t, set), signalsSent, in(group)) {
		counts[fmt.Sprint(attribute(p, SignalName), " ", attribute(p, SignalResult))] += p.Value
	}
	return counts
}

// byName leaves out the results, which depend on how fast signals are handled.
func byName(counts map[string]uint64) map[string]uint64 {
	sums := make(map[string]uint64)
	for key, n := range counts {
		name, _, _ := strings.Cut(key, " ")
		sums[name] += n
	}
	return sums
}

func TestSignalsIgnored(t *testing.T) {
	set := open(t, loadOnly("signals", LinuxCgroup))
	group, senders := kerneltest.NewCgroup(t, ""), kerneltest.NewCgroup(t, "")
	p := start(t, helper(t, group, "signals-ignore"))
	want := make(map[string]uint64)
	for number := 1; number <= signalsLast; number++ {
		s := unix.Signal(number)
		if s == unix.SIGKILL || s == unix.SIGSTOP {
			continue
		}
		n := 1 + rand.IntN(50)
		for i := range n {
			var err error
			if i%2 == 0 {
				err = unix.Kill(p.Process.Pid, s)
			} else {
				err = unix.Tgkill(p.Process.Pid, p.Process.Pid, s)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		want[signalName(number)+" ignored"] = uint64(n)
	}
	if err := unix.Kill(p.Process.Pid, 0); err != nil { // no signal
		t.Fatal(err)
	}
	n := random(t, "sent from another cgroup", 20, 200)
	mustRun(t, helper(t, senders, "signals-send", p.Process.Pid, int(unix.SIGUSR1), n))
	want["SIGUSR1 ignored"] += uint64(n)
	equal(t, "signals", signalCounts(t, set, group), want)
	equal(t, "signals of the sender", signalCounts(t, set, senders), nil)
	p.finish(t)
}

func TestSignalsPending(t *testing.T) {
	set := open(t, loadOnly("signals", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	p := start(t, helper(t, group, "signals-block"))
	pid := p.Process.Pid
	want := make(map[string]uint64)
	send := func(number, n int) {
		for range n {
			if err := unix.Tgkill(pid, pid, unix.Signal(number)); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Of the first 31 signals one can be pending.
	for number := 1; number < signalsReal; number++ {
		switch unix.Signal(number) {
		case unix.SIGKILL, unix.SIGSTOP:
		case unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT: // one takes the others away
			send(number, 1)
			want[signalName(number)+" delivered"] = 1
		default:
			n := 1 + rand.IntN(50)
			send(number, n)
			want[signalName(number)+" delivered"] = 1
			if n > 1 {
				want[signalName(number)+" already_pending"] = uint64(n - 1)
			}
		}
	}
	// Of the others as many as are sent.
	for number := signalsReal; number <= signalsLast; number++ {
		n := 1 + rand.IntN(20)
		send(number, n)
		want[signalName(number)+" delivered"] = uint64(n)
	}
	equal(t, "signals", signalCounts(t, set, group), want)
	pending := ^uint64(0) &^ (1<<(unix.SIGKILL-1) | 1<<(unix.SIGSTOP-1) | 1<<(unix.SIGCONT-1)) // SIGTSTP took the last away
	same(t, "pending signals", signalsPendingOf(t, pid), pending)

	// To a process that is stopped: SIGSTOP, one that is pending, and those that are pending already.
	stopped := kerneltest.NewCgroup(t, "")
	q := start(t, helper(t, stopped, "wait"))
	stop(t, q.Process.Pid)
	n := random(t, "sent to a stopped process", 2, 200)
	for range n {
		if err := unix.Kill(q.Process.Pid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "signals to a stopped process", signalCounts(t, set, stopped), map[string]uint64{
		"SIGSTOP delivered": 1, "SIGUSR1 delivered": 1, "SIGUSR1 already_pending": uint64(n - 1),
	})
	if err := q.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.finish(t)
}

// signalsPendingOf is the kernel's own set of what is pending for the first thread of a process.
func signalsPendingOf(t testing.TB, pid int) (pending uint64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "\nSigPnd:")
	if _, err := fmt.Sscanf(line, "%x", &pending); err != nil {
		t.Fatal(err)
	}
	return pending
}

// With no room to queue a signal's information, signals of a thread or with a value fail, others lose it (signal(7)).
func TestSignalsOverflow(t *testing.T) {
	set := open(t, loadOnly("signals", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	p := start(t, helper(t, group, "signals-block"))
	pid := p.Process.Pid
	if err := unix.Prlimit(pid, unix.RLIMIT_SIGPENDING, &unix.Rlimit{}, nil); err != nil {
		t.Fatal(err)
	}
	failed := random(t, "to a thread", 20, 200)
	for range failed {
		if err := unix.Tgkill(pid, pid, 50); !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
	queued := random(t, "with a value", 20, 200)
	for range queued {
		info := struct { // siginfo_t
			signal, errno, code int32
			_                   [116]byte
		}{code: -1} // SI_QUEUE
		_, _, errno := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), 51, uintptr(unsafe.Pointer(&info)))
		if !errors.Is(errno, unix.EAGAIN) {
			t.Fatal(errno)
		}
	}
	lost := random(t, "to the process", 20, 200)
	for range lost {
		if err := unix.Kill(pid, 52); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Tgkill(pid, pid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	equal(t, "signals", signalCounts(t, set, group), map[string]uint64{
		"SIGRTMIN+18 overflow_fail": uint64(failed),
		"SIGRTMIN+19 overflow_fail": uint64(queued),
		"SIGRTMIN+20 lose_info":     uint64(lost),
		"SIGUSR1 lose_info":         1,
	})
	p.finish(t)
}

func TestSignalsOfTheKernel(t *testing.T) {
	set := open(t, loadOnly("signals", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	pipes, faults := random(t, "writes to a closed pipe", 20, 200), random(t, "faults", 20, 200)
	alarms, timers := random(t, "alarms", 2, 40), random(t, "timers", 2, 40)
	mustRun(t, helper(t, group, "signals-kernel", pipes, faults, alarms, timers))
	equal(t, "signals", signalCounts(t, set, group), map[string]uint64{
		"SIGPIPE delivered": uint64(pipes), "SIGSEGV delivered": uint64(faults), "SIGALRM delivered": uint64(alarms),
		signalName(int(signalsTimer)) + " delivered": uint64(timers),
	})

	parents := kerneltest.NewCgroup(t, "")
	children := random(t, "children", 20, scaled(200, 40))
	mustRun(t, helper(t, parents, "forks", children))
	same(t, "signals of children", byName(signalCounts(t, set, parents))["SIGCHLD"], uint64(children))

	// A process of many threads dies of one signal.
	killed := kerneltest.NewCgroup(t, "")
	p := start(t, helper(t, killed, "threads", 30))
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait() // says that it was killed
	equal(t, "signals", signalCounts(t, set, killed), map[string]uint64{"SIGKILL delivered": 1})

	// A process that has ended is sent signals until its parent waits for it.
	zombies := kerneltest.NewCgroup(t, "")
	z := start(t, helper(t, zombies, "wait"))
	if err := z.input.Close(); err != nil {
		t.Fatal(err)
	}
	stat := fmt.Sprintf("/proc/%d/stat", z.Process.Pid)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		line, err := os.ReadFile(stat)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("no zombie: %v", err)
		}
		if strings.Contains(string(line), ") Z ") {
			break
		}
	}
	n := random(t, "to a zombie", 20, 200)
	for range n {
		if err := unix.Kill(z.Process.Pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "signals to a zombie", byName(signalCounts(t, set, zombies))["SIGTERM"], uint64(n))
	_ = z.Wait()
}

// Many at the same time, on all CPUs, are all counted.
func TestSignalsStorm(t *testing.T) {
	set := open(t, loadOnly("signals", LinuxCgroup))
	group, senders := kerneltest.NewCgroup(t, ""), kerneltest.NewCgroup(t, "")
	p := start(t, helper(t, group, "signals-ignore"))
	n := random(t, "by each sender", 10_000, scaled(300_000, 20_000))
	var sending []*testProcess
	for range 4 {
		command := helper(t, senders, "signals-send", p.Process.Pid, int(unix.SIGUSR2), n)
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		sending = append(sending, &testProcess{Cmd: command})
	}
	for _, s := range sending {
		if err := s.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "signals", signalCounts(t, set, group), map[string]uint64{"SIGUSR2 ignored": uint64(4 * n)})
	p.finish(t)
}
