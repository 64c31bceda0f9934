package main

import "golang.org/x/sys/unix"

// syscallEvent is a system call that does next to nothing.
func syscallEvent(cpus int) event {
	return event{
		"system call", "syscalls", []string{"sys_enter", "sys_exit"}, "syscalls", cpus, 10_000, true,
		scriptSyscalls, [][]string{{"syscount", "-L"}},
	}
}

const scriptSyscalls = `tracepoint:raw_syscalls:sys_enter { @start[tid] = nsecs; }
tracepoint:raw_syscalls:sys_exit /@start[tid]/ {
	@duration[cgroup, args->id, args->ret < 0 ? args->ret : 0] = hist(nsecs - @start[tid]);
	delete(@start[tid]);
}
`

// syscalls is a part: system calls, one after the other.
func syscalls(arguments []string) error {
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	if err := pin(cpu); err != nil {
		return err
	}
	return batches(func(n int) (batch, error) {
		begin := monotonic()
		for range n {
			_, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		}
		return batch{Events: n, Time: monotonic() - begin}, nil
	})
}
