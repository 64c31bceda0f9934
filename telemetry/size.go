package telemetry

import (
	"math/bits"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
)

// Upper bounds of what the parts of an OTLP request take when they are encoded
// (opentelemetry/proto/metrics/v1/metrics.proto). Every field number there is below 16, so a tag is one byte. Exemplars
// are not counted: they are off.
const (
	fixed64Field  = 1 + 8
	int32Field    = 1 + 5
	flagField     = 1 + 1
	bigHeader     = 1 + 5 // tag and length of a message whose length is not known yet
	requestHeader = bigHeader
)

// field is the size of a length-delimited field of n bytes.
func field(n int) int { return 1 + varint(uint64(n)) + n }

// varint is the size of v as a varint: a byte for every seven bits, and one for zero.
func varint(v uint64) int { return (9*bits.Len64(v) + 64) / 64 }

// setSize is the size of a set as the attributes of a point, a scope or a resource.
func setSize(set *attribute.Set) int {
	n := 0
	for it := set.Iter(); it.Next(); {
		kv := it.Attribute()
		n += field(field(len(kv.Key)) + field(valueSize(kv.Value)))
	}
	return n
}

// valueSize is the size of an AnyValue.
func valueSize(v attribute.Value) int {
	list := func(n, each int) int { return field(n * field(each)) }
	switch v.Type() {
	case attribute.BOOL:
		return flagField
	case attribute.INT64:
		return 1 + 10
	case attribute.FLOAT64:
		return fixed64Field
	case attribute.STRING:
		return field(len(v.AsString()))
	case attribute.BYTESLICE:
		return field(len(v.AsByteSlice()))
	case attribute.BOOLSLICE:
		return list(len(v.AsBoolSlice()), flagField)
	case attribute.INT64SLICE:
		return list(len(v.AsInt64Slice()), 1+10)
	case attribute.FLOAT64SLICE:
		return list(len(v.AsFloat64Slice()), fixed64Field)
	case attribute.STRINGSLICE:
		n := 0
		for _, s := range v.AsStringSlice() {
			n += field(field(len(s)))
		}
		return field(n)
	case attribute.SLICE:
		n := 0
		for _, e := range v.AsSlice() {
			n += field(valueSize(e))
		}
		return field(n)
	case attribute.MAP:
		n := 0
		for _, kv := range v.AsMap() {
			n += field(field(len(kv.Key)) + field(valueSize(kv.Value)))
		}
		return field(n)
	default:
		return 0
	}
}

// encodedSize is the cost of the parts of a request in bytes.
type encodedSize struct{ sets *attributeSets }

func (encodedSize) resource(r *resource.Resource) int {
	return requestHeader + bigHeader + bigHeader + setSize(r.Set()) + field(len(r.SchemaURL()))
}

func (encodedSize) scope(s instrumentation.Scope) int {
	return bigHeader + field(field(len(s.Name))+field(len(s.Version))+setSize(&s.Attributes)) + field(len(s.SchemaURL))
}

func (encodedSize) metric(m metricdata.Metrics) int {
	return bigHeader + field(len(m.Name)) + field(len(m.Description)) + field(len(m.Unit)) +
		bigHeader + flagField + flagField // the data, its temporality, and whether it is monotonic
}

func (e encodedSize) number(set *attribute.Set) int {
	return field(e.sets.size(set) + 3*fixed64Field) // two times and the value
}

func (e encodedSize) histogram(set *attribute.Set, buckets int) int {
	// Two times, count, sum, min and max.
	return field(e.sets.size(set) + 6*fixed64Field + field(8*buckets) + field(8*buckets))
}

func (e encodedSize) exponential(set *attribute.Set, positive, negative []uint64) int {
	// Two times, count, sum, zero count, zero threshold, min and max.
	return field(e.sets.size(set) + 8*fixed64Field + int32Field + bucketsSize(positive) + bucketsSize(negative))
}

func bucketsSize(counts []uint64) int {
	n := 0
	for _, c := range counts {
		n += varint(c)
	}
	return field(int32Field + field(n))
}
