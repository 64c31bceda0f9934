package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// TestExactValues sends counters and histograms over every transport, and compares all that arrives.
func TestExactValues(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			r := new(receiver)
			o := transport.serve(t, r)
			start1, start2 := bootTime, bootTime.Add(17*time.Nanosecond)
			source := newSource(t,
				metricOf(executions,
					probes.Point{Attributes: attrs("process.executable.name", "bash", "process.exit.code", int64(-3), "x", true), Start: start1, Value: 1<<63 - 1},
					probes.Point{Attributes: attrs(), Start: start2, Value: 0}),
				metricOf(wait, probes.Point{
					Attributes: attrs("systemd.unit", "a.service"), Start: start2,
					Histogram: probes.HistogramData{Scale: 3, ZeroCount: 5, Sum: 0.1, Offset: -160, Counts: []uint64{1, 0, 1 << 40}},
				}))
			p, log := start(t, Options{OTLP: &o}, source)
			flush(t, p)

			requests, _ := r.take()
			m := metricsByName(requests)
			sum := m["linux.process.executions"].GetSum()
			if sum.AggregationTemporality != otlp.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE || !sum.IsMonotonic || len(sum.DataPoints) != 2 {
				t.Errorf("sum: %v", sum)
			}
			for _, want := range []struct {
				attrs map[string]any
				start time.Time
				value int64
			}{
				{map[string]any{"process.executable.name": "bash", "process.exit.code": int64(-3), "x": true}, start1, 1<<63 - 1},
				{map[string]any{}, start2, 0},
			} {
				got := numberOf(t, m["linux.process.executions"], want.attrs)
				if got.StartTimeUnixNano != uint64(want.start.UnixNano()) || got.TimeUnixNano != uint64(bootTime.Add(time.Hour).UnixNano()) || got.GetAsInt() != want.value {
					t.Errorf("got %v, want %v", got, want)
				}
			}
			h := m["linux.scheduler.run_queue.duration"].GetExponentialHistogram()
			if len(h.GetDataPoints()) != 1 || h.AggregationTemporality != otlp.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
				t.Fatalf("histogram: %v", h)
			}
			d := h.DataPoints[0]
			if d.StartTimeUnixNano != uint64(start2.UnixNano()) || d.TimeUnixNano != uint64(bootTime.Add(time.Hour).UnixNano()) ||
				d.Count != 5+1+1<<40 || d.GetSum() != 0.1 || d.Scale != 3 || d.ZeroCount != 5 || d.ZeroThreshold != 0 ||
				d.Positive.Offset != -160 || !slices.Equal(d.Positive.BucketCounts, []uint64{1, 0, 1 << 40}) ||
				len(d.Negative.GetBucketCounts()) != 0 || d.Min != nil || d.Max != nil {
				t.Errorf("histogram point: %v", d)
			}
			for _, name := range []string{"sidecar.build.info", "go.goroutine.count", "sidecar.collection.duration"} {
				if m[name] == nil {
					t.Errorf("no %s", name)
				}
			}
			scope := scopeOf(requests, "linux.process.executions")
			if scope.GetName() != testScope.Name || scope.GetVersion() != testScope.Version {
				t.Errorf("scope: %v", scope)
			}
			if source.acks() != 1 || log.text() != "" {
				t.Errorf("acknowledged %d times, log: %s", source.acks(), log.text())
			}
		})
	}
}

// TestOverflow has the overflow series, which the SDK has an own meaning for, in two counters and for two cycles.
func TestOverflow(t *testing.T) {
	r := new(receiver)
	overflow, a, b := attrs("otel.metric.overflow", true), attrs("x", "a"), attrs("x", "b")
	points := []probes.Point{{Attributes: a, Start: bootTime, Value: 1}, {Attributes: b, Start: bootTime, Value: 2}, {Attributes: overflow, Start: bootTime, Value: 4}}
	p, _ := start(t, Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}}, newSource(t, metricOf(executions, points...), metricOf(exits, points...)))
	for range 2 {
		flush(t, p)
		requests, _ := r.take()
		for _, name := range []string{executions.Name, exits.Name} {
			m := metricsByName(requests)[name]
			for _, want := range []struct {
				attrs map[string]any
				value int64
			}{{map[string]any{"x": "a"}, 1}, {map[string]any{"x": "b"}, 2}, {map[string]any{"otel.metric.overflow": true}, 4}} {
				if got := numberOf(t, m, want.attrs); got.GetAsInt() != want.value {
					t.Errorf("%v: got %v", want.attrs, got)
				}
			}
		}
	}
}

