package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"google.golang.org/grpc/mem"
)

const (
	// maxRequest is the size of a request, in bytes: a receiver of gRPC accepts 4 MiB unless it is told otherwise, and
	// counts what is left after decompression.
	maxRequest = 4<<20 - 64<<10
	// minRequest is where learning a receiver's smaller limit ends.
	minRequest = 64 << 10
	// lastAttempt is the timeout of the last export if there was no receiver before: who stops the sidecar should not
	// wait for the repetitions.
	lastAttempt = 500 * time.Millisecond
)

// delivery is the exporter that the reader knows. It makes requests of a cycle's points, sends them, and acknowledges
// the cycle's snapshot when all points have arrived. It belongs to the reader's goroutine.
type delivery struct {
	resource  *resource.Resource
	collector *collector
	self      *selfMetrics
	log       *errorLog

	otlp     sdkmetric.Exporter // or nil
	endpoint string
	timeout  time.Duration // of a request
	limit    int           // of a request, in bytes
	memory   spare         // of the last request
	console  *console      // or nil

	histograms sdkmetric.Aggregation // of the self-metrics

	unreachable bool        // the last request found no receiver
	closing     atomic.Bool // the next export is the last

	unacknowledged time.Time // the first collection since the last that was accepted whole; zero when there is none

	health atomic.Pointer[Health]
}

var _ sdkmetric.Exporter = (*delivery)(nil)

var (
	exportTopic  = topic{failing: "export failing", recovered: "export recovered", level: slog.LevelError, quiet: time.Minute}
	consoleTopic = topic{failing: "console failing", recovered: "console recovered", level: slog.LevelError, quiet: time.Minute}
	warningTopic = topic{failing: "the receiver accepted all points with a warning", level: slog.LevelWarn, quiet: time.Hour}
	droppedTopic = topic{failing: "a point is too large for the receiver and is dropped", level: slog.LevelError, quiet: time.Hour}
)

// Temporality is cumulative for all: deltas could not be told again after a failed export.
func (d *delivery) Temporality(sdkmetric.InstrumentKind) metricdata.Temporality {
	return metricdata.CumulativeTemporality
}

// Aggregation is the SDK's default, except that histograms have the form of the probes'.
func (d *delivery) Aggregation(kind sdkmetric.InstrumentKind) sdkmetric.Aggregation {
	if kind == sdkmetric.InstrumentKindHistogram {
		return d.histograms
	}
	return sdkmetric.DefaultAggregationSelector(kind)
}

// Export delivers one cycle. An error that it returns is logged already.
func (d *delivery) Export(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	if !d.collector.ready.Load() {
		return nil
	}
	rm.Resource = d.resource // the SDK has added the environment's attributes to its own as they are
	d.collector.stamp(rm)
	var err error
	if d.console != nil {
		if err = d.console.Export(rm); err != nil {
			d.log.failed(consoleTopic, "", err)
		} else {
			d.log.worked(consoleTopic, "")
		}
	}
	if d.otlp != nil {
		err = d.exportOTLP(ctx, rm)
	}
	d.acknowledge(err == nil)
	d.ended(err)
	if err != nil {
		return reported{err}
	}
	return nil
}

// acknowledge notes what became of the cycle's snapshot. The receiver is the OTLP one, or without one the console.
func (d *delivery) acknowledge(accepted bool) {
	snapshot := d.collector.snapshot
	switch {
	case snapshot == nil:
	case accepted:
		d.unacknowledged = time.Time{}
		d.collector.source.Acknowledge(snapshot)
	case d.unacknowledged.IsZero():
		d.unacknowledged = snapshot.Time
	}
}

// age returns how old the oldest collection is that was not accepted.
func (d *delivery) age() time.Duration {
	if d.unacknowledged.IsZero() {
		return 0
	}
	return time.Since(d.unacknowledged)
}

func (d *delivery) exportOTLP(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	n := countPoints(rm)
	err := d.send(ctx, rm, 0, n, n)
	switch {
	case err == nil:
		d.log.worked(exportTopic, "", "endpoint", d.endpoint)
	case errors.Is(ctx.Err(), context.Canceled):
		// Shutdown has interrupted the export, and makes another.
	default:
		d.log.failed(exportTopic, "", err, "endpoint", d.endpoint, "error.type", errorType(err))
	}
	return err
}

// send sends the points of rm from number from on and before number to, at most most in a request, until the receiver is
// out of reach. It returns the first error.
func (d *delivery) send(ctx context.Context, rm *metricdata.ResourceMetrics, from, to, most int) error {
	var first error
	for from < to {
		// Encoded one by one, all requests need the memory of one.
		memory := d.memory.Get(0)
		var next int
		*memory, next = encode(*memory, rm, from, min(from+most, to), d.limit)
		size := len(*memory)
		err := d.request(ctx, mem.NewBuffer(memory, &d.memory), next-from)
		if tooLarge(err) {
			err = d.sendHalves(ctx, rm, from, next, size, err)
		}
		if first == nil {
			first = err
		}
		if err != nil && (!answered(err) || ctx.Err() != nil) {
			break
		}
		from = next
	}
	return first
}

// sendHalves sends again, in smaller requests, the points of a request of that size that the receiver found too large.
func (d *delivery) sendHalves(ctx context.Context, rm *metricdata.ResourceMetrics, from, to, size int, refusal error) error {
	n := to - from
	if n == 1 {
		name := metricName(rm, from)
		d.log.happened(droppedTopic, name, refusal, "metric", name, "bytes", size)
		return refusal
	}
	err := d.send(ctx, rm, from, to, (n+1)/2)
	if err == nil && size/2 < d.limit {
		// Accepted in halves, so it was the size: spare the next cycle the refusal.
		d.limit = max(size/2, minRequest)
	}
	return err
}

// metricName returns the name of the metric that point i of rm belongs to.
func metricName(rm *metricdata.ResourceMetrics, i int) string {
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			if i -= pointsOf(m.Data).n; i < 0 {
				return m.Name
			}
		}
	}
	return ""
}

// request sends once, with the SDK's repetitions, a request with so many points. It frees the request.
func (d *delivery) request(ctx context.Context, request mem.Buffer, points int) error {
	defer request.Free()
	timeout := d.timeout
	if d.closing.Load() && d.unreachable {
		timeout = min(timeout, lastAttempt)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	err := exportEncoded(ctx, d.otlp, request)
	took := time.Since(start)

	refused, kind := 0, errorType(err)
	if err != nil {
		refused = points
	}
	if n, ok := rejectedPoints(err); ok {
		refused = max(0, min(n, points))
		if n == 0 {
			d.log.happened(warningTopic, "", err, "endpoint", d.endpoint)
			err, kind = nil, ""
		}
	}
	d.unreachable = kind == "UNAVAILABLE" || kind == "connection" || kind == "dns"
	d.self.exported(ctx, took, points-refused, refused, kind)
	if err != nil {
		return fmt.Errorf("%d points: %w", points, err)
	}
	return nil
}

// ForceFlush has nothing to do: Export holds nothing back.
func (d *delivery) ForceFlush(context.Context) error { return nil }

// Shutdown closes the connections.
func (d *delivery) Shutdown(ctx context.Context) error {
	if d.otlp == nil {
		return nil
	}
	return d.otlp.Shutdown(ctx)
}
