package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// The units of the report.

func bytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func nanoseconds(ns float64) string { return fmt.Sprintf("%.0f", ns) }

func milliseconds(d time.Duration) string {
	if ms := float64(d) / 1e6; ms < 10 {
		return fmt.Sprintf("%.2f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", float64(d)/1e6)
}

// verdict says whether a figure meets its target.
func verdict[N ~int64 | ~uint64](figure, target N, unit func(N) string) string {
	if figure <= target {
		return unit(target) + ": met"
	}
	return unit(target) + ": **not met**"
}

// monotonic is CLOCK_MONOTONIC in ns, which all processes share.
func monotonic() int64 { return clock(unix.CLOCK_MONOTONIC) }

func clock(id int32) int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		panic(err) // the clock does not exist
	}
	return t.Nano()
}

// ignore returns nil instead of an error that is expected.
func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}
