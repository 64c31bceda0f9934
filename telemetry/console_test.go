package telemetry

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/ebpf-sidecar/sidecar/internal/golden"
	"github.com/ebpf-sidecar/sidecar/probes"
)

func TestConsole(t *testing.T) {
	start := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	at := func(seconds int) *metricdata.ResourceMetrics {
		now := start.Add(time.Duration(seconds) * time.Second)
		number := func(value int64, kvs ...attribute.KeyValue) metricdata.DataPoint[int64] {
			return metricdata.DataPoint[int64]{Attributes: attribute.NewSet(kvs...), StartTime: start, Time: now, Value: value}
		}
		name := func(v string) attribute.KeyValue { return attribute.String("process.executable.name", v) }
		n := int64(seconds)
		programs := []metricdata.DataPoint[int64]{
			number(1000*n, name("busy")),
			number(n, name("slow")),
			number(123_456_789, name("stopped")),
			number(5*n, attribute.Bool("otel.metric.overflow", true)),
			number(2, name("line\nbreak")),
			number(2, name("esc\x1b[2J")),
			number(2, name("not \xff utf-8")),
			number(2, name("right\u202eleft")),
			number(2, name("")),
			number(2, name(strings.Repeat("long", 20)), attribute.Int("process.exit.code", -1)),
		}
		for range 5 {
			programs = append(programs, number(1, name(strings.Repeat("x", len(programs)))))
		}
		histogram := func(unit string, counts ...uint64) metricdata.ExponentialHistogramDataPoint[float64] {
			h := probes.HistogramData{ZeroCount: counts[0], Counts: counts[1:]}
			return metricdata.ExponentialHistogramDataPoint[float64]{Attributes: attribute.NewSet(attribute.String("systemd.unit", unit)),
				StartTime: start, Time: now, Count: h.Count(), Scale: 0, ZeroCount: h.ZeroCount,
				PositiveBucket: metricdata.ExponentialBucket{Offset: -20, Counts: h.Counts}}
		}
		return &metricdata.ResourceMetrics{ScopeMetrics: []metricdata.ScopeMetrics{
			{Scope: instrumentation.Scope{Name: "z"}, Metrics: []metricdata.Metrics{
				{Name: "linux.scheduler.run_queue.duration", Unit: "s", Data: metricdata.ExponentialHistogram[float64]{
					DataPoints: []metricdata.ExponentialHistogramDataPoint[float64]{
						histogram("a.service", 0, 50, 0, 0, 30, 0, 0, 0, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1),
						histogram("b.service", uint64(n)*200),
						histogram("c.service", 0, 1),
						histogram("empty.service", 0),
					}}},
				{Name: "no.points", Data: metricdata.Sum[int64]{}},
				{Name: "explicit", Unit: "s", Data: metricdata.Histogram[float64]{DataPoints: []metricdata.HistogramDataPoint[float64]{
					{StartTime: start, Time: now, Count: 3, Bounds: []float64{0.5, 100, 10_000}, BucketCounts: []uint64{1, 1, 0, 1}}}}},
			}},
			{Scope: instrumentation.Scope{Name: "a"}, Metrics: []metricdata.Metrics{
				{Name: "linux.process.executions", Unit: "{execution}", Data: metricdata.Sum[int64]{IsMonotonic: true, DataPoints: programs}},
				{Name: "system.disk.io", Unit: "By", Data: metricdata.Sum[int64]{IsMonotonic: true, DataPoints: []metricdata.DataPoint[int64]{number(3_500_000 * n)}}},
			}},
			{Scope: instrumentation.Scope{Name: selfScopeName}, Metrics: []metricdata.Metrics{
				{Name: "sidecar.series", Unit: "{series}", Data: metricdata.Sum[int64]{DataPoints: []metricdata.DataPoint[int64]{number(17)}}},
				{Name: "sidecar.export.unacknowledged.age", Unit: "s", Data: metricdata.Gauge[float64]{DataPoints: []metricdata.DataPoint[float64]{
					{Time: now, Value: 12.5}}}},
			}},
			{Scope: instrumentation.Scope{Name: "go.opentelemetry.io/contrib/instrumentation/runtime"}, Metrics: []metricdata.Metrics{
				{Name: "go.goroutine.count", Data: metricdata.Gauge[int64]{DataPoints: []metricdata.DataPoint[int64]{number(1)}}}}},
		}}
	}
	var out bytes.Buffer
	c := newConsole(Console{Writer: &out})
	for _, seconds := range []int{10, 20} {
		if err := c.Export(at(seconds)); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range out.String() {
		if r < ' ' && r != '\n' || r == 0x7f || r == '\u202e' {
			t.Errorf("%q is in the output", r)
		}
	}
	golden.Check(t, "console.txt", out.Bytes())

	if err := c.Export(&metricdata.ResourceMetrics{}); err != nil || len(c.previous) != 0 {
		t.Errorf("%d series that are gone are kept; error: %v", len(c.previous), err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestConsoleFails(t *testing.T) {
	source := newSource(t)
	p, log := start(t, Options{Console: &Console{Writer: brokenWriter{}}}, source)
	for range 2 {
		if err := p.Flush(t.Context()); err == nil {
			t.Error("no error")
		}
	}
	if len(log.lines(t, "console failing")) != 1 || source.acks() != 0 {
		t.Errorf("%d acknowledged, log: %s", source.acks(), log.text())
	}
}

func TestHumanUnits(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{seconds(0), "0"},
		{seconds(1e-9), "1ns"},
		{seconds(0.00095), "950µs"},
		{seconds(0.0123), "12.3ms"},
		{seconds(1.5), "1.5s"},
		{seconds(59.99), "60s"},
		{seconds(90), "1.5m"},
		{seconds(131072), "36.4h"},
		{bytesText(1023), "1023B"},
		{bytesText(1536), "1.5KiB"},
		{perSecond(0), "0/s"},
		{perSecond(12345), "12.3k/s"},
		{plain(123456789), "123456789"},
		{plain(1.2345), "1.23"},
	} {
		if test.got != test.want {
			t.Errorf("got %s, want %s", test.got, test.want)
		}
	}
}
