package telemetry

import (
	"context"
	"errors"
	"math"

	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// histogram keeps the memory of one instrument's points from cycle to cycle. An export has ended before the next cycle
// begins, so that nobody else reads it then.
type histogram struct {
	exponential []metricdata.ExponentialHistogramDataPoint[float64]
	explicit    []metricdata.HistogramDataPoint[float64]
	bounds      []float64
	first       int      // the exponent of the first bound
	counts      []uint64 // of all explicit points, one after the other
	positions   positions
}

var _ sdkmetric.Producer = (*collector)(nil)

// Produce returns the histograms of the cycle's snapshot. The reader calls it after the callbacks.
func (c *collector) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	c.produced = c.produced[:0]
	if c.snapshot == nil {
		return nil, nil // and the sets stay: the series will be there again
	}
	defer c.sets.end()
	for i := range c.snapshot.Metrics {
		m := &c.snapshot.Metrics[i]
		if m.Instrument.Kind == probes.Counter && c.counters[metricKey{m.Scope, m.Instrument.Name}] == nil {
			c.log.happened(unregisteredTopic, m.Instrument.Name, errors.New(m.Scope.Name+" "+m.Instrument.Name))
		}
		if m.Instrument.Kind != probes.Histogram || len(m.Points) == 0 {
			continue
		}
		h := c.histograms[m.Instrument]
		if h == nil {
			h = new(histogram)
			h.bounds, h.first = explicitBounds(m.Instrument.Range)
			c.histograms[m.Instrument] = h
		}
		out := metricdata.Metrics{Name: m.Instrument.Name, Description: m.Instrument.Description, Unit: m.Instrument.Unit}
		if c.explicit {
			out.Data = h.explicitPoints(c, m)
		} else {
			out.Data = h.exponentialPoints(c, m)
		}
		scope := instrumentation.Scope{Name: m.Scope.Name, Version: m.Scope.Version}
		if n := len(c.produced); n == 0 || c.produced[n-1].Scope != scope {
			c.produced = append(c.produced, metricdata.ScopeMetrics{Scope: scope})
		}
		last := &c.produced[len(c.produced)-1]
		last.Metrics = append(last.Metrics, out)
	}
	return c.produced, nil
}

func (h *histogram) exponentialPoints(c *collector, m *probes.Metric) metricdata.Aggregation {
	c.visit++
	h.exponential = emptied(h.exponential, len(m.Points))
	for i := range m.Points {
		p := &m.Points[i]
		s := c.sets.of(p.Attributes, &h.positions, i)
		if s.visit == c.visit {
			addExponential(&h.exponential[s.index], p)
			continue
		}
		s.visit, s.index = c.visit, len(h.exponential)
		h.exponential = append(h.exponential, metricdata.ExponentialHistogramDataPoint[float64]{
			Attributes:     s.set,
			StartTime:      p.Start,
			Time:           c.snapshot.Time,
			Count:          p.Histogram.Count(),
			Sum:            p.Histogram.Sum,
			Scale:          p.Histogram.Scale,
			ZeroCount:      p.Histogram.ZeroCount,
			PositiveBucket: metricdata.ExponentialBucket{Offset: p.Histogram.Offset, Counts: p.Histogram.Counts},
		})
	}
	h.positions.cut(len(m.Points))
	return metricdata.ExponentialHistogram[float64]{Temporality: metricdata.CumulativeTemporality, DataPoints: h.exponential}
}

// addExponential adds another point with the same attributes to dp. The scale is the instrument's, so it is the same.
func addExponential(dp *metricdata.ExponentialHistogramDataPoint[float64], p *probes.Point) {
	if p.Start.Before(dp.StartTime) {
		dp.StartTime = p.Start
	}
	dp.Count += p.Histogram.Count()
	dp.Sum += p.Histogram.Sum
	dp.ZeroCount += p.Histogram.ZeroCount
	b := &dp.PositiveBucket
	switch {
	case len(p.Histogram.Counts) == 0:
		return
	case len(b.Counts) == 0:
		b.Offset = p.Histogram.Offset
	}
	low := min(b.Offset, p.Histogram.Offset)
	high := max(int(b.Offset)+len(b.Counts), int(p.Histogram.Offset)+len(p.Histogram.Counts))
	sum := make([]uint64, high-int(low)) // not in place: the counts are the snapshot's
	copy(sum[b.Offset-low:], b.Counts)
	for i, n := range p.Histogram.Counts {
		sum[int(p.Histogram.Offset-low)+i] += n
	}
	*b = metricdata.ExponentialBucket{Offset: low, Counts: sum}
}

func (h *histogram) explicitPoints(c *collector, m *probes.Metric) metricdata.Aggregation {
	c.visit++
	h.explicit = emptied(h.explicit, len(m.Points))
	buckets := len(h.bounds) + 1
	h.counts = emptied(h.counts, len(m.Points)*buckets)[:len(m.Points)*buckets]
	clear(h.counts)
	free := h.counts
	for i := range m.Points {
		p := &m.Points[i]
		s := c.sets.of(p.Attributes, &h.positions, i)
		if s.visit != c.visit {
			s.visit, s.index = c.visit, len(h.explicit)
			h.explicit = append(h.explicit, metricdata.HistogramDataPoint[float64]{
				Attributes:   s.set,
				StartTime:    p.Start,
				Time:         c.snapshot.Time,
				Bounds:       h.bounds,
				BucketCounts: free[:buckets:buckets],
			})
			free = free[buckets:]
		}
		dp := &h.explicit[s.index]
		if p.Start.Before(dp.StartTime) {
			dp.StartTime = p.Start
		}
		dp.Count += p.Histogram.Count()
		dp.Sum += p.Histogram.Sum
		fold(dp.BucketCounts, h.first, &p.Histogram)
	}
	h.positions.cut(len(m.Points))
	return metricdata.Histogram[float64]{Temporality: metricdata.CumulativeTemporality, DataPoints: h.explicit}
}

// shortest is the exponent of the lowest explicit bound: 2^-20 s is about 1 us.
const shortest = -20

// explicitBounds returns powers of two in seconds, and the exponent of the first. The kernel puts what lies below and
// above the range into its end buckets, so that the range's own ends are no bounds that hold: the powers of two between
// them are, with all below in the first bucket and all above in the last.
func explicitBounds(r probes.Range) (bounds []float64, first int) {
	first = max(r.Min+1, shortest)
	for e := first; e < r.Max; e++ {
		bounds = append(bounds, math.Ldexp(1, e))
	}
	return bounds, first
}

// fold adds the buckets of h to explicit ones, the first of which ends at 2^first. Bucket i of h holds
// (2^(i/2^s), 2^((i+1)/2^s)], which for a scale s >= 0 lies in (2^k, 2^(k+1)] with k = floor(i/2^s): no count is split.
func fold(counts []uint64, first int, h *probes.HistogramData) {
	counts[0] += h.ZeroCount
	for i, n := range h.Counts {
		k := (int(h.Offset) + i) >> h.Scale
		counts[min(max(k+1-first, 0), len(counts)-1)] += n
	}
}

// emptied returns s without elements and with room for n, and lets go of memory that a past peak needed.
func emptied[T any](s []T, n int) []T {
	if cap(s) < n || cap(s) > 4*n+1024 {
		return make([]T, 0, n+n/8)
	}
	clear(s[min(n, len(s)):])
	return s[:0]
}
