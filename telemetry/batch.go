package telemetry

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
)

// batch is what goes into one request. Its points are those of the cycle, not copies.
type batch struct {
	metrics metricdata.ResourceMetrics
	points  int
	cost    int
}

// cost says what the parts of a batch count for when it is cut.
type cost interface {
	resource(*resource.Resource) int
	scope(instrumentation.Scope) int
	metric(metricdata.Metrics) int
	number(*attribute.Set) int
	histogram(set *attribute.Set, buckets int) int
	exponential(set *attribute.Set, positive, negative []uint64) int
}

// onePoint is the cost that cuts by the number of points.
type onePoint struct{}

func (onePoint) resource(*resource.Resource) int                    { return 0 }
func (onePoint) scope(instrumentation.Scope) int                    { return 0 }
func (onePoint) metric(metricdata.Metrics) int                      { return 0 }
func (onePoint) number(*attribute.Set) int                          { return 1 }
func (onePoint) histogram(*attribute.Set, int) int                  { return 1 }
func (onePoint) exponential(*attribute.Set, []uint64, []uint64) int { return 1 }

var _, _ cost = encodedSize{}, onePoint{}

// cut divides rm into batches that cost at most limit each. A point that costs more than that by itself is a batch of
// its own.
func cut(rm *metricdata.ResourceMetrics, limit int, c cost) []batch {
	var (
		batches []batch
		current batch
		header  = c.resource(rm.Resource)
	)
	start := func() {
		current = batch{metrics: metricdata.ResourceMetrics{Resource: rm.Resource}, cost: header}
	}
	start()
	for _, sm := range rm.ScopeMetrics {
		scopeCost, inScope := c.scope(sm.Scope), false
		for _, m := range sm.Metrics {
			metricCost := c.metric(m)
			p := pointsOf(m.Data, c)
			begin, total := 0, 0 // the points of m that are in the current batch
			flush := func(end int) {
				if begin == end {
					return
				}
				if !inScope {
					current.metrics.ScopeMetrics = append(current.metrics.ScopeMetrics, metricdata.ScopeMetrics{Scope: sm.Scope})
					current.cost += scopeCost
					inScope = true
				}
				part := m
				part.Data = p.slice(begin, end)
				last := &current.metrics.ScopeMetrics[len(current.metrics.ScopeMetrics)-1]
				last.Metrics = append(last.Metrics, part)
				current.cost += metricCost + total
				current.points += end - begin
				begin, total = end, 0
			}
			for i := range p.n {
				n := p.cost(i)
				with := current.cost + metricCost + total + n
				if !inScope {
					with += scopeCost
				}
				if with > limit && current.points+i-begin > 0 {
					flush(i)
					batches = append(batches, current)
					start()
					inScope = false
				}
				total += n
			}
			flush(p.n)
		}
	}
	if current.points > 0 {
		batches = append(batches, current)
	}
	return batches
}

// points gives access to the points of any kind of metric.
type points struct {
	n     int
	cost  func(i int) int
	slice func(i, j int) metricdata.Aggregation
}

// pointsOf returns the points of data. Summaries do not exist here: neither the SDK nor our producer makes them.
func pointsOf(data metricdata.Aggregation, c cost) points {
	switch a := data.(type) {
	case metricdata.Gauge[int64]:
		return numbers(a.DataPoints, c, func(p []metricdata.DataPoint[int64]) metricdata.Aggregation { a.DataPoints = p; return a })
	case metricdata.Gauge[float64]:
		return numbers(a.DataPoints, c, func(p []metricdata.DataPoint[float64]) metricdata.Aggregation { a.DataPoints = p; return a })
	case metricdata.Sum[int64]:
		return numbers(a.DataPoints, c, func(p []metricdata.DataPoint[int64]) metricdata.Aggregation { a.DataPoints = p; return a })
	case metricdata.Sum[float64]:
		return numbers(a.DataPoints, c, func(p []metricdata.DataPoint[float64]) metricdata.Aggregation { a.DataPoints = p; return a })
	case metricdata.Histogram[int64]:
		return histograms(a.DataPoints, c, func(p []metricdata.HistogramDataPoint[int64]) metricdata.Aggregation { a.DataPoints = p; return a })
	case metricdata.Histogram[float64]:
		return histograms(a.DataPoints, c, func(p []metricdata.HistogramDataPoint[float64]) metricdata.Aggregation { a.DataPoints = p; return a })
	case metricdata.ExponentialHistogram[int64]:
		return exponentials(a.DataPoints, c, func(p []metricdata.ExponentialHistogramDataPoint[int64]) metricdata.Aggregation {
			a.DataPoints = p
			return a
		})
	case metricdata.ExponentialHistogram[float64]:
		return exponentials(a.DataPoints, c, func(p []metricdata.ExponentialHistogramDataPoint[float64]) metricdata.Aggregation {
			a.DataPoints = p
			return a
		})
	default:
		return points{}
	}
}

func numbers[N int64 | float64](p []metricdata.DataPoint[N], c cost, wrap func([]metricdata.DataPoint[N]) metricdata.Aggregation) points {
	return points{
		n:     len(p),
		cost:  func(i int) int { return c.number(&p[i].Attributes) },
		slice: func(i, j int) metricdata.Aggregation { return wrap(p[i:j]) },
	}
}

func histograms[N int64 | float64](p []metricdata.HistogramDataPoint[N], c cost, wrap func([]metricdata.HistogramDataPoint[N]) metricdata.Aggregation) points {
	return points{
		n:     len(p),
		cost:  func(i int) int { return c.histogram(&p[i].Attributes, len(p[i].BucketCounts)) },
		slice: func(i, j int) metricdata.Aggregation { return wrap(p[i:j]) },
	}
}

func exponentials[N int64 | float64](p []metricdata.ExponentialHistogramDataPoint[N], c cost, wrap func([]metricdata.ExponentialHistogramDataPoint[N]) metricdata.Aggregation) points {
	return points{
		n: len(p),
		cost: func(i int) int {
			return c.exponential(&p[i].Attributes, p[i].PositiveBucket.Counts, p[i].NegativeBucket.Counts)
		},
		slice: func(i, j int) metricdata.Aggregation { return wrap(p[i:j]) },
	}
}
