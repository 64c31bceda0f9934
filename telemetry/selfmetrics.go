package telemetry

import (
	"context"
	"runtime"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/otelconv"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// The scope of the self-metrics. The version is that of their meaning, as with the probes'.
const (
	selfScopeName    = "github.com/ebpf-sidecar/sidecar/telemetry"
	selfScopeVersion = "1.0.0"
)

// SelfMetric describes one metric about the sidecar itself.
type SelfMetric struct {
	Name        string
	Unit        string // UCUM
	Kind        string // counter, updowncounter, gauge or histogram
	Description string
	Attributes  []string
}

// The attributes of the self-metrics.
const (
	probeNameKey  = attribute.Key("sidecar.probe.name")
	probeStateKey = attribute.Key("sidecar.probe.state")
	missReasonKey = attribute.Key("sidecar.probe.missed.reason")
	tableNameKey  = attribute.Key("sidecar.table.name")
	versionKey    = attribute.Key("sidecar.build.version")
	revisionKey   = attribute.Key("sidecar.build.revision")
	goVersionKey  = semconv.ProcessRuntimeVersionKey
)

// exporterKeys are the attributes of what is told of the exporter.
var exporterKeys = []string{
	string(semconv.ErrorTypeKey), string(semconv.OTelComponentNameKey), string(semconv.OTelComponentTypeKey),
}

var (
	probeEvents = SelfMetric{"sidecar.probe.events", "{event}", "counter",
		"Kernel events that a probe counted.",
		[]string{string(probeNameKey)}}
	probeState = SelfMetric{"sidecar.probe.state", "{probe}", "updowncounter",
		"1 for the state that a probe is in, 0 for the others.",
		[]string{string(probeNameKey), string(probeStateKey)}}
	probeCPUTime = SelfMetric{"sidecar.probe.cpu.time", "s", "counter",
		"CPU time that a probe's BPF programs took, while the kernel measures it: for sidecar top, and with kernel.bpf_stats_enabled=1.",
		[]string{string(probeNameKey)}}
	probeMissed = SelfMetric{"sidecar.probe.missed", "{event}", "counter",
		"Kernel events that a probe could not handle as it should.",
		[]string{string(probeNameKey), string(missReasonKey)}}
	seriesUsed = SelfMetric{"sidecar.series", "{series}", "updowncounter",
		"Series in a table, the overflow series not included.",
		[]string{string(probeNameKey), string(tableNameKey)}}
	seriesLimit = SelfMetric{"sidecar.series.limit", "{series}", "updowncounter",
		"Series that fit in a table.",
		[]string{string(probeNameKey), string(tableNameKey)}}
	seriesOverflow = SelfMetric{"sidecar.series.overflow", "{event}", "counter",
		"Kernel events counted in a table's overflow series, the one with otel.metric.overflow=true.",
		[]string{string(probeNameKey), string(tableNameKey)}}
	collectionDuration = SelfMetric{"sidecar.collection.duration", "s", "histogram",
		"Time to read all probes once.",
		[]string{string(semconv.ErrorTypeKey)}}
	exportDuration = SelfMetric{otelconv.SDKExporterOperationDuration{}.Name(), "s", "histogram",
		"Time of one OTLP request, its repetitions included.",
		exporterKeys}
	exportPoints = SelfMetric{otelconv.SDKExporterMetricDataPointExported{}.Name(), "{data_point}", "counter",
		"Points sent to the OTLP receiver: without error.type those it accepted.",
		exporterKeys}
	unacknowledgedAge = SelfMetric{"sidecar.export.unacknowledged.age", "s", "gauge",
		"Age of the oldest collection since the last one that was accepted whole; 0 when that is the latest.",
		nil}
	buildInfo = SelfMetric{"sidecar.build.info", "1", "gauge",
		"Always 1; the attributes tell the build.",
		[]string{string(versionKey), string(revisionKey), string(goVersionKey)}}
)

// SelfMetrics lists the metrics about the sidecar itself, for its documentation. The metrics of the Go runtime come
// besides, as semantic conventions describe them.
func SelfMetrics() []SelfMetric {
	return []SelfMetric{
		buildInfo, probeEvents, probeState, probeCPUTime, probeMissed, seriesUsed, seriesLimit, seriesOverflow, collectionDuration,
		exportDuration, exportPoints, unacknowledgedAge,
	}
}

var probeStates = []probes.State{probes.Attached, probes.Disabled, probes.Unsupported, probes.Failed}

// selfMetrics records and observes the metrics about the sidecar itself.
type selfMetrics struct {
	collection, export metric.Float64Histogram
	points             metric.Int64Counter
	exporter           []attribute.KeyValue

	observables map[string]metric.Int64Observable
	cpuTime     metric.Float64ObservableCounter
	age         metric.Float64ObservableGauge
}

// newSelfMetrics makes the instruments. begin is called at the beginning of every cycle, in the callback of the first.
func newSelfMetrics(meter metric.Meter, o Options, begin func(context.Context)) (*selfMetrics, error) {
	s := &selfMetrics{exporter: exporterAttributes(o), observables: make(map[string]metric.Int64Observable)}
	build := metric.WithAttributeSet(buildAttributes(o))
	for _, m := range SelfMetrics() {
		var (
			unit        = metric.WithUnit(m.Unit)
			description = metric.WithDescription(m.Description)
			err         error
		)
		switch {
		case m.Name == buildInfo.Name:
			_, err = meter.Int64ObservableGauge(m.Name, unit, description,
				metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
					begin(ctx)
					o.Observe(1, build)
					return nil // an error would drop the whole cycle
				}))
		case m.Name == collectionDuration.Name:
			s.collection, err = meter.Float64Histogram(m.Name, unit, description)
		case m.Name == exportDuration.Name:
			s.export, err = meter.Float64Histogram(m.Name, unit, description)
		case m.Name == exportPoints.Name:
			s.points, err = meter.Int64Counter(m.Name, unit, description)
		case m.Name == probeCPUTime.Name:
			s.cpuTime, err = meter.Float64ObservableCounter(m.Name, unit, description)
		case m.Name == unacknowledgedAge.Name:
			s.age, err = meter.Float64ObservableGauge(m.Name, unit, description)
		case m.Kind == "counter":
			s.observables[m.Name], err = meter.Int64ObservableCounter(m.Name, unit, description)
		case m.Kind == "updowncounter":
			s.observables[m.Name], err = meter.Int64ObservableUpDownCounter(m.Name, unit, description)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

func buildAttributes(o Options) attribute.Set {
	attrs := []attribute.KeyValue{goVersionKey.String(runtime.Version())}
	if o.Version != "" {
		attrs = append(attrs, versionKey.String(o.Version))
	}
	if o.Revision != "" {
		attrs = append(attrs, revisionKey.String(o.Revision))
	}
	return attribute.NewSet(attrs...)
}

// exporterAttributes tell the exporter from others: there is one.
func exporterAttributes(o Options) []attribute.KeyValue {
	kind := semconv.OTelComponentTypeOtlpGRPCMetricExporter
	if o.OTLP != nil && o.OTLP.Protocol == HTTP {
		kind = semconv.OTelComponentTypeOtlpHTTPMetricExporter
	}
	return []attribute.KeyValue{kind, semconv.OTelComponentName(kind.Value.AsString() + "/0")}
}

// register has f called in every cycle, to observe.
func (s *selfMetrics) register(meter metric.Meter, f metric.Callback) error {
	all := []metric.Observable{s.age, s.cpuTime}
	for _, o := range s.observables {
		all = append(all, o)
	}
	_, err := meter.RegisterCallback(f, all...)
	return err
}

// observe hands the values to the SDK. snapshot is nil when the probes could not be read.
func (s *selfMetrics) observe(o metric.Observer, snapshot *probes.Snapshot, age time.Duration) {
	observe := func(m SelfMetric, v uint64, attrs ...attribute.KeyValue) {
		o.ObserveInt64(s.observables[m.Name], int64(v), metric.WithAttributes(attrs...))
	}
	o.ObserveFloat64(s.age, age.Seconds())
	if snapshot == nil {
		return
	}
	for _, p := range snapshot.Probes {
		probe := probeNameKey.String(p.Probe)
		observe(probeEvents, p.Events, probe)
		for _, state := range probeStates {
			var v uint64
			if state == p.State {
				v = 1
			}
			observe(probeState, v, probe, probeStateKey.String(string(state)))
		}
		if p.CPUTime > 0 {
			o.ObserveFloat64(s.cpuTime, p.CPUTime.Seconds(), metric.WithAttributes(probe))
		}
		for _, m := range p.Missed {
			observe(probeMissed, m.Count, probe, missReasonKey.String(string(m.Reason)))
		}
	}
	for _, t := range snapshot.Tables {
		probe, table := probeNameKey.String(t.Probe), tableNameKey.String(t.Table)
		observe(seriesUsed, uint64(t.Series), probe, table)
		observe(seriesLimit, uint64(t.Limit), probe, table)
		observe(seriesOverflow, t.Overflow, probe, table)
	}
}

// collected records one reading of the probes.
func (s *selfMetrics) collected(ctx context.Context, d time.Duration, err error) {
	s.collection.Record(ctx, d.Seconds(), withError(nil, errorType(err)))
}

// exported records one request and what became of its points.
func (s *selfMetrics) exported(ctx context.Context, d time.Duration, accepted, refused int, errorType string) {
	s.export.Record(ctx, d.Seconds(), withError(s.exporter, errorType))
	if accepted > 0 {
		s.points.Add(ctx, int64(accepted), withError(s.exporter, ""))
	}
	if refused > 0 {
		s.points.Add(ctx, int64(refused), withError(s.exporter, errorType))
	}
}

func withError(attributes []attribute.KeyValue, errorType string) metric.MeasurementOption {
	if errorType != "" {
		attributes = append(slices.Clip(attributes), semconv.ErrorTypeKey.String(errorType))
	}
	return metric.WithAttributes(attributes...)
}