// TestNoProbes is the sidecar with --safe: only self-metrics.
func TestNoProbes(t *testing.T) {
	r := new(receiver)
	p, log := start(t, Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}, Version: "1.2.3", Revision: "abc"}, newSource(t))
	flush(t, p)
	requests, _ := r.take()
	m := metricsByName(requests)
	info := m["sidecar.build.info"].GetGauge().GetDataPoints()
	if len(info) != 1 || info[0].GetAsInt() != 1 || attributesOf(info[0].Attributes)["sidecar.build.version"] != "1.2.3" {
		t.Errorf("build info: %v", info)
	}
	if log.text() != "" {
		t.Error(log.text())
	}
}

func TestSelfMetrics(t *testing.T) {
	r := new(receiver)
	source := newSource(t)
	source.make = func() (*probes.Snapshot, error) {
		return &probes.Snapshot{
			Time: time.Now(),
			Probes: []probes.Status{
				{Probe: "process", State: probes.Attached, Events: 42, CPUTime: 1500 * time.Millisecond, Missed: []probes.Missed{{Reason: probes.MissedRecursion, Count: 3}}},
				{Probe: "block", State: probes.Failed, Err: errors.New("no")},
			},
			Tables: []probes.TableStatus{{Probe: "process", Table: "exits", Series: 64, Limit: 64, Overflow: 7}},
		}, nil
	}
	p, log := start(t, Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}}, source)
	flush(t, p)
	flush(t, p) // what an export did is in the next one
	requests, _ := r.take()
	m := metricsByName(requests[1:])

	process := map[string]any{"sidecar.probe.name": "process"}
	table := map[string]any{"sidecar.probe.name": "process", "sidecar.table.name": "exits"}
	for _, want := range []struct {
		metric string
		attrs  map[string]any
		value  int64
	}{
		{"sidecar.probe.events", process, 42},
		{"sidecar.probe.state", map[string]any{"sidecar.probe.name": "process", "sidecar.probe.state": "attached"}, 1},
		{"sidecar.probe.state", map[string]any{"sidecar.probe.name": "process", "sidecar.probe.state": "failed"}, 0},
		{"sidecar.probe.state", map[string]any{"sidecar.probe.name": "block", "sidecar.probe.state": "failed"}, 1},
		{"sidecar.probe.missed", map[string]any{"sidecar.probe.name": "process", "sidecar.probe.missed.reason": "recursion"}, 3},
		{"sidecar.series", table, 64},
		{"sidecar.series.limit", table, 64},
		{"sidecar.series.overflow", table, 7},
	} {
		if got := numberOf(t, m[want.metric], want.attrs); got.GetAsInt() != want.value {
			t.Errorf("%s %v: got %v, want %d", want.metric, want.attrs, got.GetAsInt(), want.value)
		}
	}
	if n := numberOf(t, m["otel.sdk.exporter.metric_data_point.exported"], map[string]any{
		"otel.component.type": "otlp_grpc_metric_exporter", "otel.component.name": "otlp_grpc_metric_exporter/0",
	}); n.GetAsInt() < 20 {
		t.Errorf("points: %v", n)
	}
	if cpu := m["sidecar.probe.cpu.time"].GetSum().GetDataPoints(); len(cpu) != 1 || cpu[0].GetAsDouble() != 1.5 {
		t.Errorf("CPU time: %v", cpu)
	}
	if age := numberOf(t, m["sidecar.export.unacknowledged.age"], map[string]any{}); age.GetAsDouble() != 0 {
		t.Errorf("age: %v", age)
	}
	for _, s := range SelfMetrics() {
		got := m[s.Name]
		if got == nil || got.Unit != s.Unit || got.Description != s.Description {
			t.Errorf("%s: got %v", s.Name, got)
			continue
		}
		kind := map[bool]string{true: "counter", false: "updowncounter"}[got.GetSum().GetIsMonotonic()]
		switch got.Data.(type) {
		case *otlp.Metric_Gauge:
			kind = "gauge"
		case *otlp.Metric_ExponentialHistogram:
			kind = "histogram"
		}
		if kind != s.Kind {
			t.Errorf("%s is a %s, want a %s", s.Name, kind, s.Kind)
		}
	}
	if lines := log.lines(t, "series limit reached"); len(lines) != 1 || lines[0]["table"] != "exits" {
		t.Errorf("log: %s", log.text())
	}
}

