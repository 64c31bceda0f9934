package telemetry

import (
	"encoding/binary"
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// encode appends to b the OTLP request (ExportMetricsServiceRequest) of the points of rm from number from on and before
// number to, counted over all metrics: as many as fit in limit bytes, and at least one. It returns the number of the
// first point that is left.
//
// It says what the SDK's exporters would, without the tree of objects that they make first, which takes several times as
// long as the bytes. Fields are written by their numbers in opentelemetry/proto, and the points of a metric after all
// else, so that a request can end with any point. Exemplars are left out: they are off.
func encode(b []byte, rm *metricdata.ResourceMetrics, from, to, limit int) (_ []byte, next int) {
	const inResource, inScope = 1, 2 // depths
	m := message{bytes: b}
	m.begin(1) // ResourceMetrics
	m.begin(1) // Resource
	m.bytes = appendAttributes(m.bytes, 1, rm.Resource.Set())
	m.end(inResource)
	m.bytes = appendString(m.bytes, 3, rm.Resource.SchemaURL())
	first := 0 // the number of the metric's first point
	next = from
	for i := range rm.ScopeMetrics {
		scope := &rm.ScopeMetrics[i]
		for j := range scope.Metrics {
			metric := &scope.Metrics[j]
			p := pointsOf(metric.Data)
			begin, end := next-first, min(to-first, p.n)
			first += p.n
			if begin >= end {
				continue
			}
			fits := len(m.bytes)
			if m.depth() == inResource {
				m.begin(2) // ScopeMetrics
				m.begin(1) // InstrumentationScope
				m.bytes = appendString(m.bytes, 1, scope.Scope.Name)
				m.bytes = appendString(m.bytes, 2, scope.Scope.Version)
				m.bytes = appendAttributes(m.bytes, 3, &scope.Scope.Attributes)
				m.end(inScope)
				m.bytes = appendString(m.bytes, 3, scope.Scope.SchemaURL)
			}
			m.begin(2) // Metric
			m.bytes = appendString(m.bytes, 1, metric.Name)
			m.bytes = appendString(m.bytes, 2, metric.Description)
			m.bytes = appendString(m.bytes, 3, metric.Unit)
			m.begin(p.field) // its data
			m.bytes = appendVarint(m.bytes, 2, uint64(p.temporality))
			m.bytes = appendVarint(m.bytes, 3, protowire.EncodeBool(p.monotonic))
			for k := begin; k < end; k++ {
				m.bytes = p.append(m.bytes, k)
				if len(m.bytes) > limit && next > from {
					m.cut(fits)
					m.end(0)
					return m.bytes, next
				}
				fits = len(m.bytes)
				next++
			}
			m.end(inScope)
		}
		m.end(inResource)
	}
	m.end(0)
	return m.bytes, next
}

// countPoints returns how many points rm has.
func countPoints(rm *metricdata.ResourceMetrics) int {
	n := 0
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			n += pointsOf(m.Data).n
		}
	}
	return n
}

// points are those of a metric of any kind.
type points struct {
	field       protowire.Number // of this kind, in Metric
	temporality otlp.AggregationTemporality
	monotonic   bool
	n           int
	append      func(b []byte, i int) []byte
}

// pointsOf returns the points of data. Summaries do not exist here: neither the SDK nor our producer makes them.
func pointsOf(data metricdata.Aggregation) points {
	switch a := data.(type) {
	case metricdata.Gauge[int64]:
		return pointsIn(5, a.DataPoints, 0, appendNumber)
	case metricdata.Gauge[float64]:
		return pointsIn(5, a.DataPoints, 0, appendNumber)
	case metricdata.Sum[int64]:
		p := pointsIn(7, a.DataPoints, a.Temporality, appendNumber)
		p.monotonic = a.IsMonotonic
		return p
	case metricdata.Sum[float64]:
		p := pointsIn(7, a.DataPoints, a.Temporality, appendNumber)
		p.monotonic = a.IsMonotonic
		return p
	case metricdata.Histogram[int64]:
		return pointsIn(9, a.DataPoints, a.Temporality, appendHistogram)
	case metricdata.Histogram[float64]:
		return pointsIn(9, a.DataPoints, a.Temporality, appendHistogram)
	case metricdata.ExponentialHistogram[int64]:
		return pointsIn(10, a.DataPoints, a.Temporality, appendExponential)
	case metricdata.ExponentialHistogram[float64]:
		return pointsIn(10, a.DataPoints, a.Temporality, appendExponential)
	default:
		return points{}
	}
}

