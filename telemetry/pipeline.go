package telemetry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	goruntime "go.opentelemetry.io/contrib/instrumentation/runtime"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// ErrNotEnded is Shutdown's error when the export goes on after its deadline. The Source is still in use then.
var ErrNotEnded = errors.New("the export has not ended")

// Pipeline exports the values of a Source until it is shut down.
type Pipeline struct {
	provider *sdkmetric.MeterProvider
	delivery *delivery
	cancel   context.CancelFunc
	first    sync.WaitGroup // the goroutine of the first export
}

// Start begins to export the values of source. It becomes the SDK's error handler and logger in this process. ctx is
// for the start alone.
//
// A receiver that cannot be reached is no error: it is logged, and tried again every interval.
func Start(ctx context.Context, o Options, source Source) (*Pipeline, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	log := newErrorLog(o.Logger)
	otel.SetErrorHandler(log)
	var exporter sdkmetric.Exporter
	if o.OTLP != nil {
		if exporter, err = newOTLPExporter(ctx, *o.OTLP); err != nil {
			return nil, err
		}
		if o.OTLP.TLS != (TLS{}) && strings.HasPrefix(o.OTLP.Endpoint, "http://") {
			o.Logger.Warn("TLS settings have no effect: the endpoint is http, not https", "endpoint", o.OTLP.Endpoint)
		}
	}
	otel.SetLogger(logr.New(sdkSink{log}))
	return newPipeline(ctx, o, log, source, exporter)
}

// newPipeline connects source to exporter, which is nil without OTLP.
func newPipeline(ctx context.Context, o Options, log *errorLog, source Source, exporter sdkmetric.Exporter) (*Pipeline, error) {
	res, err := newResource(ctx, os.DirFS("/"), o.Instance)
	if err != nil {
		o.Logger.Warn("the resource is incomplete", "error", oneLine(err))
	}
	c := newCollector(source, log, o.ExplicitBuckets)
	d := &delivery{resource: res, collector: c, log: log, otlp: exporter, limit: maxRequest}
	d.health.Store(&Health{Cycle: time.Now()})
	if o.OTLP != nil {
		d.endpoint, d.timeout = o.OTLP.Endpoint, o.OTLP.Timeout
	}
	if o.Console != nil {
		d.console = newConsole(*o.Console)
	}
	d.histograms = sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20, NoMinMax: true}
	if o.ExplicitBuckets {
		bounds, _ := explicitBounds(probes.Range{Min: -20, Max: 6})
		d.histograms = sdkmetric.AggregationExplicitBucketHistogram{Boundaries: bounds, NoMinMax: true}
	}

	p := &Pipeline{delivery: d, provider: sdkmetric.NewMeterProvider(
		sdkmetric.WithResource(res),
		sdkmetric.WithReader(sdkmetric.NewPeriodicReader(d,
			sdkmetric.WithInterval(o.Interval),
			sdkmetric.WithTimeout(o.ExportTimeout),
			sdkmetric.WithProducer(c),
		)),
		// None. The SDK's 2,000 would fold what the probes keep apart; they have a limit of their own.
		sdkmetric.WithCardinalityLimit(0),
		sdkmetric.WithExemplarFilter(exemplar.AlwaysOffFilter),
	)}
	if err := p.register(o, c); err != nil {
		return nil, errors.Join(err, p.provider.Shutdown(ctx))
	}
	c.ready.Store(true)
	p.exportFirst(o)
	return p, nil
}

// register makes all instruments. The self-metrics are first: the SDK runs callbacks in the order of their registration,
// and theirs begins the cycle.
func (p *Pipeline) register(o Options, c *collector) error {
	meter := p.provider.Meter(selfScopeName, metric.WithInstrumentationVersion(selfScopeVersion))
	self, err := newSelfMetrics(meter, o, c.begin)
	if err != nil {
		return fmt.Errorf("self-metrics: %w", err)
	}
	c.self, p.delivery.self = self, self
	if err := self.register(meter, func(_ context.Context, observer metric.Observer) error {
		self.observe(observer, c.snapshot, p.delivery.age())
		return nil
	}); err != nil {
		return fmt.Errorf("self-metrics: %w", err)
	}
	for _, in := range o.Instruments {
		if in.Kind == probes.Histogram {
			if in.Range.Scale < 0 {
				return fmt.Errorf("instrument %s: scale %d: buckets wider than a power of two cannot be exported", in.Name, in.Range.Scale)
			}
			continue
		}
		meter := p.provider.Meter(in.Scope.Name, metric.WithInstrumentationVersion(in.Scope.Version))
		if err := c.register(meter, in.Scope, in.Instrument); err != nil {
			return fmt.Errorf("instrument %s: %w", in.Name, err)
		}
	}
	if err := goruntime.Start(goruntime.WithMeterProvider(p.provider)); err != nil {
		return fmt.Errorf("metrics of the Go runtime: %w", err)
	}
	return nil
}

// exportFirst exports once, unless the first interval has ended by then.
func (p *Pipeline) exportFirst(o Options) {
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	if o.FirstExport >= o.Interval {
		return
	}
	p.first.Go(func() {
		select {
		case <-time.After(o.FirstExport):
			_ = p.Flush(ctx) // logged by delivery
		case <-ctx.Done():
		}
	})
}

// Flush collects and exports now. It returns the error of that export, or ctx's.
func (p *Pipeline) Flush(ctx context.Context) error {
	return p.provider.ForceFlush(ctx)
}

// Shutdown collects and exports a last time and ends every goroutine. Give ctx a deadline: it bounds that last export,
// and Shutdown returns soon after it, with [ErrNotEnded], even if a Console's writer blocks.
func (p *Pipeline) Shutdown(ctx context.Context) error {
	p.cancel()
	p.delivery.closing.Store(true)
	done := make(chan error, 1)
	go func() {
		p.first.Wait()
		done <- p.provider.Shutdown(ctx)
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(250 * time.Millisecond):
			return fmt.Errorf("%w: %w", ErrNotEnded, context.Cause(ctx))
		}
	}
	if errors.Is(err, sdkmetric.ErrReaderShutdown) {
		return nil // by an earlier call
	}
	return err
}
