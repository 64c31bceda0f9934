package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// order is for about so many events, from a time of monotonic on.
type order struct {
	Events int
	At     int64
}

// batch is a number of events and the time that they took.
type batch struct {
	Events int
	Time   int64 // ns
}

// load makes events, on as many CPUs as it has parts.
type load []*part

// startLoad starts a part of that name on each of the first CPUs.
func startLoad(name string, cpus int) (load, error) {
	var l load
	for cpu := range cpus {
		p, err := startPart(name, strconv.Itoa(cpu))
		if err != nil {
			return nil, errors.Join(err, l.stop())
		}
		l = append(l, p)
	}
	return l, nil
}

func (l load) stop() error {
	var errs []error
	for _, p := range l {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

// run makes about n events on each CPU at the same time.
func (l load) run(n int) (all batch, err error) {
	const notice = 2 * time.Millisecond // for all to be ready at the same time
	o := order{n, monotonic() + int64(notice)}
	var errs []error
	for _, p := range l {
		errs = append(errs, p.Encode(o))
	}
	for _, p := range l {
		var b batch
		errs = append(errs, p.Decode(&b))
		all.Events += b.Events
		all.Time += b.Time
	}
	return all, errors.Join(errs...)
}

// batches answers every order with a batch.
func batches(run func(n int) (batch, error)) error {
	for orders := json.NewDecoder(os.Stdin); ; {
		var o order
		if err := orders.Decode(&o); err != nil {
			return ignore(err, io.EOF)
		}
		at := unix.NsecToTimespec(o.At)
		if err := uninterrupted(func() error {
			return unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil)
		}); err != nil {
			return err
		}
		b, err := run(o.Events)
		if err != nil {
			return err
		}
		if err := answer(b); err != nil {
			return err
		}
	}
}

// pin makes the calling goroutine's thread run on that CPU alone, and before others.
func pin(cpu int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	const first = -20
	return errors.Join(unix.SchedSetaffinity(0, &set), unix.Setpriority(unix.PRIO_PROCESS, 0, first))
}

// switches is a part: two threads on one CPU that wait for each other, so that every event is a context switch.
func switches(arguments []string) error {
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	return pingPong(cpu, cpu, nothingMore)
}

// wakeups is a part: the same, but the other thread is on the next CPU, so that every event is a wake-up of another CPU too.
func wakeups(arguments []string) error {
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	return pingPong(cpu, (cpu+1)%runtime.NumCPU(), nothingMore)
}

func nothingMore() error { return nil }

// pingPong has two threads wait for each other. One does something more each time.
func pingPong(cpu, other int, more func() error) error {
	// The threads are in system calls that the scheduler of goroutines does not know of, and that nothing may wait for.
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(4)
	var there, back [2]int
	if err := errors.Join(unix.Pipe2(there[:], 0), unix.Pipe2(back[:], 0), pin(cpu)); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		err := pin(other)
		for failed <- err; err == nil; {
			err = errors.Join(move(unix.SYS_READ, there[0]), move(unix.SYS_WRITE, back[1]))
		}
	}()
	if err := <-failed; err != nil {
		return err
	}
	return batches(func(n int) (b batch, err error) {
		before, begin := contextSwitches(), monotonic()
		for range n / 2 {
			if err := errors.Join(more(), move(unix.SYS_WRITE, there[1]), move(unix.SYS_READ, back[0])); err != nil {
				return b, err
			}
		}
		b.Time = monotonic() - begin
		b.Events = contextSwitches() - before
		return b, nil
	})
}

// move reads or writes one byte.
func move(call uintptr, fd int) error {
	var b [1]byte
	if n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), 1); n != 1 {
		return errno
	}
	return nil
}

func contextSwitches() int {
	var usage unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &usage) // fails only for a wrong pointer
	return int(usage.Nvcsw + usage.Nivcsw)
}

// executions is a part: it creates processes that execute true and exit, one after the other.
func executions(arguments []string) error {
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	path, err := exec.LookPath("true")
	if err != nil {
		return err
	}
	if err := pin(cpu); err != nil {
		return err
	}
	return batches(func(n int) (batch, error) {
		begin := monotonic()
		for range n {
			if err := execute(path); err != nil {
				return batch{}, err
			}
		}
		return batch{Events: n, Time: monotonic() - begin}, nil
	})
}

// execute runs a program to its end.
func execute(path string) error {
	pid, err := syscall.ForkExec(path, []string{path}, nil)
	if err != nil {
		return err
	}
	return uninterrupted(func() error {
		_, err := syscall.Wait4(pid, nil, 0, nil)
		return err
	})
}

// uninterrupted makes a system call that the runtime's signals may interrupt.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