func pointsIn[P any](field protowire.Number, list []P, t metricdata.Temporality, add func([]byte, *P) []byte) points {
	p := points{field: field, n: len(list)}
	switch t {
	case metricdata.CumulativeTemporality:
		p.temporality = otlp.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
	case metricdata.DeltaTemporality:
		p.temporality = otlp.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA
	}
	p.append = func(b []byte, i int) []byte {
		b, start := begin(b, 1) // data_points
		return end(add(b, &list[i]), start)
	}
	return p
}

// appendNumber appends the fields of a NumberDataPoint.
func appendNumber[N int64 | float64](b []byte, p *metricdata.DataPoint[N]) []byte {
	b = appendTime(b, 2, p.StartTime)
	b = appendTime(b, 3, p.Time)
	switch v := any(p.Value).(type) {
	case float64:
		b = appendDouble(b, 4, v)
	case int64:
		b = protowire.AppendTag(b, 6, protowire.Fixed64Type)
		b = protowire.AppendFixed64(b, uint64(v))
	}
	return appendAttributes(b, 7, &p.Attributes)
}

// appendHistogram appends the fields of a HistogramDataPoint.
func appendHistogram[N int64 | float64](b []byte, p *metricdata.HistogramDataPoint[N]) []byte {
	b = appendTime(b, 2, p.StartTime)
	b = appendTime(b, 3, p.Time)
	b = appendFixed64(b, 4, p.Count)
	b = appendDouble(b, 5, float64(p.Sum))
	b = appendPacked(b, 6, p.BucketCounts, protowire.AppendFixed64)
	b = appendPacked(b, 7, p.Bounds, func(b []byte, v float64) []byte {
		return protowire.AppendFixed64(b, math.Float64bits(v))
	})
	b = appendAttributes(b, 9, &p.Attributes)
	b = appendExtrema(b, 11, p.Min)
	return appendExtrema(b, 12, p.Max)
}

// appendExponential appends the fields of an ExponentialHistogramDataPoint.
func appendExponential[N int64 | float64](b []byte, p *metricdata.ExponentialHistogramDataPoint[N]) []byte {
	b = appendAttributes(b, 1, &p.Attributes)
	b = appendTime(b, 2, p.StartTime)
	b = appendTime(b, 3, p.Time)
	b = appendFixed64(b, 4, p.Count)
	b = appendDouble(b, 5, float64(p.Sum))
	b = appendVarint(b, 6, protowire.EncodeZigZag(int64(p.Scale)))
	b = appendFixed64(b, 7, p.ZeroCount)
	b = appendBuckets(b, 8, &p.PositiveBucket)
	b = appendBuckets(b, 9, &p.NegativeBucket)
	b = appendExtrema(b, 12, p.Min)
	b = appendExtrema(b, 13, p.Max)
	return appendFixed64(b, 14, math.Float64bits(p.ZeroThreshold))
}

func appendBuckets(b []byte, field protowire.Number, buckets *metricdata.ExponentialBucket) []byte {
	b, start := begin(b, field)
	b = appendVarint(b, 1, protowire.EncodeZigZag(int64(buckets.Offset)))
	if len(buckets.Counts) > 0 {
		var counts int
		b, counts = begin(b, 2)
		for _, n := range buckets.Counts {
			b = binary.AppendUvarint(b, n) // is inlined, which makes the whole point a quarter faster
		}
		b = end(b, counts)
	}
	return end(b, start)
}

// appendPacked appends a repeated field of numbers.
func appendPacked[V any](b []byte, field protowire.Number, list []V, add func([]byte, V) []byte) []byte {
	if len(list) == 0 {
		return b
	}
	b, start := begin(b, field)
	for _, v := range list {
		b = add(b, v)
	}
	return end(b, start)
}

// appendExtrema appends a minimum or a maximum, if there is one.
func appendExtrema[N int64 | float64](b []byte, field protowire.Number, e metricdata.Extrema[N]) []byte {
	if v, ok := e.Value(); ok {
		return appendDouble(b, field, float64(v))
	}
	return b
}

// appendAttributes appends a KeyValue for each attribute of set.
func appendAttributes(b []byte, field protowire.Number, set *attribute.Set) []byte {
	for i := range set.Len() {
		kv, _ := set.Get(i)
		b = appendKeyValue(b, field, &kv)
	}
	return b
}

func appendKeyValue(b []byte, field protowire.Number, kv *attribute.KeyValue) []byte {
	b, start := begin(b, field)
	b = appendString(b, 1, string(kv.Key))
	return end(appendValue(b, 2, kv.Value), start)
}

