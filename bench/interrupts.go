package main

import (
	"errors"

	"golang.org/x/sys/unix"
)

const scriptSoftirqs = `tracepoint:irq:softirq_entry { @start[cpu] = nsecs; }
tracepoint:irq:softirq_exit /@start[cpu]/ { @duration[args->vec] = hist(nsecs - @start[cpu]); delete(@start[cpu]); }
`

var softirqs = [][]string{{"softirqs", "-d", "3600"}}

func interruptEvents() []event {
	return []event{
		{"softirq", "interrupts", []string{"softirq_entry", "softirq_exit"}, "packets", 1, 300, true, scriptSoftirqs, softirqs},
	}
}

// packets is a part: it sends packets to itself, so that every event is one that a softirq receives.
func packets(arguments []string) error {
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	fd, err := loopbackSocket()
	if err != nil {
		return err
	}
	address, err := unix.Getsockname(fd)
	if err := errors.Join(err, unix.Connect(fd, address), pin(cpu)); err != nil {
		return err
	}
	return batches(func(n int) (batch, error) {
		begin := monotonic()
		for range n {
			if err := errors.Join(move(unix.SYS_WRITE, fd), move(unix.SYS_READ, fd)); err != nil {
				return batch{}, err
			}
		}
		return batch{Events: n, Time: monotonic() - begin}, nil
	})
}

// loopbackSocket is one for UDP, with a port of its own.
func loopbackSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
}
