package telemetry

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	service "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"
)

// TestEncode compares requests of random metrics with those of the SDK's exporter, in one piece and in several.
func TestEncode(t *testing.T) {
	r := new(receiver)
	sdk, err := otlpmetricgrpc.New(t.Context(), otlpmetricgrpc.WithEndpointURL(r.serve(t, "127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sdk.Shutdown(t.Context()) }()

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		rm := randomMetrics(random)
		if err := sdk.Export(t.Context(), rm); err != nil {
			t.Fatal(err)
		}
		requests, _ := r.take()
		want := pointsOfRequest(t, requests[0])
		if n := countPoints(rm); n != len(want) {
			t.Fatalf("counted %d points, want %d", n, len(want))
		}
		limit := 1 + random.IntN(20_000)
		for _, test := range []struct{ from, to, limit int }{
			{0, len(want), math.MaxInt},
			{0, len(want), limit},
			{random.IntN(len(want) + 1), len(want), limit},
			{0, random.IntN(len(want) + 1), limit},
		} {
			var got []string
			for from := test.from; from < test.to; {
				b, next := encode(nil, rm, from, test.to, test.limit)
				q := decode(t, b)
				points := pointsOfRequest(t, q)
				if len(points) == 0 || len(points) != next-from {
					t.Fatalf("%d points, from %d to %d", len(points), from, next)
				}
				if len(b) > test.limit && len(points) > 1 {
					t.Fatalf("%d bytes, limit %d", len(b), test.limit)
				}
				const gaps = 4 * (lengthRoom - 1) // that may close at the end
				if more, _ := encode(nil, rm, from, next+1, math.MaxInt); next < test.to && len(more) <= test.limit-gaps {
					t.Fatalf("%d bytes, limit %d, and the next point makes it %d", len(b), test.limit, len(more))
				}
				got = append(got, points...)
				from = next
			}
			if !slices.Equal(got, want[test.from:test.to]) {
				t.Fatalf("%+v: got %q, want %q", test, got, want[test.from:test.to])
			}
		}
	}
}

// decode decodes a request, and checks that it is as short as it can be and has nothing empty in it.
func decode(t *testing.T, b []byte) *service.ExportMetricsServiceRequest {
	t.Helper()
	q := new(service.ExportMetricsServiceRequest)
	if err := proto.Unmarshal(b, q); err != nil {
		t.Fatal(err)
	}
	if n := proto.Size(q); n != len(b) {
		t.Fatalf("%d bytes, %d are enough: %v", len(b), n, q)
	}
	for _, sm := range q.ResourceMetrics[0].ScopeMetrics {
		if len(sm.Metrics) == 0 {
			t.Fatalf("a scope without a metric: %v", sm)
		}
		for _, m := range sm.Metrics {
			if len(splitMetric(m)) == 0 {
				t.Fatalf("a metric without a point: %v", m)
			}
		}
	}
	return q
}

// pointsOfRequest returns every point of q, each as a request of that point alone.
func pointsOfRequest(t *testing.T, q *service.ExportMetricsServiceRequest) []string {
	t.Helper()
	var found []string
	for _, rm := range q.ResourceMetrics {
		for _, sm := range rm.ScopeMetrics {
			for _, m := range sm.Metrics {
				for _, one := range splitMetric(m) {
					b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&otlp.ResourceMetrics{
						Resource: rm.Resource, SchemaUrl: rm.SchemaUrl,
						ScopeMetrics: []*otlp.ScopeMetrics{{Scope: sm.Scope, SchemaUrl: sm.SchemaUrl, Metrics: []*otlp.Metric{one}}},
					})
					if err != nil {
						t.Fatal(err)
					}
					found = append(found, string(b))
				}
			}
		}
	}
	return found
}

// splitMetric returns a metric for each point of m.
func splitMetric(m *otlp.Metric) []*otlp.Metric {
	var found []*otlp.Metric
	add := func(one *otlp.Metric) {
		one.Name, one.Description, one.Unit = m.Name, m.Description, m.Unit
		found = append(found, one)
	}
	switch d := m.Data.(type) {
	case *otlp.Metric_Gauge:
		for i := range d.Gauge.DataPoints {
			add(&otlp.Metric{Data: &otlp.Metric_Gauge{Gauge: &otlp.Gauge{DataPoints: d.Gauge.DataPoints[i : i+1]}}})
		}
	case *otlp.Metric_Sum:
		for i := range d.Sum.DataPoints {
			add(&otlp.Metric{Data: &otlp.Metric_Sum{Sum: &otlp.Sum{
				DataPoints: d.Sum.DataPoints[i : i+1], AggregationTemporality: d.Sum.AggregationTemporality, IsMonotonic: d.Sum.IsMonotonic,
			}}})
		}
	case *otlp.Metric_Histogram:
		for i := range d.Histogram.DataPoints {
			add(&otlp.Metric{Data: &otlp.Metric_Histogram{Histogram: &otlp.Histogram{
				DataPoints: d.Histogram.DataPoints[i : i+1], AggregationTemporality: d.Histogram.AggregationTemporality,
			}}})
		}
	case *otlp.Metric_ExponentialHistogram:
		for i := range d.ExponentialHistogram.DataPoints {
			add(&otlp.Metric{Data: &otlp.Metric_ExponentialHistogram{ExponentialHistogram: &otlp.ExponentialHistogram{
				DataPoints: d.ExponentialHistogram.DataPoints[i : i+1], AggregationTemporality: d.ExponentialHistogram.AggregationTemporality,
			}}})
		}
	}
	return found
}

// randomMetrics returns metrics of every kind with attributes of every kind, and zeros in every place.
func randomMetrics(r *rand.Rand) *metricdata.ResourceMetrics {
	text := func() string { return strings.Repeat("é", r.IntN(1<<r.IntN(9))) }
	value := func() attribute.Value {
		list := func(n int) []string {
			var l []string
			for range n {
				l = append(l, text())
			}
			return l
		}
		switch r.IntN(12) {
		case 0:
			return attribute.BoolValue(r.IntN(2) == 0)
		case 1:
			return attribute.Int64Value(r.Int64() - math.MaxInt64/2)
		case 2:
			return attribute.Float64Value(r.NormFloat64())
		case 3:
			return attribute.BoolSliceValue([]bool{true, false}[:r.IntN(3)])
		case 4:
			return attribute.Int64SliceValue([]int64{-1, 1, math.MinInt64}[:r.IntN(4)])
		case 5:
			return attribute.Float64SliceValue([]float64{0, -1, math.Pi}[:r.IntN(4)])
		case 6:
			return attribute.StringSliceValue(list(r.IntN(4)))
		case 7:
			return attribute.ByteSliceValue([]byte(text()))
		case 8:
			return attribute.SliceValue(attribute.StringValue(text()), attribute.Int64Value(-1))
		case 9:
			return attribute.MapValue(attribute.String(text(), text()), attribute.Bool("x", true))
		case 10:
			return attribute.Value{}
		default:
			return attribute.StringValue(text())
		}
	}
	set := func() attribute.Set {
		var kvs []attribute.KeyValue
		for i := range r.IntN(12) {
			kvs = append(kvs, attribute.KeyValue{Key: attribute.Key(fmt.Sprint(text(), i)), Value: value()})
		}
		return attribute.NewSet(kvs...)
	}
	counts := func() []uint64 {
		c := make([]uint64, r.IntN(2)*r.IntN(161))
		for i := range c {
			c[i] = r.Uint64() >> r.IntN(65)
		}
		return c
	}
	when := func() time.Time {
		if r.IntN(4) == 0 {
			return time.Time{}
		}
		return time.Unix(0, r.Int64())
	}
	data := func() metricdata.Aggregation {
		var (
			n           = r.IntN(20)
			temporality = []metricdata.Temporality{metricdata.CumulativeTemporality, metricdata.DeltaTemporality}[r.IntN(2)]
			monotonic   = r.IntN(2) == 0
		)
		if r.IntN(2) == 0 {
			return randomData(r, n, temporality, monotonic, set, counts, when, func() int64 { return r.Int64() >> r.IntN(64) })
		}
		return randomData(r, n, temporality, monotonic, set, counts, when, func() float64 { return float64(r.IntN(3)) * r.NormFloat64() })
	}
	attrs := set()
	rm := &metricdata.ResourceMetrics{Resource: resource.NewWithAttributes(text(), attrs.ToSlice()...)}
	for range r.IntN(4) {
		sm := metricdata.ScopeMetrics{Scope: instrumentation.Scope{Name: text(), Version: text(), SchemaURL: text(), Attributes: set()}}
		for range r.IntN(4) {
			sm.Metrics = append(sm.Metrics, metricdata.Metrics{Name: text(), Description: text(), Unit: text(), Data: data()})
		}
		rm.ScopeMetrics = append(rm.ScopeMetrics, sm)
	}
	return rm
}

func randomData[N int64 | float64](
	r *rand.Rand, n int, temporality metricdata.Temporality, monotonic bool,
	set func() attribute.Set, counts func() []uint64, when func() time.Time, value func() N,
) metricdata.Aggregation {
	extrema := func() metricdata.Extrema[N] {
		if r.IntN(2) == 0 {
			return metricdata.Extrema[N]{}
		}
		return metricdata.NewExtrema(value())
	}
	switch kind := r.IntN(4); kind {
	case 0, 1:
		p := make([]metricdata.DataPoint[N], n)
		for i := range p {
			p[i] = metricdata.DataPoint[N]{Attributes: set(), StartTime: when(), Time: when(), Value: value()}
		}
		if kind == 0 {
			return metricdata.Gauge[N]{DataPoints: p}
		}
		return metricdata.Sum[N]{DataPoints: p, Temporality: temporality, IsMonotonic: monotonic}
	case 2:
		p := make([]metricdata.HistogramDataPoint[N], n)
		for i := range p {
			c := counts()
			bounds := make([]float64, max(0, len(c)-1))
			for j := range bounds {
				bounds[j] = r.NormFloat64()
			}
			p[i] = metricdata.HistogramDataPoint[N]{Attributes: set(), StartTime: when(), Time: when(), Count: r.Uint64() >> r.IntN(65), Sum: value(),
				Min: extrema(), Max: extrema(), BucketCounts: c, Bounds: bounds}
		}
		return metricdata.Histogram[N]{DataPoints: p, Temporality: temporality}
	default:
		p := make([]metricdata.ExponentialHistogramDataPoint[N], n)
		for i := range p {
			p[i] = metricdata.ExponentialHistogramDataPoint[N]{Attributes: set(), StartTime: when(), Time: when(), Count: r.Uint64() >> r.IntN(65), Sum: value(),
				Min: extrema(), Max: extrema(), Scale: int32(r.IntN(30) - 10), ZeroCount: r.Uint64() >> r.IntN(65), ZeroThreshold: float64(r.IntN(2)),
				PositiveBucket: metricdata.ExponentialBucket{Offset: r.Int32() - math.MaxInt32/2, Counts: counts()},
				NegativeBucket: metricdata.ExponentialBucket{Offset: int32(r.IntN(2)), Counts: counts()}}
		}
		return metricdata.ExponentialHistogram[N]{DataPoints: p, Temporality: temporality}
	}
}
