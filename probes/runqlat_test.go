//go:build !matrix

package probes

import (
	"bufio"
	"context"
	"errors"
	"math"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
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

	// For a minute at most, so that Scan ends even if the tool would not.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tool := exec.CommandContext(ctx, "stdbuf", "-oL", "runqlat", "-p", strconv.Itoa(p.Process.Pid))
	tool.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := tool.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tool.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "Tracing") {
		t.Fatalf("runqlat does not begin: %q (apt-get install libbpf-tools)", lines.Text())
	}
	if err := unix.Kill(p.Process.Pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond)
	stop(t, p.Process.Pid)
	after := points(t, read(t, set), runQueue, in(group))[0].Histogram
	if err := tool.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	type row struct{ below, count float64 } // below: seconds
	var rows []row
	var theirs float64
	for lines.Scan() {
		if m := runqlatRow.FindStringSubmatch(lines.Text()); m != nil {
			last, _ := strconv.ParseFloat(m[2], 64)
			count, _ := strconv.ParseFloat(m[3], 64)
			theirs += count
			rows = append(rows, row{(last + 1) / 1e6, theirs})
		}
	}
	if err := errors.Join(lines.Err(), tool.Wait()); err != nil {
		t.Fatal(err)
	}

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
