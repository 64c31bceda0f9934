package main

import (
	"errors"

	"golang.org/x/sys/unix"
)

const scriptDrops = `tracepoint:skb:kfree_skb { @drops[args->reason] = count(); }
`

func dropEvents() []event {
	return []event{
		{"packet dropped", "drops", []string{"kfree_skb"}, "drops", 1, 300, true, scriptDrops, nil},
	}
}

// drops is a part: it sends packets to a port that is closed, so that every event is one dropped.
func drops(arguments []string) error {
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	fd, err := loopbackSocket()
	if err != nil {
		return err
	}
	closed, err := loopbackSocket()
	if err != nil {
		return err
	}
	address, err := unix.Getsockname(closed)
	if err := errors.Join(err, unix.Close(closed), pin(cpu)); err != nil {
		return err
	}
	packet := []byte{0}
	return batches(func(n int) (batch, error) {
		begin := monotonic()
		for range n {
			if err := unix.Sendto(fd, packet, 0, address); err != nil {
				return batch{}, err
			}
		}
		return batch{Events: n, Time: monotonic() - begin}, nil
	})
}
