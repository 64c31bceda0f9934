//go:build !matrix

package probes

import (
	"math"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// runqlatRow is one line of runqlat's histogram.
var runqlatRow = regexp.MustCompile(`^\s*(\d+) -> (\d+)\s*: (\d+)\s`)

// TestSchedulerAgainstRunqlat compares the distribution of a process's waits with that of libbpf-tools' runqlat, which takes
// the time itself, at the wake-up and at the switch.
func TestSchedulerAgainstRunqlat(t *testing.T) {
	set := open(t, loadOnly("scheduler", LinuxCgroup))
	others, group := kerneltest.NewCgroup(t, ""), kerneltest.NewCgroup(t, "")
	cpu := allowedCPUs(t)[0]
	start(t, helper(t, others, "spin"), cpu)
	p := start(t, helper(t, group, "starve"), cpu)
	stop(t, p.Process.Pid)
	before := points(t, read(t, set), runQueue, in(group))[0].Histogram
	before.Counts = append([]uint64(nil), before.Counts...) // the next snapshot uses the memory again

	tool := startTool(t, "Tracing", "runqlat", "-p", strconv.Itoa(p.Process.Pid))
	if err := unix.Kill(p.Process.Pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond)
	stop(t, p.Process.Pid)
	after := points(t, read(t, set), runQueue, in(group))[0].Histogram
	tool.interrupt(t)
	type row struct{ below, count float64 } // below: seconds
	var rows []row
	var theirs float64
	for tool.Scan() {
		if m := runqlatRow.FindStringSubmatch(tool.Text()); m != nil {
			last, _ := strconv.ParseFloat(m[2], 64)
			count, _ := strconv.ParseFloat(m[3], 64)
			theirs += count
			rows = append(rows, row{(last + 1) / 1e6, theirs})
		}
	}
	tool.finish(t)

	// ours is how many waits were not longer than some seconds, by the buckets that end before that.
	ours := func(seconds float64) float64 {
		if seconds <= 0 {
			return 0
		}
		n := after.ZeroCount - before.ZeroCount
		for sign, h := range map[uint64]HistogramData{1: after, ^uint64(0): before} {
			for i, count := range h.Counts {
				if math.Exp2(float64(int(h.Offset)+i+1)/8) <= seconds {
					n += sign * count
				}
			}
		}
		return float64(n)
	}
	all := ours(math.Inf(1))
	tolerance := 2 + 0.03*all
	t.Logf("waits: %.0f, by runqlat %.0f", all, theirs)
	if math.Abs(all-theirs) > tolerance {
		t.Errorf("%.0f waits, by runqlat %.0f", all, theirs)
	}
	for _, r := range rows {
		// A bucket is a factor of 1.09 wide; and runqlat takes the time a little before or after the scheduler does.
		const little = 5e-6
		low, high := ours((r.below-little)/1.1), ours((r.below+little)*1.1)
		t.Logf("under %6.0f us: %.0f to %.0f, by runqlat %.0f", r.below*1e6, low, high, r.count)
		if r.count < low-tolerance || r.count > high+tolerance {
			t.Errorf("waits under %.0f us: %.0f to %.0f, by runqlat %.0f", r.below*1e6, low, high, r.count)
		}
	}
}
