//go:build !matrix

package probes

import (
	"errors"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestInterruptsAgainstTools compares how long softirqs and handlers ran with libbpf-tools' softirqs and hardirqs, which take
// the time at the same tracepoints, a little before or after we do.
func TestInterruptsAgainstTools(t *testing.T) {
	for _, test := range []struct{ tool, title, metric, attribute string }{
		{"softirqs", "softirq = ", softirqTimes, softirqName},
		{"hardirqs", "hardirq = ", irqTimes, irqName},
	} {
		t.Run(test.tool, func(t *testing.T) {
			set := open(t, loadOnly("interrupts"))
			start(t, helper(t, nil, "interrupts-load"))
			writeAll(t) // its disk's series is there before

			tool := startTool(t, "Tracing", test.tool, "-d", "-N")
			before := histogramsBy(t, read(t, set), test.metric, test.attribute)
			for begin := time.Now(); time.Since(begin) < 2*time.Second; {
				writeAll(t)
			}
			after := histogramsBy(t, read(t, set), test.metric, test.attribute)
			tool.interrupt(t)
			theirs := make(map[string][]float64) // by the exponent of what a row begins with
			name := ""
			for tool.Scan() {
				if title, ok := strings.CutPrefix(tool.Text(), test.title); ok {
					name = title
				} else if m := runqlatRow.FindStringSubmatch(tool.Text()); m != nil {
					count, _ := strconv.ParseFloat(m[3], 64)
					theirs[name] = append(theirs[name], count)
				}
			}
			tool.finish(t)
			compared := 0
			for name, rows := range theirs {
				if compareWithTool(t, name, before[strings.ToUpper(name)], after[strings.ToUpper(name)], rows) {
					compared++
				}
			}
			if compared == 0 {
				t.Errorf("nothing happened often enough: %v", theirs)
			}
		})
	}
}

// compareWithTool tells whether there were enough to compare.
func compareWithTool(t *testing.T, name string, before, after HistogramData, rows []float64) bool {
	t.Helper()
	ours := func(ns float64) float64 { // how many were not longer
		if ns <= 0 {
			return 0
		}
		n := float64(after.ZeroCount) - float64(before.ZeroCount)
		for sign, h := range map[float64]HistogramData{1: after, -1: before} {
			for i, count := range h.Counts {
				if math.Exp2(float64(int(h.Offset)+i+1)/8)*1e9 <= ns {
					n += sign * float64(count)
				}
			}
		}
		return n
	}
	all, total := ours(math.Inf(1)), 0.0
	for _, count := range rows {
		total += count
	}
	if total < 200 {
		return false
	}
	t.Logf("%s: %.0f, by the tool %.0f", name, all, total)
	// The tool begins a little earlier, and ends a little later.
	tolerance := 5 + 0.1*total
	if math.Abs(all-total) > tolerance {
		t.Errorf("%s: %.0f, by the tool %.0f", name, all, total)
	}
	sum := 0.0
	for exponent, count := range rows {
		sum += count
		below := math.Exp2(float64(exponent + 1))
		if below < 2048 { // our first bucket takes what is shorter
			continue
		}
		// A bucket is a factor of 1.09 wide; and one of us runs the other's program, too.
		const little = 1000
		low, high := ours((below-little)/1.1), ours((below+little)*1.1)
		t.Logf("%s under %8.0f ns: %.0f to %.0f, by the tool %.0f", name, below, low, high, sum)
		if sum < low-tolerance || sum > high+tolerance {
			t.Errorf("%s under %.0f ns: %.0f to %.0f, by the tool %.0f", name, below, low, high, sum)
		}
	}
	return true
}

// histogramsBy are copies of a metric's points, in upper case by one of their attributes.
func histogramsBy(t *testing.T, s *Snapshot, metric, key string) map[string]HistogramData {
	t.Helper()
	all := make(map[string]HistogramData)
	for _, p := range points(t, s, metric, nil) {
		h := p.Histogram
		h.Counts = append([]uint64(nil), h.Counts...) // the next snapshot uses the memory again
		if name, ok := attribute(p, key).(string); ok {
			all[strings.ToUpper(name)] = h
		}
	}
	return all
}

// writeAll has the disk write, if the test's files are on one.
func writeAll(t *testing.T) {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for range 50 {
		_, writeErr := file.WriteAt(make([]byte, 4096), 0)
		if err := errors.Join(writeErr, file.Sync()); err != nil {
			t.Fatal(err)
		}
	}
}