// TestSnapshotFails has the probes unreadable for a while: the self-metrics go on.
func TestSnapshotFails(t *testing.T) {
	r := new(receiver)
	source := newSource(t, metricOf(executions, probes.Point{Attributes: attrs(), Start: bootTime, Value: 1}))
	works, fail := source.make, true
	source.make = func() (*probes.Snapshot, error) {
		if fail {
			return nil, errors.New("map is gone")
		}
		return works()
	}
	p, log := start(t, Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}}, source)
	flush(t, p)
	flush(t, p)
	requests, _ := r.take()
	m := metricsByName(requests)
	if m["linux.process.executions"] != nil || m["sidecar.build.info"] == nil || source.acks() != 0 {
		t.Errorf("%d acknowledged, metrics: %v", source.acks(), m)
	}
	source.mu.Lock()
	fail = false
	source.mu.Unlock()
	flush(t, p)
	requests, _ = r.take()
	m = metricsByName(requests)
	failures := uint64(0)
	for _, d := range m["sidecar.collection.duration"].GetExponentialHistogram().GetDataPoints() {
		if attributesOf(d.Attributes)["error.type"] != nil {
			failures += d.Count
		}
	}
	if m["linux.process.executions"] == nil || source.acks() != 1 || failures != 2 {
		t.Errorf("%d acknowledged, %d failures, metrics: %v", source.acks(), failures, m)
	}
	if len(log.lines(t, "reading the probes failing")) != 1 || len(log.lines(t, "reading the probes recovered")) != 1 {
		t.Errorf("log: %s", log.text())
	}
}

// TestStartTimes has two counters with the same sets, a cycle whose snapshot fails, and one without a metric.
func TestStartTimes(t *testing.T) {
	r := new(receiver)
	a, b, start1, start2 := attrs("x", "a"), attrs("x", "b"), bootTime, bootTime.Add(time.Second)
	both := []probes.Metric{
		metricOf(executions, probes.Point{Attributes: a, Start: start1, Value: 1}, probes.Point{Attributes: b, Start: start2, Value: 1}),
		metricOf(exits, probes.Point{Attributes: a, Start: start2, Value: 1}, probes.Point{Attributes: b, Start: start1, Value: 1}),
	}
	source := newSource(t)
	p, _ := start(t, Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}}, source)
	for i, cycle := range []struct {
		metrics []probes.Metric
		err     error
	}{{both, nil}, {nil, errors.New("map is gone")}, {both, nil}, {nil, nil}, {both, nil}, {both[1:], nil}, {both, nil}} {
		source.make = func() (*probes.Snapshot, error) {
			return &probes.Snapshot{Time: bootTime.Add(time.Hour), Metrics: cycle.metrics}, cycle.err
		}
		flush(t, p)
		requests, _ := r.take()
		m := metricsByName(requests)
		for _, metric := range cycle.metrics {
			for _, point := range metric.Points {
				x := map[string]any{"x": point.Attributes.List[0].Value}
				got := numberOf(t, m[metric.Instrument.Name], x)
				if got.StartTimeUnixNano != uint64(point.Start.UnixNano()) {
					t.Errorf("cycle %d, %s %v began at %v, want %v", i, metric.Instrument.Name, x,
						time.Unix(0, int64(got.StartTimeUnixNano)), point.Start)
				}
			}
		}
	}
}

// TestUnlisted has a counter in the snapshot that was not listed at the start.
func TestUnlisted(t *testing.T) {
	r := new(receiver)
	source := newSource(t, metricOf(exits, probes.Point{Attributes: attrs(), Start: bootTime, Value: 1}))
	p, log := start(t, Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}, Instruments: testInstruments[:1]}, source)
	flush(t, p)
	flush(t, p)
	if len(log.lines(t, "a metric is not exported")) != 1 {
		t.Errorf("log: %s", log.text())
	}
}

