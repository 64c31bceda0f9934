package telemetry

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/ebpf-sidecar/sidecar/internal/golden"
	"github.com/ebpf-sidecar/sidecar/probes"
)

// TestExplicitBuckets prints what the explicit form makes of known durations.
func TestExplicitBuckets(t *testing.T) {
	r := new(receiver)
	// Scale 3: bucket i ends at 2^((i+1)/8) s.
	source := newSource(t,
		metricOf(wait, probes.Point{Attributes: attrs("systemd.unit", "a.service"), Start: bootTime, Histogram: probes.HistogramData{
			Scale: 3, ZeroCount: 2, Sum: 1.5, Offset: -161, Counts: append([]uint64{
				1,                              // ends at 2^-20 s
				10, 10, 10, 10, 10, 10, 10, 10, // (2^-20, 2^-19]
				100, // the next power of two begins
			}, make([]uint64, 198)...),
		}}, probes.Point{Attributes: attrs("systemd.unit", "b.service"), Start: bootTime.Add(1), Histogram: probes.HistogramData{
			Scale: 3, Sum: 100, Offset: -1, Counts: append(slices.Repeat([]uint64{1}, 48), 1000),
		}}))
	p, _ := start(t, Options{ExplicitBuckets: true, OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}}, source)
	flush(t, p)
	requests, _ := r.take()
	m := metricsByName(requests)
	var out bytes.Buffer
	for _, d := range m[wait.Name].GetHistogram().GetDataPoints() {
		fmt.Fprintf(&out, "%v start %d count %d sum %g\n", attributesOf(d.Attributes), d.StartTimeUnixNano, d.Count, d.GetSum())
		for i, n := range d.BucketCounts {
			bound := math.Inf(1)
			if i < len(d.ExplicitBounds) {
				bound = d.ExplicitBounds[i]
			}
			fmt.Fprintf(&out, "  <= %-23v %d\n", bound, n)
		}
	}
	golden.Check(t, "explicit.txt", out.Bytes())
	if len(m["sidecar.collection.duration"].GetHistogram().GetDataPoints()) != 1 {
		t.Errorf("the self-metrics have another form: %v", m["sidecar.collection.duration"])
	}
}

// TestFold counts random durations in exponential buckets as the kernel does, and in explicit ones directly.
func TestFold(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, r := range []probes.Range{{Scale: 0, Min: -20, Max: 6}, {Scale: 2, Min: -20, Max: 17}, {Scale: 3, Min: -20, Max: 6}, {Scale: 3, Min: -30, Max: 0}} {
		bounds, first := explicitBounds(r)
		h := probes.HistogramData{Scale: int32(r.Scale), Offset: int32(r.Min << r.Scale), Counts: make([]uint64, r.Buckets())}
		want := make([]uint64, len(bounds)+1)
		for range 100_000 {
			d := math.Exp2(float64(r.Min-2) + random.Float64()*float64(r.Max-r.Min+4))
			if random.IntN(10) == 0 {
				d = math.Exp2(math.Round(math.Log2(d))) // a bound itself
			}
			i := int(math.Ceil(math.Log2(d)*math.Exp2(float64(r.Scale)))) - 1
			i = min(max(i, r.Min<<r.Scale), r.Max<<r.Scale-1)
			h.Counts[i-r.Min<<r.Scale]++
			want[bucketOf(bounds, d)]++
		}
		got := make([]uint64, len(want))
		fold(got, first, &h)
		if !slices.Equal(got, want) {
			t.Errorf("%+v: got %v, want %v", r, got, want)
		}
	}
}

func bucketOf(bounds []float64, d float64) int {
	i, _ := slices.BinarySearch(bounds, d)
	return i
}

// TestSameAttributes has two series that cannot be told apart once their names are valid UTF-8.
func TestSameAttributes(t *testing.T) {
	a, b := attrs("process.executable.name", "\xff"), attrs("process.executable.name", "\xfe")
	data := func(offset int32, counts ...uint64) probes.HistogramData {
		return probes.HistogramData{Scale: 3, ZeroCount: 1, Sum: 0.5, Offset: offset, Counts: counts}
	}
	for _, test := range []struct {
		a, b   probes.HistogramData
		offset int32
		counts []uint64
	}{
		{data(-10, 1, 2), data(-9, 10, 20, 30), -10, []uint64{1, 12, 20, 30}},
		{data(5, 1), data(-2, 7), -2, []uint64{7, 0, 0, 0, 0, 0, 0, 1}},
		{data(0), data(3, 1), 3, []uint64{1}},
		{data(3, 1), data(0), 3, []uint64{1}},
		{data(0), data(0), 0, nil},
	} {
		c := newCollector(nil, nil, false)
		c.snapshot = &probes.Snapshot{Time: bootTime.Add(time.Hour), Metrics: []probes.Metric{metricOf(wait,
			probes.Point{Attributes: a, Start: bootTime.Add(1), Histogram: test.a},
			probes.Point{Attributes: b, Start: bootTime, Histogram: test.b})}}
		c.sets.begin()
		sm, err := c.Produce(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		points := sm[0].Metrics[0].Data.(metricdata.ExponentialHistogram[float64]).DataPoints
		if len(points) != 1 {
			t.Fatalf("%d points", len(points))
		}
		p := points[0]
		if p.Count != test.a.Count()+test.b.Count() || p.ZeroCount != 2 || p.Sum != 1 || !p.StartTime.Equal(bootTime) ||
			p.PositiveBucket.Offset != test.offset || !slices.Equal(p.PositiveBucket.Counts, test.counts) {
			t.Errorf("%v + %v: got %+v", test.a, test.b, p)
		}
	}

	for name, explicit := range map[string]bool{"exponential": false, "explicit": true} {
		t.Run(name, func(t *testing.T) {
			r := new(receiver)
			p, _ := start(t, Options{ExplicitBuckets: explicit, OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}}, newSource(t,
				metricOf(executions, probes.Point{Attributes: a, Start: bootTime.Add(1), Value: 3}, probes.Point{Attributes: b, Start: bootTime, Value: 4}),
				metricOf(wait, probes.Point{Attributes: a, Start: bootTime.Add(1), Histogram: data(0, 1)}, probes.Point{Attributes: b, Start: bootTime, Histogram: data(0, 1)})))
			flush(t, p)
			requests, _ := r.take()
			m := metricsByName(requests)
			got := numberOf(t, m[executions.Name], map[string]any{"process.executable.name": "\uFFFD"})
			if got.GetAsInt() != 7 || got.StartTimeUnixNano != uint64(bootTime.UnixNano()) {
				t.Errorf("got %v", got)
			}
			var count, begin []uint64
			for _, d := range m[wait.Name].GetHistogram().GetDataPoints() {
				count, begin = append(count, d.Count), append(begin, d.StartTimeUnixNano)
			}
			for _, d := range m[wait.Name].GetExponentialHistogram().GetDataPoints() {
				count, begin = append(count, d.Count), append(begin, d.StartTimeUnixNano)
			}
			if !slices.Equal(count, []uint64{4}) || !slices.Equal(begin, []uint64{uint64(bootTime.UnixNano())}) {
				t.Errorf("got %v", m[wait.Name])
			}
		})
	}
}
