package readings

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/ebpf-sidecar/sidecar/internal/golden"
)

var (
	begin = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

	executions = Metric{Scope: "github.com/ebpf-sidecar/sidecar/probes/process", Name: "linux.process.executions", Unit: "{execution}"}
	waits      = Metric{Scope: "github.com/ebpf-sidecar/sidecar/probes/scheduler", Name: "linux.scheduler.run_queue.duration", Unit: "s", Kind: Distribution}
	disk       = Metric{Scope: "github.com/ebpf-sidecar/sidecar/probes/block", Name: "system.disk.io", Unit: "By"}
	series     = Metric{Scope: "github.com/ebpf-sidecar/sidecar/telemetry", Name: "sidecar.series", Unit: "{series}", Kind: Level}
	age        = Metric{Scope: "github.com/ebpf-sidecar/sidecar/telemetry", Name: "sidecar.export.unacknowledged.age", Unit: "s", Kind: Level}
	goroutines = Metric{Scope: "go.opentelemetry.io/contrib/instrumentation/runtime", Name: "go.goroutine.count", Kind: Level}
)

func number(v float64, attributes ...string) Point {
	p := Point{Start: begin, Value: Value{Number: v}}
	for i := 0; i < len(attributes); i += 2 {
		p.Attributes = append(p.Attributes, Attribute{attributes[i], attributes[i+1]})
	}
	return p
}

func distribution(h Histogram, attributes ...string) Point {
	p := number(float64(h.Count()), attributes...)
	p.Histogram = &h
	return p
}

// busy fills a store with what is there after so many seconds: hostile names, too.
func busy(s *Store, seconds float64) {
	const name = "process.executable.name"
	names := []Point{
		number(1000*seconds, name, "busy"),
		number(seconds, name, "slow"),
		number(123_456_789, name, "stopped"),
		number(5*seconds, "otel.metric.overflow", "true"),
		number(2, name, "line\nbreak"),
		number(2, name, "esc\x1b[2J"),
		number(2, name, "not \xff utf-8"),
		number(2, name, "right\u202eleft"),
		number(2, name, ""),
		number(2, "process.exit.code", "-1", name, strings.Repeat("long", 20)),
	}
	for range 5 {
		names = append(names, number(1, name, strings.Repeat("x", len(names))))
	}
	for _, p := range names {
		s.Add(executions, p)
	}
	s.Add(waits, distribution(Histogram{Offset: -20, Counts: []uint64{50, 0, 0, 30, 0, 0, 0, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}}, "systemd.unit", "a.service"))
	s.Add(waits, distribution(Histogram{Zero: uint64(seconds) * 200}, "systemd.unit", "b.service"))
	s.Add(waits, distribution(Histogram{Offset: -20, Counts: []uint64{1}}, "systemd.unit", "c.service"))
	s.Add(waits, distribution(Histogram{}, "systemd.unit", "empty.service"))
	s.Add(disk, number(3_500_000*seconds))
	s.Add(series, number(17))
	s.Add(age, number(12.5))
	s.Add(goroutines, number(1))
}

