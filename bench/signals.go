package main

import (
	"os/signal"

	"golang.org/x/sys/unix"
)

// signalEvent is a signal of a thread to itself, which ignores it.
func signalEvent(cpus int) event {
	return event{
		"signal", "signals", []string{"signal_generate"}, "signals", cpus, 3000, true,
		scriptSignals, [][]string{{"sigsnoop"}},
	}
}

const scriptSignals = `tracepoint:signal:signal_generate { @signals[cgroup, args->sig, args->result] = count(); }
`

// signals is a part: signals, one after the other.
func signals(arguments []string) error {
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	if err := pin(cpu); err != nil {
		return err
	}
	signal.Ignore(unix.SIGUSR1)
	process, thread := uintptr(unix.Getpid()), uintptr(unix.Gettid())
	return batches(func(n int) (batch, error) {
		begin := monotonic()
		for range n {
			if _, _, errno := unix.RawSyscall(unix.SYS_TGKILL, process, thread, uintptr(unix.SIGUSR1)); errno != 0 {
				return batch{}, errno
			}
		}
		return batch{Events: n, Time: monotonic() - begin}, nil
	})
}
