package probes

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// wallClock turns the kernel's times, ns of CLOCK_MONOTONIC, into wall times. It is fixed when the probes start, so that a
// series' start time never changes.
type wallClock struct{ boot time.Time }

func newWallClock() (wallClock, error) {
	now, err := monotonic()
	if err != nil {
		return wallClock{}, err
	}
	return wallClock{boot: time.Now().Add(-time.Duration(now)).Round(0)}, nil
}

func (c wallClock) time(ns uint64) time.Time { return c.boot.Add(time.Duration(ns)) }

// monotonic is the time of bpf_ktime_get_ns, in ns.
func monotonic() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return uint64(now.Nano()), nil
}
