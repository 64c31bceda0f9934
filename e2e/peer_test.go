package e2e

import (
	"math"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
)

// TestRunQueueBesideRunqlat holds the distribution of waits against libbpf-tools' runqlat, which measures from the wake-up by
// its own clock, under a load whose waits are milliseconds.
func TestRunQueueBesideRunqlat(t *testing.T) {
	runqlat, err := exec.LookPath("/usr/sbin/runqlat")
	if err != nil {
		t.Fatalf("%v (apt-get install libbpf-tools)", err)
	}
	c := startCollector(t)
	startSidecar(t, "attributes: []\nexport: {interval: 250ms}\n", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.endpoint)
	for range 6 {
		start(t, exec.Command("/bin/sh", "-c", "while :; do :; done"))
	}
	time.Sleep(time.Second)
	before := waits(t, c)
	output, err := exec.Command(runqlat, "6", "1").Output()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	ours, theirs := waits(t, c), map[int]uint64{}
	for bucket := range ours {
		ours[bucket] -= before[bucket]
	}
	for _, line := range regexp.MustCompile(`(\d+) -> \d+ +: (\d+)`).FindAllStringSubmatch(string(output), -1) {
		from, _ := strconv.Atoi(line[1])
		count, _ := strconv.ParseUint(line[2], 10, 64)
		theirs[bucketOf(from)] += count
	}
	t.Logf("waits by power of two of microseconds:\nours   %v\ntheirs %v", ours, theirs)
	for _, q := range []float64{0.9, 0.99} {
		a, b := quantile(ours, q), quantile(theirs, q)
		if a < b-1 || a > b+1 {
			t.Errorf("the %v quantile is 2^%d us by the sidecar and 2^%d us by runqlat", q, a, b)
		}
	}
}

// waits is the distribution that the Collector has, by power of two of microseconds, as runqlat prints it.
func waits(t testing.TB, c *collector) map[int]uint64 {
	t.Helper()
	buckets := map[int]uint64{}
	_, histograms := c.received(t)
	for key, p := range histograms {
		if strings.HasPrefix(key, "linux.scheduler.run_queue.duration{") {
			addWaits(buckets, p)
		}
	}
	return buckets
}

func addWaits(buckets map[int]uint64, p *metrics.ExponentialHistogramDataPoint) {
	buckets[0] += p.ZeroCount
	for i, count := range p.Positive.GetBucketCounts() {
		upper := math.Exp2(float64(int(p.Positive.Offset)+i+1) / math.Exp2(float64(p.Scale)))
		buckets[bucketOf(int(upper*1e6))] += count
	}
}

// bucketOf is the power of two that a number of microseconds lies in; 0 and 1 are in the first.
func bucketOf(us int) int {
	if us < 2 {
		return 0
	}
	return int(math.Log2(float64(us)))
}

func quantile(buckets map[int]uint64, q float64) int {
	var total, sum uint64
	for _, n := range buckets {
		total += n
	}
	for bucket := 0; ; bucket++ {
		if sum += buckets[bucket]; float64(sum) >= q*float64(total) {
			return bucket
		}
	}
}
