package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// Source gives the values to export. Its methods are called one at a time, never concurrently: by the reader's
// goroutine, and after that one has ended by the caller of Shutdown.
type Source interface {
	// Snapshot reads every series. The snapshot is used until the next call.
	Snapshot() (*probes.Snapshot, error)
	// Acknowledge tells that a receiver has accepted every point of s, the latest snapshot. It is not called for
	// a snapshot of which one point was refused or may not have arrived.
	Acknowledge(s *probes.Snapshot)
}

// collector takes one snapshot a cycle and hands its counters to the SDK and its histograms to the reader. It belongs
// to the reader's goroutine.
type collector struct {
	source Source
	log    *errorLog
	self   *selfMetrics
	sets   *attributeSets

	counters   map[metricKey]*counter
	histograms map[*probes.Instrument]*histogram
	explicit   bool // buckets, for receivers that know no exponential histogram
	produced   []metricdata.ScopeMetrics

	visit uint64 // counts the metrics, so that a series knows in which it was last seen

	snapshot *probes.Snapshot // of this cycle; nil when there is none
	overflow map[tableKey]uint64
}

type metricKey struct {
	scope probes.Scope
	name  string
}

type tableKey struct{ probe, table string }

// counter is an observable counter and when its series started, in nanoseconds since 1970. The SDK knows only when the
// process started.
type counter struct {
	observable metric.Int64ObservableCounter
	starts     map[attribute.Distinct]int64
}

func newCollector(source Source, log *errorLog, explicit bool) *collector {
	return &collector{
		source:     source,
		log:        log,
		sets:       newAttributeSets(),
		counters:   make(map[metricKey]*counter),
		histograms: make(map[*probes.Instrument]*histogram),
		explicit:   explicit,
		overflow:   make(map[tableKey]uint64),
	}
}

var (
	snapshotTopic = topic{
		failing:   "reading the probes failing",
		recovered: "reading the probes recovered",
		level:     slog.LevelError,
		quiet:     time.Minute,
	}
	unregisteredTopic = topic{failing: "a metric is not exported: it was not listed at the start", level: slog.LevelError, quiet: time.Hour}
	overflowTopic     = topic{
		failing:   "series limit reached: new series are counted together, as otel.metric.overflow=true (raise series_limit or memory_limit)",
		recovered: "series limit no longer reached",
		level:     slog.LevelWarn,
		quiet:     time.Hour,
	}
)

// begin takes the cycle's snapshot. Without one the cycle has only the self-metrics.
func (c *collector) begin(ctx context.Context) {
	c.sets.begin()
	start := time.Now()
	snapshot, err := c.source.Snapshot()
	c.self.collected(ctx, time.Since(start), err)
	c.snapshot = nil
	if err != nil {
		c.log.failed(snapshotTopic, "", err)
		return
	}
	c.log.worked(snapshotTopic, "")
	c.snapshot = snapshot
	c.tellOverflow()
}

// tellOverflow logs which tables are full. Events of a cgroup that is gone go to the overflow series too, so that a
// growing overflow alone means nothing.
func (c *collector) tellOverflow() {
	for _, t := range c.snapshot.Tables {
		key := tableKey{t.Probe, t.Table}
		grown := t.Overflow > c.overflow[key]
		c.overflow[key] = t.Overflow
		switch {
		case t.Series < t.Limit:
			c.log.worked(overflowTopic, t.Probe+"/"+t.Table, "probe", t.Probe, "table", t.Table)
		case grown:
			c.log.failed(overflowTopic, t.Probe+"/"+t.Table, fmt.Errorf("%d series of %d", t.Series, t.Limit), "probe", t.Probe, "table", t.Table)
		}
	}
}

// register makes the counters of one scope known to the SDK.
func (c *collector) register(meter metric.Meter, scope probes.Scope, instruments []*probes.Instrument) error {
	var observables []metric.Observable
	for _, in := range instruments {
		o, err := meter.Int64ObservableCounter(in.Name, metric.WithUnit(in.Unit), metric.WithDescription(in.Description))
		if err != nil {
			return err
		}
		c.counters[metricKey{scope, in.Name}] = &counter{observable: o, starts: make(map[attribute.Distinct]int64)}
		observables = append(observables, o)
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		c.observe(o, scope)
		return nil // an error would drop the whole cycle, with the metrics of all other probes
	}, observables...)
	return err
}

// observe hands the counters of one scope to the SDK.
func (c *collector) observe(o metric.Observer, scope probes.Scope) {
	if c.snapshot == nil {
		return
	}
	for i := range c.snapshot.Metrics {
		m := &c.snapshot.Metrics[i]
		if m.Scope != scope || m.Instrument.Kind != probes.Counter {
			continue
		}
		counter := c.counters[metricKey{m.Scope, m.Instrument.Name}]
		if counter == nil {
			continue // Produce tells
		}
		clear(counter.starts)
		for j := range m.Points {
			p := &m.Points[j]
			s := c.sets.of(p.Attributes)
			start := p.Start.UnixNano()
			// The SDK adds what is observed twice; the sum began with the first.
			if other, ok := counter.starts[s.set.Equivalent()]; ok {
				start = min(start, other)
			}
			counter.starts[s.set.Equivalent()] = start
			o.ObserveInt64(counter.observable, int64(min(p.Value, math.MaxInt64)), s.observe...)
		}
	}
}

// stamp puts the series' own start and the snapshot's time into the counters of rm.
func (c *collector) stamp(rm *metricdata.ResourceMetrics) {
	if c.snapshot == nil {
		return
	}
	for _, sm := range rm.ScopeMetrics {
		scope := probes.Scope{Name: sm.Scope.Name, Version: sm.Scope.Version}
		for _, m := range sm.Metrics {
			counter := c.counters[metricKey{scope, m.Name}]
			sum, ok := m.Data.(metricdata.Sum[int64])
			if counter == nil || !ok {
				continue
			}
			for i := range sum.DataPoints {
				p := &sum.DataPoints[i]
				p.StartTime = time.Unix(0, counter.starts[p.Attributes.Equivalent()])
				p.Time = c.snapshot.Time
			}
		}
	}
}
