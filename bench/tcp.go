package main

import (
	"errors"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// tcpEvents are those of the tcp probe.
func tcpEvents() []event {
	hooks := []string{"inet_sock_set_state"}
	return []event{
		{"TCP connection", "tcp", hooks, "connections", 1, 100, true, scriptConnections, tcplife},
		{"TCP connection", "tcp", hooks, "connections", runtime.NumCPU(), 100, true, scriptConnections, tcplife},
	}
}

// The numbers of the states are in include/net/tcp_states.h.
const scriptConnections = `tracepoint:sock:inet_sock_set_state /args->protocol == 6/ {
	$socket = args->skaddr; $old = args->oldstate; $new = args->newstate;
	if ($new == 2) { @begun[$socket] = nsecs; }
	if ($new == 1) {
		@connections[cgroup, $old] = count();
		if ($old == 2) { @handshake[cgroup] = hist(nsecs - @begun[$socket]); delete(@begun[$socket]); }
		@open[$socket] = nsecs;
	}
	if ($new == 7 && @open[$socket]) { @duration[cgroup] = hist(nsecs - @open[$socket]); delete(@open[$socket]); }
}
`

var tcplife = [][]string{{"tcplife"}}

// connections is a part: it connects to itself, accepts, and closes both ends, in a network namespace of its own.
func connections(arguments []string) error {
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	debug.SetGCPercent(-1)
	if err := errors.Join(pin(cpu), unix.Unshare(unix.CLONE_NEWNET), loopbackUp()); err != nil {
		return err
	}
	address := &unix.SockaddrInet4{Port: 1, Addr: [4]byte{127, 0, 0, 1}}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err := errors.Join(err, unix.Bind(listener, address), unix.Listen(listener, 1)); err != nil {
		return err
	}
	return batches(func(n int) (batch, error) {
		begin := monotonic()
		for range n {
			if err := connection(listener, address); err != nil {
				return batch{}, err
			}
		}
		return batch{Events: n, Time: monotonic() - begin}, nil
	})
}

func connection(listener int, address unix.Sockaddr) error {
	ours, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := uninterrupted(func() error { return unix.Connect(ours, address) }); err != nil {
		return err
	}
	var theirs int
	if err := uninterrupted(func() (err error) {
		theirs, _, err = unix.Accept(listener)
		return err
	}); err != nil {
		return err
	}
	return errors.Join(unix.Close(ours), unix.Close(theirs))
}

// loopbackUp lets a network namespace talk to itself.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	request, err := unix.NewIfreq("lo")
	if err == nil {
		request.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
	}
	return errors.Join(err, unix.Close(fd))
}
