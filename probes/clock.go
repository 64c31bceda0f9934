package probes

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// moment is one moment on two clocks. CLOCK_MONOTONIC, which the kernel's times are of, does not go on in suspend, nor where
// the wall clock is set; so what it is in wall time is asked of a moment soon after.
type moment struct {
	wall      time.Time
	monotonic uint64 // ns
}

func now() (moment, error) {
	ns, err := monotonic()
	return moment{time.Now().Round(0), ns}, err
}

// wallTime is the wall time of a time of CLOCK_MONOTONIC, in ns.
func (m moment) wallTime(ns uint64) time.Time { return m.wall.Add(time.Duration(ns - m.monotonic)) }

// monotonic is the time of bpf_ktime_get_ns, in ns.
func monotonic() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read CLOCK_MONOTONIC: %w", err)
	}
	return uint64(now.Nano()), nil
}
