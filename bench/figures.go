package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The units of the report.

func bytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func nanoseconds(ns float64) string { return fmt.Sprintf("%.0f", ns) }

func percent(part float64) string { return fmt.Sprintf("%.2f %%", part) }

func milliseconds(d time.Duration) string {
	if ms := float64(d) / 1e6; ms < 10 {
		return fmt.Sprintf("%.2f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", float64(d)/1e6)
}

// verdict says whether a figure meets its target.
func verdict[N ~int64 | ~uint64 | ~float64](figure, target N, unit func(N) string) string {
	if figure <= target {
		return unit(target) + ": met"
	}
	return unit(target) + ": **not met**"
}

// figures are those of one contender, by round.
type figures []float64

func (f figures) median() float64 { return f.quantile(1, 2) }

// quantile is the figure that so large a part of them is below.
func (f figures) quantile(part, of int) float64 {
	return slices.Sorted(slices.Values(f))[len(f)*part/of]
}

// spread is the median, and half of what the middle half of the figures spans, with so many decimals.
func (f figures) spread(decimals int) string {
	return fmt.Sprintf("%.*f ± %.*f", decimals, f.median(), decimals, (f.quantile(3, 4)-f.quantile(1, 4))/2)
}

// verdict says whether the middle half of the figures meets a target.
func (f figures) verdict(target float64, unit func(float64) string) string {
	low, high := f.quantile(1, 4), f.quantile(3, 4)
	if low <= target && target < high {
		return unit(target) + ": **cannot be told**, the rounds differ too much"
	}
	return verdict(high, target, unit)
}

// with makes a figure of the two of each round, which knew the same machine.
func (f figures) with(others figures, combine func(figure, other float64) float64) figures {
	combined := make(figures, len(f))
	for round := range f {
		combined[round] = combine(f[round], others[round])
	}
	return combined
}

func difference(figure, other float64) float64 { return figure - other }

func product(figure, other float64) float64 { return figure * other }

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
