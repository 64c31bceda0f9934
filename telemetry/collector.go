package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

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
	ready  atomic.Bool // all instruments are made; the reader's goroutine runs before that
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

// counter is what is kept of an observable counter from cycle to cycle.
type counter struct{ positions positions }

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
	if !c.ready.Load() {
		return
	}
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
	c.sets.begin()
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

// register makes a counter known to the SDK. It has a callback of its own, as a callback for several pays for finding the
// instrument at every observation.
func (c *collector) register(meter metric.Meter, scope probes.Scope, in *probes.Instrument) error {
	key := metricKey{scope, in.Name}
	counter := new(counter)
	c.counters[key] = counter
	_, err := meter.Int64ObservableCounter(in.Name, metric.WithUnit(in.Unit), metric.WithDescription(in.Description),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			c.observe(o, key, counter)
			return nil // an error would drop the whole cycle, with the metrics of all other probes
		}))
	return err
}

// observe hands a counter's values to the SDK.
func (c *collector) observe(o metric.Int64Observer, key metricKey, counter *counter) {
	if c.snapshot == nil {
		return
	}
	for i := range c.snapshot.Metrics {
		m := &c.snapshot.Metrics[i]
		if m.Instrument.Name != key.name || m.Scope != key.scope || m.Instrument.Kind != probes.Counter {
			continue
		}
		// The overflow series comes last in a snapshot, as it must: the SDK takes every new set for overflow once it
		// has seen that one (sdk/metric/internal/aggregate/atomic.go, LoadOrStoreAttr).
		for j := range m.Points {
			p := &m.Points[j]
			s := c.sets.of(p.Attributes, &counter.positions, j)
			s.start(counter, c.sets.cycle, p.Start.UnixNano())
			o.Observe(int64(min(p.Value, math.MaxInt64)), s.option()...)
		}
		counter.positions.cut(len(m.Points))
	}
}

// stamp puts the series' own start, where the SDK has that of the process, and the snapshot's time into the counters of
// rm.
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
				p.Time = c.snapshot.Time
				if s := c.sets.series[p.Attributes.Equivalent()]; s != nil {
					p.StartTime = time.Unix(0, s.startOf(counter))
				}
			}
		}
	}
}
