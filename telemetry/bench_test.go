package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// nullExporter accepts all and does nothing.
type nullExporter struct{ sdkmetric.Exporter }

func (nullExporter) Export(context.Context, *metricdata.ResourceMetrics) error { return nil }
func (nullExporter) Shutdown(context.Context) error                            { return nil }

// BenchmarkCycle is one cycle without the sending: callbacks, producer, and the encoding. Half of the series
// are counters, half histograms of 160 buckets.
func BenchmarkCycle(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("series=%d", n), func(b *testing.B) {
			snapshot := &probes.Snapshot{Time: time.Now(), Metrics: manySeries(n)}
			source := &fakeSource{t: b, make: func() (*probes.Snapshot, error) { return snapshot, nil }}
			p := startDelivery(b, source, nullExporter{})
			flush(b, p) // makes the attribute sets
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				flush(b, p)
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// BenchmarkExport is one cycle through to a receiver in the same process, whose work counts too.
func BenchmarkExport(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("series=%d", n), func(b *testing.B) {
			snapshot := &probes.Snapshot{Time: time.Now(), Metrics: manySeries(n)}
			source := &fakeSource{t: b, make: func() (*probes.Snapshot, error) { return snapshot, nil }}
			r := new(receiver)
			p, _ := start(b, Options{OTLP: &OTLP{Endpoint: r.serve(b, "127.0.0.1:0")}, ExportTimeout: time.Minute}, source)
			flush(b, p)
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				r.take()
				flush(b, p)
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// startDelivery is Start with another exporter in the place of OTLP's.
func startDelivery(tb testing.TB, source Source, exporter sdkmetric.Exporter) *Pipeline {
	tb.Helper()
	o, err := Options{OTLP: &OTLP{Endpoint: "http://localhost:4317"}, Interval: time.Hour, Instruments: testInstruments, Logger: slog.New(slog.DiscardHandler)}.withDefaults()
	if err != nil {
		tb.Fatal(err)
	}
	p, err := newPipeline(tb.Context(), o, newErrorLog(o.Logger), source, exporter)
	if err != nil {
		tb.Fatal(err)
	}
	p.cancel()
	tb.Cleanup(func() { _ = p.Shutdown(context.Background()) })
	return p
}

// cpuTime returns what this process has used, the garbage collector included. On a busy machine it says more than the
// clock.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
