package bpf_test

import (
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"testing"

	"github.com/cilium/ebpf"
	"go.opentelemetry.io/otel/attribute"
	otel "go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

//go:generate ../scripts/bpf2go.sh histogram testdata/histogram.bpf.c

// The indexes, at scale 3, of the shortest duration and of the longest: 1 ns and 2^63-1 ns.
const (
	firstIndex = -240
	lastIndex  = 264
)

// bounds are the longest durations, in ns, of the buckets from firstIndex on: by exact arithmetic, bucket i of scale 3
// holds n if 2^i * 10^72 < n^8 <= 2^(i+1) * 10^72. The eighth root, rounded down, is three square roots rounded down.
var bounds = func() []uint64 {
	var bounds []uint64
	for i := firstIndex; i <= lastIndex; i++ {
		limit := power8(i + 1)
		root := limit.Sqrt(limit.Sqrt(limit.Sqrt(limit)))
		if !root.IsUint64() {
			panic("bucket bound over 64 bits")
		}
		bounds = append(bounds, root.Uint64())
	}
	return bounds
}()

// power8 is 2^i * 10^72, rounded down: the eighth power, in ns, of 2^(i/8) seconds.
func power8(i int) *big.Int {
	n := new(big.Int).Exp(big.NewInt(10), big.NewInt(72), nil)
	if i < 0 {
		return n.Rsh(n, uint(-i))
	}
	return n.Lsh(n, uint(i))
}

func exactIndex(ns uint64) int64 {
	return firstIndex + int64(sort.Search(len(bounds), func(i int) bool { return ns <= bounds[i] }))
}

// The table of bounds is fast; that it is right is seen from the definition, without roots or rounding.
func TestExactIndex(t *testing.T) {
	values := boundaryValues()
	for range 10_000 {
		values = append(values, logUniform())
	}
	for _, ns := range values {
		i := exactIndex(ns)
		eighth := new(big.Int).Exp(new(big.Int).SetUint64(ns), big.NewInt(8), nil)
		below, upTo := new(big.Int).Exp(big.NewInt(10), big.NewInt(72), nil), new(big.Int)
		if i < 0 {
			eighth.Lsh(eighth, uint(-i))
		} else {
			below.Lsh(below, uint(i))
		}
		if upTo.Lsh(below, 1); eighth.Cmp(below) <= 0 || eighth.Cmp(upTo) > 0 {
			t.Errorf("%d ns is not in bucket %d", ns, i)
		}
	}
}

// boundaryValues are the whole ns beside every boundary there is, and one more on each side.
func boundaryValues() []uint64 {
	values := []uint64{1, 1<<62 - 1, 1 << 62, math.MaxInt64}
	for _, bound := range bounds {
		for ns := bound - 1; ns != bound+3; ns++ {
			if ns > 0 && ns <= math.MaxInt64 {
				values = append(values, ns)
			}
		}
	}
	slices.Sort(values)
	return slices.Compact(values)
}

// logUniform is a random duration from 1 to 2^62 ns, every octave as likely as any other.
func logUniform() uint64 { return uint64(math.Exp2(rand.Float64() * 62)) }

// recorder runs the functions of histogram.bpf.h in the kernel.
type recorder struct {
	testing.TB
	coll *ebpf.Collection
}

func newRecorder(t testing.TB) recorder {
	t.Helper()
	kerneltest.NeedRoot(t)
	spec, err := loadHistogram()
	if err != nil {
		t.Fatal(err)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(coll.Close)
	return recorder{t, coll}
}

// record records values in both histograms. It returns their indexes at scale 3, for those that have one.
func (r recorder) record(values []uint64) []int64 {
	r.Helper()
	indexes := make([]int64, 0, len(values))
	var in [4096]uint64
	var out [4096]int64
	for batch := range slices.Chunk(values, len(in)) {
		n := copy(in[:], batch)
		r.set("values", in)
		r.set("count", uint32(n))
		r.set("next", uint32(0))
		for next := uint32(0); next < uint32(n); r.get("next", &next) {
			// A signal makes it begin again; the program then goes on where it was, and does nothing at the end.
			if _, _, err := r.coll.Programs["record_next"].Benchmark(make([]byte, 14), n, func() {}); err != nil {
				r.Fatal(err)
			}
		}
		r.get("indexes", &out)
		indexes = append(indexes, out[:n]...)
	}
	return indexes
}

func (r recorder) set(variable string, value any) {
	r.Helper()
	if err := r.coll.Variables[variable].Set(value); err != nil {
		r.Fatal(err)
	}
}

func (r recorder) get(variable string, value any) {
	r.Helper()
	if err := r.coll.Variables[variable].Get(value); err != nil {
		r.Fatal(err)
	}
}

func (r recorder) histograms() (latency histogramLatencyHistogram, lifetime histogramLifetimeHistogram) {
	r.Helper()
	r.get("latency", &latency)
	r.get("lifetime", &lifetime)
	return latency, lifetime
}

func TestIndex(t *testing.T) {
	r := newRecorder(t)
	random := 1_000_000
	if os.Getenv("SIDECAR_VM_KERNEL") != "" {
		random = 100_000 // software emulation
	}
	values := boundaryValues()
	for range random {
		values = append(values, logUniform())
	}
	wrong := 0
	for i, got := range r.record(values) {
		if want := exactIndex(values[i]); got != want {
			if wrong++; wrong <= 10 {
				t.Errorf("index of %d ns is %d, want %d", values[i], got, want)
			}
		}
	}
	t.Logf("%d values, %d of them at boundaries, %d wrong", len(values), len(values)-random, wrong)
}

// OpenTelemetry's own arithmetic is in floating point, and may be off beside a boundary.
func TestIndexIsOpenTelemetrys(t *testing.T) {
	const samples = 1500 // under the SDK's limit of attribute sets
	r := newRecorder(t)
	values := make([]uint64, samples)
	for i := range values {
		for values[i] == 0 || besideBoundary(values[i]) {
			values[i] = logUniform()
		}
	}
	ours, theirs := r.record(values), otelIndexes(t, values)
	for i, ns := range values {
		if ours[i] != theirs[i] {
			t.Errorf("index of %d ns is %d, OpenTelemetry's is %d", ns, ours[i], theirs[i])
		}
	}
}

// besideBoundary tells whether a duration is within 10^-12 of a boundary, or 1 ns. Float64 has 16 digits.
func besideBoundary(ns uint64) bool {
	return exactIndex(ns-ns/1e12-1) != exactIndex(ns+ns/1e12+1)
}

// otelIndexes are the buckets that the OpenTelemetry SDK puts durations into at scale 3.
func otelIndexes(t testing.TB, values []uint64) []int64 {
	t.Helper()
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader), metric.WithView(metric.NewView(
		metric.Instrument{Name: "*"},
		metric.Stream{Aggregation: metric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 3}},
	)))
	histogram, err := provider.Meter("test").Float64Histogram("duration")
	if err != nil {
		t.Fatal(err)
	}
	for i, ns := range values {
		histogram.Record(t.Context(), float64(ns)/1e9, otel.WithAttributes(attribute.Int("i", i)))
	}
	var collected metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &collected); err != nil {
		t.Fatal(err)
	}
	indexes := make([]int64, len(values))
	data := collected.ScopeMetrics[0].Metrics[0].Data.(metricdata.ExponentialHistogram[float64])
	for _, point := range data.DataPoints {
		i, ok := point.Attributes.Value("i")
		if !ok || point.Scale != 3 || len(point.PositiveBucket.Counts) != 1 {
			t.Fatalf("unexpected point %+v", point)
		}
		indexes[i.AsInt64()] = int64(point.PositiveBucket.Offset)
	}
	return indexes
}