// frames writes those of 10 and 20 seconds.
func frames(t *testing.T, writer func(io.Writer) Writer) []byte {
	t.Helper()
	var out bytes.Buffer
	s, w := NewStore(begin), writer(&out)
	for _, seconds := range []int{10, 20} {
		busy(s, float64(seconds))
		if err := w.Write(s.Frame(begin.Add(time.Duration(seconds) * time.Second))); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func TestText(t *testing.T) {
	out := frames(t, NewText)
	for _, r := range string(out) {
		if r < ' ' && r != '\n' || r == 0x7f || r == '\u202e' {
			t.Errorf("%q is in the output", r)
		}
	}
	golden.Check(t, "text.txt", out)
}

func TestJSON(t *testing.T) {
	var last jsonFrame
	for line := range bytes.Lines(frames(t, NewJSON)) {
		if err := json.Unmarshal(line, &last); err != nil {
			t.Fatal(err)
		}
	}
	if last.Seconds != 10 || len(last.Series) != 23 {
		t.Errorf("%v s, %d series", last.Seconds, len(last.Series))
	}
	rates := make(map[string]float64)
	for _, s := range last.Series {
		if s.Rate != nil {
			rates[s.Metric+s.Attributes["process.executable.name"]+s.Attributes["systemd.unit"]] = *s.Rate
		} else if s.Metric != "sidecar.series" && s.Metric != "go.goroutine.count" && s.Metric != "sidecar.export.unacknowledged.age" {
			t.Errorf("%s has no rate", s.Metric)
		}
		if s.Attributes["systemd.unit"] == "a.service" && (s.Total != 100 || s.Quantiles["p90"] != Bound(0, -11) || s.Sum == nil) {
			t.Errorf("a distribution is written as %+v", s)
		}
	}
	for name, want := range map[string]float64{
		"linux.process.executionsbusy": 1000, "linux.process.executionsstopped": 0, "linux.scheduler.run_queue.durationb.service": 200,
	} {
		if rates[name] != want {
			t.Errorf("%s: %v a second, want %v", name, rates[name], want)
		}
	}
}

func TestCSV(t *testing.T) {
	rows, err := csv.NewReader(bytes.NewReader(frames(t, NewCSV))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1+2*23 {
		t.Errorf("%d rows", len(rows))
	}
	found := 0
	for _, row := range rows {
		if row[4] == `{"process.executable.name":"esc\u001b[2J"}` || row[4] == `{"process.executable.name":"line\nbreak"}` {
			found++
		}
		if row[2] == disk.Name && (row[6] != "3500000" || row[7] != "" || row[8] != "") {
			t.Errorf("a counter is written as %q", row)
		}
	}
	if found != 4 {
		t.Errorf("%d of 4 rows with hostile names", found)
	}
}

func TestFormat(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{Format("s", 0), "0"},
		{Format("s", 1e-9), "1ns"},
		{Format("s", 0.00095), "950µs"},
		{Format("s", 0.0123), "12.3ms"},
		{Format("s", 1.5), "1.5s"},
		{Format("s", 59.99), "60s"},
		{Format("s", 90), "1.5m"},
		{Format("s", 131072), "36.4h"},
		{Format("s", math.Inf(1)), "Inf"},
		{Format("s", math.NaN()), "-"},
		{Format("By", 1023), "1023B"},
		{Format("By", 1536), "1.5KiB"},
		{Format("{thing}", 123456789), "123456789"},
		{Format("{thing}", 1.2345), "1.23"},
		{FormatRate("{thing}", 0), "0/s"},
		{FormatRate("{thing}", 12345), "12.3k/s"},
		{FormatRate("By", 1536), "1.5KiB/s"},
		{QuantileName(0.5), "p50"},
		{QuantileName(0.999), "p99.9"},
	} {
		if test.got != test.want {
			t.Errorf("got %s, want %s", test.got, test.want)
		}
	}
}

// TestFrames checks what is added between frames, for series that come, go and begin again.
func TestFrames(t *testing.T) {
	s := NewStore(begin)
	frame := func(points ...Point) map[string]float64 {
		for _, p := range points {
			s.Add(executions, p)
		}
		added := make(map[string]float64)
		for _, r := range s.Frame(s.last.Add(time.Second)).Readings {
			added[Label(r.Attributes)] = r.Added.Number
		}
		return added
	}
	again := number(3, "n", "a")
	again.Start = begin.Add(time.Hour)
	for i, test := range []struct {
		points []Point
		want   map[string]float64
	}{
		{[]Point{number(5, "n", "a"), number(1, "n", "ab")}, map[string]float64{"n=a": 5, "n=ab": 1}},
		{[]Point{number(7, "n", "a"), number(1, "n", "ab"), number(2, "na", "b")}, map[string]float64{"n=a": 2, "n=ab": 0, "na=b": 2}},
		{[]Point{number(7, "n", "a"), number(8, "n", "a")}, map[string]float64{"n=a": 1}}, // told twice
		{[]Point{again}, map[string]float64{"n=a": 3}},
		{nil, map[string]float64{}},
	} {
		got := frame(test.points...)
		if len(got) != len(test.want) {
			t.Errorf("frame %d: %v, want %v", i, got, test.want)
		}
		for name, want := range test.want {
			if got[name] != want {
				t.Errorf("frame %d: %v, want %v", i, got, test.want)
			}
		}
	}
	if len(s.series) != 0 {
		t.Errorf("%d series that are gone are kept", len(s.series))
	}
}

// TestOTLP takes every kind of metric from a request.
func TestOTLP(t *testing.T) {
	kv := func(key string, value *common.AnyValue) *common.KeyValue {
		return &common.KeyValue{Key: key, Value: value}
	}
	attributes := []*common.KeyValue{
		kv("s", &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: "x"}}),
		kv("i", &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: -7}}),
		kv("b", &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: true}}),
		kv("d", &common.AnyValue{Value: &common.AnyValue_DoubleValue{DoubleValue: 1.5}}),
		kv("y", &common.AnyValue{Value: &common.AnyValue_BytesValue{BytesValue: []byte{0xff}}}),
		kv("n", nil),
	}
	integer := []*otlp.NumberDataPoint{{Attributes: attributes, Value: &otlp.NumberDataPoint_AsInt{AsInt: 4}}}
	double := []*otlp.NumberDataPoint{{Attributes: attributes, Value: &otlp.NumberDataPoint_AsDouble{AsDouble: 0.5}}}
	sum := 3.0
	s := NewStore(begin)
	s.AddOTLP(&collector.ExportMetricsServiceRequest{ResourceMetrics: []*otlp.ResourceMetrics{{ScopeMetrics: []*otlp.ScopeMetrics{{
		Scope: &common.InstrumentationScope{Name: "scope"},
		Metrics: []*otlp.Metric{
			{Name: "1", Data: &otlp.Metric_Sum{Sum: &otlp.Sum{IsMonotonic: true, DataPoints: integer}}},
			{Name: "2", Data: &otlp.Metric_Sum{Sum: &otlp.Sum{DataPoints: double}}},
			{Name: "3", Data: &otlp.Metric_Gauge{Gauge: &otlp.Gauge{DataPoints: double}}},
			{Name: "4", Data: &otlp.Metric_ExponentialHistogram{ExponentialHistogram: &otlp.ExponentialHistogram{
				DataPoints: []*otlp.ExponentialHistogramDataPoint{{Attributes: attributes, Count: 3, Scale: 3, ZeroCount: 1, Sum: &sum,
					Positive: &otlp.ExponentialHistogramDataPoint_Buckets{Offset: -8, BucketCounts: []uint64{0, 2}}}}}}},
			{Name: "5", Data: &otlp.Metric_Histogram{Histogram: &otlp.Histogram{DataPoints: []*otlp.HistogramDataPoint{
				{Attributes: attributes, Count: 2, ExplicitBounds: []float64{1, 2}, BucketCounts: []uint64{0, 1, 1}}}}}},
		},
	}}}}})
	f := s.Frame(begin.Add(time.Second))
	for i, want := range []struct {
		kind   Kind
		number float64
		median float64
	}{{Counter, 4, 0}, {Level, 0.5, 0}, {Level, 0.5, 0}, {Distribution, 3, Bound(3, -7)}, {Distribution, 2, 2}} {
		r := f.Readings[i]
		if r.Kind != want.kind || r.Total.Number != want.number || Label(r.Attributes) != `b=true d=1.5 i=-7 n="" s=x y=ff` {
			t.Errorf("metric %s: %+v of kind %d, %s", r.Name, r.Total, r.Kind, Label(r.Attributes))
		}
		if h := r.Total.Histogram; h != nil && h.Quantile(0.5) != want.median {
			t.Errorf("metric %s: the median is %v, want %v", r.Name, h.Quantile(0.5), want.median)
		}
	}
}

