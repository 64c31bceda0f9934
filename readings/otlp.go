package readings

import (
	"cmp"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// AddOTLP takes in the points of a request, but for summaries, which the sidecar has none of.
func (s *Store) AddOTLP(request *collector.ExportMetricsServiceRequest) {
	for _, resource := range request.ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			for _, m := range scope.Metrics {
				s.addMetric(scope.Scope.GetName(), m)
			}
		}
	}
}

func (s *Store) addMetric(scope string, m *otlp.Metric) {
	metric := Metric{Scope: scope, Name: m.Name, Unit: m.Unit, Kind: Level}
	switch data := m.Data.(type) {
	case *otlp.Metric_Gauge:
		s.addNumbers(metric, data.Gauge.DataPoints)
	case *otlp.Metric_Sum:
		if data.Sum.IsMonotonic {
			metric.Kind = Counter
		}
		s.addNumbers(metric, data.Sum.DataPoints)
	case *otlp.Metric_ExponentialHistogram:
		metric.Kind = Distribution
		for _, p := range data.ExponentialHistogram.DataPoints {
			s.Add(metric, point(p, Value{float64(p.Count), &Histogram{
				Scale: p.Scale, Offset: p.Positive.GetOffset(), Zero: p.ZeroCount, Counts: p.Positive.GetBucketCounts(), Sum: p.GetSum(),
			}}))
		}
	case *otlp.Metric_Histogram:
		metric.Kind = Distribution
		for _, p := range data.Histogram.DataPoints {
			s.Add(metric, point(p, Value{float64(p.Count), &Histogram{
				Bounds: p.ExplicitBounds, Counts: p.BucketCounts, Sum: p.GetSum(),
			}}))
		}
	}
}

func (s *Store) addNumbers(metric Metric, points []*otlp.NumberDataPoint) {
	for _, p := range points {
		number := p.GetAsDouble()
		if n, ok := p.Value.(*otlp.NumberDataPoint_AsInt); ok {
			number = float64(n.AsInt)
		}
		s.Add(metric, point(p, Value{Number: number}))
	}
}

func point(p interface {
	GetAttributes() []*common.KeyValue
	GetStartTimeUnixNano() uint64
}, v Value) Point {
	attributes := make([]Attribute, len(p.GetAttributes()))
	for i, a := range p.GetAttributes() {
		attributes[i] = Attribute{a.Key, text(a.Value)}
	}
	slices.SortFunc(attributes, func(a, b Attribute) int { return cmp.Compare(a.Key, b.Key) })
	return Point{attributes, time.Unix(0, int64(p.GetStartTimeUnixNano())), v}
}

// text is an attribute's value as one writes it.
func text(value *common.AnyValue) string {
	switch v := value.GetValue().(type) {
	case nil:
		return ""
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	case *common.AnyValue_BoolValue:
		return strconv.FormatBool(v.BoolValue)
	case *common.AnyValue_DoubleValue:
		return strconv.FormatFloat(v.DoubleValue, 'g', -1, 64)
	case *common.AnyValue_BytesValue:
		return hex.EncodeToString(v.BytesValue)
	}
	return protojson.Format(value)
}