// layout is a histogram type of histogram.bpf.h, as user space knows it.
type layout struct{ scale, min, max int }

// fill is what the layout's buckets hold after values, by exact arithmetic; what is out of range is in the end buckets.
func (l layout) fill(values []uint64) []uint64 {
	buckets := make([]uint64, (l.max-l.min)<<l.scale)
	for _, ns := range values {
		if ns == 0 || ns > math.MaxInt64 {
			continue
		}
		bucket := int(exactIndex(ns)>>(3-l.scale)) - l.min<<l.scale
		buckets[min(max(bucket, 0), len(buckets)-1)]++
	}
	return buckets
}

func TestRecord(t *testing.T) {
	random := []uint64{}
	for range 20_000 {
		random = append(random, logUniform())
	}
	for _, test := range []struct {
		name   string
		values []uint64
		zero   uint64
	}{
		{name: "nothing"},
		{name: "zero", values: []uint64{0, 0, 0}, zero: 3},
		// A clock that went back: counted, and not as the longest of all.
		{name: "negative", values: []uint64{1 << 63, math.MaxUint64}, zero: 2},
		{name: "shortest", values: []uint64{1, 2, 953, 954}},
		{name: "longest latencies", values: []uint64{64e9 - 1, 64e9, 64e9 + 1, 1 << 40}},
		{name: "longest lifetimes", values: []uint64{131072e9 - 1, 131072e9, 131072e9 + 1, math.MaxInt64}},
		{name: "boundaries", values: boundaryValues()},
		{name: "random", values: random},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRecorder(t)
			r.record(test.values)
			latency, lifetime := r.histograms()
			var sum uint64
			for _, ns := range test.values {
				if ns <= math.MaxInt64 {
					sum += ns // modulo 2^64, as the kernel
				}
			}
			check := func(kind string, gotSum, gotZero uint64, got, want []uint64) {
				if gotSum != sum || gotZero != test.zero {
					t.Errorf("%s: sum %d, zero count %d; want %d, %d", kind, gotSum, gotZero, sum, test.zero)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s: buckets %v, want %v", kind, got, want)
				}
			}
			check("latency", latency.Sum, latency.Zero, latency.Buckets[:], layout{3, -20, 6}.fill(test.values))
			check("lifetime", lifetime.Sum, lifetime.Zero, lifetime.Buckets[:], layout{2, -20, 17}.fill(test.values))
		})
	}
}