// TestHistogram compares sums, differences and quantiles with those of the values themselves, at changing scales.
func TestHistogram(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	record := func(scale int32, values []float64) *Histogram {
		h := &Histogram{Scale: scale}
		for _, v := range values {
			h.Sum += v
			if v == 0 {
				h.Zero++
				continue
			}
			*h.at(int32(math.Ceil(math.Log2(v)*math.Exp2(float64(scale)))) - 1)++
		}
		return h
	}
	for range 300 {
		var values []float64
		for range 1 + random.IntN(200) {
			values = append(values, float64(random.IntN(3))*math.Exp(random.NormFloat64()*4))
		}
		cut := random.IntN(len(values))
		early, late := random.Int32N(6), random.Int32N(6)
		a, b := record(early, values[:cut]), record(late, values[cut:])
		scale := min(early, late)
		if cut == 0 {
			scale = late
		}
		all := record(scale, values)

		a.Add(b)
		slices.Sort(values)
		for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.999, 1} {
			got := a.Quantile(q)
			exact := values[max(1, int(math.Ceil(q*float64(len(values)))))-1]
			if got != all.Quantile(q) || got < exact || exact > 0 && got > exact*math.Exp2(math.Exp2(-float64(a.Scale)))*1.000001 {
				t.Fatalf("quantile %v of a sum is %v, of the values %v: %v", q, got, all.Quantile(q), exact)
			}
		}
		rest := a.Less(record(early, nil)).Less(b)
		if n := rest.Count(); n != uint64(cut) || math.Abs(rest.Sum-(a.Sum-b.Sum)) > 1e-6 {
			t.Fatalf("%d values are left of %d", n, cut)
		}
	}
	if q := (&Histogram{}).Quantile(0.5); !math.IsNaN(q) {
		t.Errorf("the median of nothing is %v", q)
	}
}