// TestReceiverComesUp starts without a receiver.
func TestReceiverComesUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	source := newSource(t, metricOf(executions, probes.Point{Attributes: attrs(), Start: bootTime, Value: 99}))
	log := new(logBuffer)
	p, err := Start(t.Context(), Options{
		OTLP:        &OTLP{Endpoint: "http://" + address, Timeout: 2 * time.Second, Headers: map[string]string{"authorization": "hunter2"}},
		Instruments: testInstruments, Interval: 100 * time.Millisecond, Logger: log.logger(),
	}, source)
	if err != nil {
		t.Fatal(err)
	}
	defer shutdown(t, p)
	eventually(t, func() bool { source.mu.Lock(); defer source.mu.Unlock(); return source.snapshots >= 4 })
	if source.acks() != 0 {
		t.Error("acknowledged without a receiver")
	}

	r := new(receiver)
	r.serve(t, address)
	eventually(t, func() bool { return source.acks() >= 3 })
	requests, _ := r.take()
	if got := metricsByName(requests[:1])["linux.process.executions"].GetSum().GetDataPoints(); len(got) != 1 || got[0].GetAsInt() != 99 {
		t.Errorf("got %v", got)
	}
	shutdown(t, p)

	failing, recovered := log.lines(t, "export failing"), log.lines(t, "export recovered")
	if len(failing) != 1 || len(recovered) != 1 || strings.Count(log.text(), "\n") != 2 {
		t.Fatalf("log: %s", log.text())
	}
	if failing[0]["endpoint"] != "http://"+address || failing[0]["error.type"] != "UNAVAILABLE" || !strings.Contains(failing[0]["error"].(string), "connection refused") {
		t.Errorf("failing: %v", failing)
	}
	if recovered[0]["failures"].(float64) < 3 || recovered[0]["after"].(float64) <= 0 {
		t.Errorf("recovered: %v", recovered)
	}
	if strings.Contains(log.text(), "hunter2") {
		t.Error("a header is in the log")
	}
}

// TestFirstExport has an interval of an hour, and no flush.
func TestFirstExport(t *testing.T) {
	r := new(receiver)
	begin := time.Now()
	source := newSource(t)
	p, err := Start(t.Context(), Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}, Interval: time.Hour}, source)
	if err != nil {
		t.Fatal(err)
	}
	defer shutdown(t, p)
	eventually(t, func() bool { return source.acks() == 1 })
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the first export took %v", took)
	}
}

// TestShutdownExports has a last value arrive.
func TestShutdownExports(t *testing.T) {
	r := new(receiver)
	source := newSource(t, metricOf(executions, probes.Point{Attributes: attrs(), Start: bootTime, Value: 5}))
	p, log := start(t, Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}}, source)
	shutdown(t, p)
	requests, _ := r.take()
	if metricsByName(requests)["linux.process.executions"] == nil || source.acks() != 1 {
		t.Errorf("acknowledged %d times", source.acks())
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Errorf("a second shutdown: %v", err)
	}
	if log.text() != "" {
		t.Error(log.text())
	}
}

// TestShutdownInTime has a receiver that takes connections and never answers.
func TestShutdownInTime(t *testing.T) {
	for _, o := range []OTLP{{Protocol: GRPC}, {Protocol: HTTP}} {
		t.Run(string(o.Protocol), func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			o.Endpoint = "http://" + l.Addr().String()
			source := newSource(t)
			p, _ := start(t, Options{OTLP: &o}, source)
			var flushing sync.WaitGroup
			flushing.Go(func() { _ = p.Flush(t.Context()) })
			defer flushing.Wait()
			eventually(t, func() bool { source.mu.Lock(); defer source.mu.Unlock(); return source.snapshots > 0 })
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			begin := time.Now()
			if err := p.Shutdown(ctx); err == nil {
				t.Error("no error though nothing arrived")
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
			goleakNow(t)
		})
	}
}

// TestShutdownWithoutReceiver does not wait for one that was not there before.
func TestShutdownWithoutReceiver(t *testing.T) {
	for _, protocol := range []Protocol{GRPC, HTTP} {
		p, _ := start(t, Options{OTLP: &OTLP{Endpoint: "http://127.0.0.1:1", Protocol: protocol, Timeout: 100 * time.Millisecond}}, newSource(t))
		p.delivery.timeout = time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_ = p.Flush(ctx)
		cancel()
		begin := time.Now()
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		err := p.Shutdown(ctx)
		cancel()
		if took := time.Since(begin); err == nil || took > 10*time.Second {
			t.Errorf("%s: took %v: %v", protocol, took, err)
		}
	}
}