// appendValue appends v as an AnyValue.
func appendValue(b []byte, field protowire.Number, v attribute.Value) []byte {
	b, start := begin(b, field)
	switch v.Type() {
	case attribute.STRING:
		b = protowire.AppendTag(b, 1, protowire.BytesType)
		b = protowire.AppendString(b, v.AsString())
	case attribute.BOOL:
		b = protowire.AppendTag(b, 2, protowire.VarintType)
		b = protowire.AppendVarint(b, protowire.EncodeBool(v.AsBool()))
	case attribute.INT64:
		b = protowire.AppendTag(b, 3, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(v.AsInt64()))
	case attribute.FLOAT64:
		b = appendDouble(b, 4, v.AsFloat64())
	case attribute.BOOLSLICE:
		b = appendArray(b, v.AsBoolSlice(), attribute.BoolValue)
	case attribute.INT64SLICE:
		b = appendArray(b, v.AsInt64Slice(), attribute.Int64Value)
	case attribute.FLOAT64SLICE:
		b = appendArray(b, v.AsFloat64Slice(), attribute.Float64Value)
	case attribute.STRINGSLICE:
		b = appendArray(b, v.AsStringSlice(), attribute.StringValue)
	case attribute.SLICE:
		b = appendArray(b, v.AsSlice(), func(v attribute.Value) attribute.Value { return v })
	case attribute.MAP:
		b, list := begin(b, 6) // KeyValueList
		for _, kv := range v.AsMap() {
			b = appendKeyValue(b, 1, &kv)
		}
		return end(end(b, list), start)
	case attribute.BYTESLICE:
		b = protowire.AppendTag(b, 7, protowire.BytesType)
		b = protowire.AppendBytes(b, v.AsByteSlice())
	}
	return end(b, start)
}

// appendArray appends list as an ArrayValue.
func appendArray[T any](b []byte, list []T, value func(T) attribute.Value) []byte {
	b, start := begin(b, 5)
	for _, v := range list {
		b = appendValue(b, 1, value(v))
	}
	return end(b, start)
}

// appendTime appends t, but not the zero time.
func appendTime(b []byte, field protowire.Number, t time.Time) []byte {
	return appendFixed64(b, field, uint64(max(0, t.UnixNano())))
}

// appendDouble appends v, zero too: the fields that it is for tell zero and nothing apart.
func appendDouble(b []byte, field protowire.Number, v float64) []byte {
	b = protowire.AppendTag(b, field, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, math.Float64bits(v))
}

// appendFixed64 appends v, but not zero, which is the default.
func appendFixed64(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.Fixed64Type)
	return protowire.AppendFixed64(b, v)
}

// appendVarint appends v, but not zero, which is the default.
func appendVarint[V ~uint64 | ~int32](b []byte, field protowire.Number, v V) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(v))
}

// appendString appends s, but not the empty string, which is the default.
func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, s)
}

// lengthRoom is how many bytes begin leaves for a length that end knows: enough for 256 MiB.
const lengthRoom = 4

// begin appends the tag of a message and room for its length, and returns where its fields start.
func begin(b []byte, field protowire.Number) (_ []byte, start int) {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = append(b, make([]byte, lengthRoom)...)
	return b, len(b)
}

// end writes the length of the message that started there, and closes the gap that a short one leaves.
func end(b []byte, start int) []byte {
	fields := b[start:]
	b = protowire.AppendVarint(b[:start-lengthRoom], uint64(len(fields)))
	if len(b) == start {
		return b[:start+len(fields)]
	}
	return append(b, fields...)
}

// message is one that is not complete, with those that it is in.
type message struct {
	bytes  []byte
	starts []int // of their fields, outermost first
}

func (m *message) depth() int { return len(m.starts) }

// begin begins a message in the present one.
func (m *message) begin(field protowire.Number) {
	var start int
	m.bytes, start = begin(m.bytes, field)
	m.starts = append(m.starts, start)
}

// end completes the messages that are deeper than depth.
func (m *message) end(depth int) {
	for n := len(m.starts); n > depth; n-- {
		m.bytes = end(m.bytes, m.starts[n-1])
		m.starts = m.starts[:n-1]
	}
}

// cut forgets what comes after the first n bytes.
func (m *message) cut(n int) {
	m.bytes = m.bytes[:n]
	for m.starts[len(m.starts)-1] > n {
		m.starts = m.starts[:len(m.starts)-1]
	}
}
