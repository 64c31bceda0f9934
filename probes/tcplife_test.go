//go:build !matrix

package probes

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// TestAgainstTCPLife compares the distribution of how long connections were open with what libbpf-tools' tcplife makes of the
// same ones: it tells each, in ms to the microsecond.
func TestAgainstTCPLife(t *testing.T) {
	set := open(t, loadOnly("tcp", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	tool := startTool(t, "PID", "tcplife")
	opened := random(t, "connections", 100, 300)
	kernel := runTCP(t, tcpHelper(t, group, "tcp-connect", "ipv4", opened, 0, 0, 0, 0, 1))
	time.Sleep(500 * time.Millisecond) // until it has told
	tool.interrupt(t)
	var theirs []float64 // seconds
	port := strconv.Itoa(int(kernel["port"]))
	for tool.Scan() {
		// PID COMM LADDR LPORT RADDR RPORT TX_KB RX_KB MS, of which the name may have spaces.
		words := strings.Fields(tool.Text())
		if len(words) < 9 {
			continue
		}
		words = words[len(words)-7:]
		if ms, err := strconv.ParseFloat(words[6], 64); err == nil && (words[1] == port || words[3] == port) {
			theirs = append(theirs, ms/1e3)
		}
	}
	_ = tool.Wait() // it may say that it was interrupted

	ours := make(map[int]uint64) // by the index of the bucket
	var all uint64
	for _, p := range points(t, read(t, set), tcpDuration, in(group)) {
		all += p.Histogram.Count()
		for i, n := range p.Histogram.Counts {
			ours[int(p.Histogram.Offset)+i] += n
		}
	}
	for _, i := range slices.Sorted(maps.Keys(ours)) {
		// It takes the time a little before or after ours; eight connections are of another port.
		const little, tolerance = 20e-6, 2 + 8
		low, high := math.Exp2(float64(i)/4), math.Exp2(float64(i+1)/4)
		var least, most uint64
		for _, seconds := range theirs {
			if seconds > low+little && seconds < high-little {
				least++
			}
			if seconds > low-little && seconds < high+little {
				most++
			}
		}
		t.Logf("up to %8.3f ms: %d; by tcplife %d to %d", high*1e3, ours[i], least, most)
		if ours[i]+tolerance < least || ours[i] > most+tolerance {
			t.Errorf("up to %.3f ms: %d, by tcplife %d to %d", high*1e3, ours[i], least, most)
		}
	}
	t.Logf("%d connections, by tcplife %d", all, len(theirs))
	same(t, "connections", all-8, uint64(len(theirs)))
}
