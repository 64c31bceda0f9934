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
)

// TestConsole has every kind of metric printed.
func TestConsole(t *testing.T) {
	set := attribute.NewSet(attribute.String("name", "x"), attribute.Int("code", -1), attribute.Bool("otel.metric.overflow", true))
	start := time.Now()
	number := []metricdata.DataPoint[int64]{{Attributes: set, StartTime: start, Value: 17}}
	float := []metricdata.DataPoint[float64]{{Attributes: set, StartTime: start, Value: 12.5}}
	var out bytes.Buffer
	if err := newConsole(Console{Writer: &out}).Export(&metricdata.ResourceMetrics{ScopeMetrics: []metricdata.ScopeMetrics{{
		Scope: instrumentation.Scope{Name: "test"},
		Metrics: []metricdata.Metrics{
			{Name: "a.counter", Data: metricdata.Sum[int64]{IsMonotonic: true, DataPoints: number}},
			{Name: "a.float.counter", Data: metricdata.Sum[float64]{IsMonotonic: true, DataPoints: float}},
			{Name: "a.gauge", Data: metricdata.Gauge[int64]{DataPoints: number}},
			{Name: "a.float.gauge", Unit: "s", Data: metricdata.Gauge[float64]{DataPoints: float}},
			{Name: "an.updown", Data: metricdata.Sum[int64]{DataPoints: number}},
			{Name: "an.exponential", Unit: "s", Data: metricdata.ExponentialHistogram[float64]{
				DataPoints: []metricdata.ExponentialHistogramDataPoint[float64]{{Attributes: set, StartTime: start, Count: 3, ZeroCount: 1,
					PositiveBucket: metricdata.ExponentialBucket{Offset: 2, Counts: []uint64{2}}}}}},
			{Name: "an.explicit", Unit: "s", Data: metricdata.Histogram[float64]{DataPoints: []metricdata.HistogramDataPoint[float64]{
				{Attributes: set, StartTime: start, Count: 3, Bounds: []float64{0.5, 100}, BucketCounts: []uint64{1, 2, 0}}}}},
		},
	}}}); err != nil {
		t.Fatal(err)
	}
	fields := make(map[string]string) // of the series of each metric
	lines := strings.Split(out.String(), "\n")
	for i := range lines[1:] {
		if name := strings.Fields(lines[i]); strings.HasPrefix(lines[i], "a") {
			fields[name[0]] = strings.Join(strings.Fields(lines[i+1]), " ")
		}
	}
	const label = "code=-1 name=x otel.metric.overflow=true "
	for name, want := range map[string]string{
		"a.counter":       label + "17 ",
		"a.float.counter": label + "12.5 ",
		"a.gauge":         label + "17",
		"a.float.gauge":   label + "12.5s",
		"an.updown":       label + "17",
		"an.exponential":  label + "3 ", // and the rate
		"an.explicit":     label + "3 ",
	} {
		if !strings.HasPrefix(fields[name], want) {
			t.Errorf("%s: got %q, want %q", name, fields[name], want)
		}
	}
	if !strings.HasSuffix(fields["an.exponential"], " 8s 8s 8s 8s") || !strings.HasSuffix(fields["an.explicit"], " 1.7m 1.7m 1.7m 1.7m") {
		t.Errorf("the quantiles are others: %q, %q", fields["an.exponential"], fields["an.explicit"])
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