// stuck is a writer that blocks until it is let go.
type stuck chan struct{}

func (s stuck) Write(p []byte) (int, error) { <-s; return len(p), nil }

func TestShutdownWithStuckConsole(t *testing.T) {
	w := make(stuck)
	p, _ := start(t, Options{Console: &Console{Writer: w}}, newSource(t))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Shutdown(ctx); !errors.Is(err, ErrNotEnded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(w)
}

// TestConsoleAcknowledges has no other exporter.
func TestConsoleAcknowledges(t *testing.T) {
	var b bytes.Buffer
	source := newSource(t, metricOf(executions, probes.Point{Attributes: attrs(), Start: bootTime, Value: 5}))
	p, _ := start(t, Options{Console: &Console{Writer: &b}}, source)
	flush(t, p)
	shutdown(t, p)
	if source.acks() != 2 || !strings.Contains(b.String(), "linux.process.executions") {
		t.Errorf("acknowledged %d times: %s", source.acks(), b.String())
	}
}

// TestConcurrentUse flushes from many goroutines while the interval runs and series come and go.
func TestConcurrentUse(t *testing.T) {
	r := new(receiver)
	source := newSource(t)
	n := 0
	source.make = func() (*probes.Snapshot, error) {
		n++
		return &probes.Snapshot{Time: time.Now(), Metrics: manySeries(2 * (1 + n%7))}, nil
	}
	log := new(logBuffer)
	p, err := Start(t.Context(), Options{
		OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}, Instruments: testInstruments,
		Interval: time.Millisecond, Logger: log.logger(),
	}, source)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				_ = p.Flush(t.Context())
			}
		})
	}
	all.Wait()
	shutdown(t, p)
	// Shutdown may have interrupted one cycle.
	if source.acks() < source.snapshots-1 || log.text() != "" {
		t.Errorf("%d snapshots, %d acknowledged, log: %s", source.snapshots, source.acks(), log.text())
	}
}

// TestStartWhileReading has an interval that passes many times before all instruments are made.
func TestStartWhileReading(t *testing.T) {
	r := new(receiver)
	o := Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}, Interval: 1, Logger: new(logBuffer).logger()}
	for i := range 200 {
		o.Instruments = append(o.Instruments, Instrument{testScope, &probes.Instrument{Name: fmt.Sprint("c", i), Kind: probes.Counter}})
	}
	p, err := Start(t.Context(), o, newSource(t))
	if err != nil {
		t.Fatal(err)
	}
	shutdown(t, p)
}

func TestStartErrors(t *testing.T) {
	for name, test := range map[string]struct {
		o    Options
		want string
	}{
		"nothing to export to": {Options{}, "no exporter"},
		"interval":             {Options{OTLP: &OTLP{Endpoint: "http://localhost:4317"}, Interval: -1}, "positive"},
		"compression":          {Options{OTLP: &OTLP{Endpoint: "http://localhost:4317", Compression: "zip"}}, "gzip or none"},
		"no such file":         {Options{OTLP: &OTLP{Endpoint: "https://localhost:4317", TLS: TLS{CAFile: "/nonexistent"}}}, "/nonexistent"},
		"half a key pair":      {Options{OTLP: &OTLP{Endpoint: "https://localhost:4317", TLS: TLS{CertFile: "x"}}}, "both"},
		"scale": {Options{OTLP: &OTLP{Endpoint: "http://localhost:4317"}, Instruments: []Instrument{
			{testScope, &probes.Instrument{Name: "a", Kind: probes.Histogram, Range: probes.Range{Scale: -1}}}}}, "scale -1"},
		"name": {Options{OTLP: &OTLP{Endpoint: "http://localhost:4317"}, Instruments: []Instrument{
			{testScope, &probes.Instrument{Name: "1", Kind: probes.Counter}}}}, "name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Start(t.Context(), test.o, newSource(t))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

func shutdown(t testing.TB, p *Pipeline) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func eventually(t testing.TB, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("did not happen in 20 s")
		}
	}
}
