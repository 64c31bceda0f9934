package telemetry

import (
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/ebpf-sidecar/sidecar/readings"
)

// console prints a table of every metric, each cycle.
type console struct {
	store  *readings.Store
	writer readings.Writer
}

func newConsole(o Console) *console {
	return &console{readings.NewStore(time.Now()), readings.NewText(o.Writer)}
}

func (c *console) Export(rm *metricdata.ResourceMetrics) error {
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			c.add(readings.Metric{Scope: sm.Scope.Name, Name: m.Name, Unit: m.Unit, Kind: readings.Level}, m.Data)
		}
	}
	return c.writer.Write(c.store.Frame(time.Now()))
}

func (c *console) add(m readings.Metric, data metricdata.Aggregation) {
	switch a := data.(type) {
	case metricdata.Sum[int64]:
		addNumbers(c, m, a.IsMonotonic, a.DataPoints)
	case metricdata.Sum[float64]:
		addNumbers(c, m, a.IsMonotonic, a.DataPoints)
	case metricdata.Gauge[int64]:
		addNumbers(c, m, false, a.DataPoints)
	case metricdata.Gauge[float64]:
		addNumbers(c, m, false, a.DataPoints)
	case metricdata.ExponentialHistogram[float64]:
		for i := range a.DataPoints {
			p := &a.DataPoints[i]
			c.addDistribution(m, &p.Attributes, p.StartTime, p.Count, readings.Histogram{
				Scale: p.Scale, Offset: p.PositiveBucket.Offset, Zero: p.ZeroCount, Counts: p.PositiveBucket.Counts, Sum: p.Sum,
			})
		}
	case metricdata.Histogram[float64]:
		for i := range a.DataPoints {
			p := &a.DataPoints[i]
			c.addDistribution(m, &p.Attributes, p.StartTime, p.Count, readings.Histogram{
				Bounds: p.Bounds, Counts: p.BucketCounts, Sum: p.Sum,
			})
		}
	}
}

func addNumbers[N int64 | float64](c *console, m readings.Metric, monotonic bool, points []metricdata.DataPoint[N]) {
	if monotonic {
		m.Kind = readings.Counter
	}
	for i := range points {
		p := &points[i]
		c.store.Add(m, readings.Point{Attributes: listOf(&p.Attributes), Start: p.StartTime, Value: readings.Value{Number: float64(p.Value)}})
	}
}

func (c *console) addDistribution(m readings.Metric, set *attribute.Set, start time.Time, count uint64, h readings.Histogram) {
	m.Kind = readings.Distribution
	h.Counts = append([]uint64(nil), h.Counts...) // the SDK's memory, and used again
	c.store.Add(m, readings.Point{Attributes: listOf(set), Start: start, Value: readings.Value{Number: float64(count), Histogram: &h}})
}

func listOf(set *attribute.Set) []readings.Attribute {
	list := make([]readings.Attribute, 0, set.Len())
	for it := set.Iter(); it.Next(); { // by key
		kv := it.Attribute()
		list = append(list, readings.Attribute{Key: string(kv.Key), Value: kv.Value.String()})
	}
	return list
}
