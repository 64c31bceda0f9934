//go:build !matrix

package probes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fioCounts are what fio says of a direction.
type fioCounts struct {
	Operations uint64 `json:"total_ios"`
	Bytes      uint64 `json:"io_bytes"`
}

// biolatencyRow is one line of biolatency's histogram, in us.
var biolatencyRow = regexp.MustCompile(`^\s*(\d+) -> (\d+)\s*: (\d+)\s`)

// TestBlockAgainstFio has fio read and write a loop device of a file on a real disk. Meanwhile all disks are compared with
// /proc/diskstats, and then the loop device with what fio says, and with the distribution of libbpf-tools' biolatency.
func TestBlockAgainstFio(t *testing.T) {
	const size = 64 << 20
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	disk := newLoop(t, file, unix.LO_FLAGS_DIRECT_IO)
	set := load(t, loadOnly("block"))
	hidden := newHiddenBlocks(t)
	closed := readDiskStats(t)
	if err := set.Open(); err != nil {
		t.Fatal(err)
	}
	opened := readDiskStats(t)
	d := newDiskTest(t, set, disk)
	merged := readMerges(t, disk)
	before := blockHistogram(t, set, disk)
	tool := startTool(t, "Tracing", "biolatency", "-d", disk)

	operations := random(t, "operations of each job", 1000, 4000)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	fio := exec.CommandContext(ctx, "fio", "--output-format=json", "--name=job", "--filename=/dev/"+disk, "--direct=1",
		"--ioengine=libaio", "--iodepth=8", "--rw=randrw", "--bsrange=4k-64k", "--numjobs=2", "--thread", "--group_reporting",
		fmt.Sprintf("--number_ios=%d", operations), fmt.Sprintf("--size=%d", size), "--io_size=1g")
	fio.Stderr = os.Stderr
	fio.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var report struct {
		Jobs []struct{ Read, Write fioCounts }
	}
	output, err := fio.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := fio.Start(); err != nil {
		t.Fatalf("%v (apt-get install fio)", err)
	}
	reported := make(chan error, 1)
	go func() { reported <- json.NewDecoder(output).Decode(&report) }()
	brackets := 0
	for running := true; running; brackets++ {
		select {
		case err = <-reported:
			running = false
		case <-time.After(100 * time.Millisecond):
		}
		bracketDisks(t, set, hidden, closed, opened)
	}
	if err := errors.Join(err, fio.Wait()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d brackets", brackets)

	did := d.compare(t, "fio")
	now := readMerges(t, disk)
	for i, fios := range []fioCounts{report.Jobs[0].Read, report.Jobs[0].Write} {
		merges := now[i] - merged[i]
		t.Logf("%s: %+v, %d operations merged", directions[i], fios, merges)
		same(t, directions[i]+" operations of fio", did[i].operations+merges, fios.Operations)
		same(t, directions[i]+" bytes of fio", did[i].bytes, fios.Bytes)
	}
	compareBiolatency(t, tool, before, blockHistogram(t, set, disk))
}

// readDiskStats reads what /proc/diskstats has of the disks, which are those that it has in /sys/block.
func readDiskStats(t testing.TB) map[string]diskStat {
	t.Helper()
	entries, err := os.ReadDir("/sys/block")
	if err != nil {
		t.Fatal(err)
	}
	stats := make(map[string]diskStat)
	for _, entry := range entries {
		stats[entry.Name()] = readDiskStat(t, entry.Name())
	}
	return stats
}

// bracketDisks compares all disks with the kernel's counts of before and after.
func bracketDisks(t testing.TB, set *Set, h *hiddenBlocks, closed, opened map[string]diskStat) {
	t.Helper()
	before := readDiskStats(t)
	snapshot := read(t, set)
	// The program is a little ahead of the kernel.
	time.Sleep(time.Millisecond)
	after := readDiskStats(t)
	hidden := h.read(t, "")
	for disk := range opened {
		ours := probeDiskStat(t, snapshot, disk)
		for i, direction := range directions {
			what := fmt.Sprintf("%s, %s: ", disk, direction)
			least := subDiskCounts(before[disk].counts[i], opened[disk].counts[i])
			most := subDiskCounts(after[disk].counts[i], closed[disk].counts[i])
			within(t, what+"operations", ours.counts[i].operations, least.operations-min(hidden[i].operations, least.operations), most.operations)
			within(t, what+"bytes", ours.counts[i].bytes, least.bytes-min(hidden[i].bytes, least.bytes), most.bytes)
		}
	}
}

// readMerges is how many operations became part of others, by the kernel, that read and that write.
func readMerges(t testing.TB, disk string) (merges [2]uint64) {
	t.Helper()
	text, err := os.ReadFile("/sys/block/" + disk + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(text), new(uint64), &merges[0], new(uint64), new(uint64), new(uint64), &merges[1]); err != nil {
		t.Fatal(err)
	}
	return merges
}

// blockHistogram is how many operations of a disk were in each bucket, by its upper end in seconds.
func blockHistogram(t testing.TB, set *Set, disk string) map[float64]float64 {
	t.Helper()
	buckets := make(map[float64]float64)
	for _, p := range points(t, read(t, set), blockDuration, nil) {
		if attribute(p, "system.device") == disk {
			for i, count := range p.Histogram.Counts {
				buckets[math.Exp2(float64(int(p.Histogram.Offset)+i+1)/8)] += float64(count)
			}
		}
	}
	return buckets
}

// compareBiolatency ends the tool and compares its histogram with what ours has become since. It takes the time from when the driver
// gets the request to when its bytes are completed, which is a little less.
func compareBiolatency(t testing.TB, tool tool, before, after map[float64]float64) {
	t.Helper()
	tool.interrupt(t)
	type row struct{ below, count float64 } // below: seconds
	var rows []row
	var theirs float64
	for tool.Scan() {
		if m := biolatencyRow.FindStringSubmatch(tool.Text()); m != nil {
			last, _ := strconv.ParseFloat(m[2], 64)
			count, _ := strconv.ParseFloat(m[3], 64)
			theirs += count
			rows = append(rows, row{(last + 1) / 1e6, theirs})
		}
	}
	tool.finish(t)
	// ours is how many took no longer than some seconds, by the buckets that end before that.
	ours := func(seconds float64) (n float64) {
		for end, count := range after {
			if end <= seconds {
				n += count - before[end]
			}
		}
		return n
	}
	all := ours(math.Inf(1))
	tolerance := 2 + 0.03*all
	t.Logf("operations: %.0f, by biolatency %.0f", all, theirs)
	if math.Abs(all-theirs) > tolerance {
		t.Errorf("%.0f operations, by biolatency %.0f", all, theirs)
	}
	for _, r := range rows {
		const little = 20e-6 // beside the buckets, which are a factor of 1.09 wide
		low, high := ours(r.below/1.1), ours((r.below+little)*1.1)
		t.Logf("under %6.0f us: %.0f to %.0f, by biolatency %.0f", r.below*1e6, low, high, r.count)
		if r.count < low-tolerance {
			t.Errorf("operations under %.0f us: %.0f to %.0f, by biolatency %.0f", r.below*1e6, low, high, r.count)
		}
	}
}
