package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	service "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/protobuf/proto"

	"github.com/ebpf-sidecar/sidecar/probes"
)

func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "OTEL_") || strings.HasPrefix(name, "K8S_") {
			_ = os.Unsetenv(name) // what a test needs it sets
		}
	}
	goleak.VerifyTestMain(m)
}

var (
	testScope = probes.Scope{Name: "github.com/ebpf-sidecar/sidecar/probes/test", Version: "1.0.0"}

	executions = &probes.Instrument{Name: "linux.process.executions", Unit: "{execution}", Description: "Programs executed.", Kind: probes.Counter}
	exits      = &probes.Instrument{Name: "linux.process.exits", Unit: "{process}", Description: "Processes that ended.", Kind: probes.Counter}
	wait       = &probes.Instrument{
		Name: "linux.scheduler.run_queue.duration", Unit: "s", Description: "Time to wait for a CPU.",
		Kind: probes.Histogram, Range: probes.Range{Scale: 3, Min: -20, Max: 6},
	}
	testInstruments = []Instrument{{testScope, executions}, {testScope, exits}, {testScope, wait}}
	bootTime        = time.Unix(1_700_000_000, 123_456_789)
)

// fakeSource is a Source whose snapshots are made by the test.
type fakeSource struct {
	t    testing.TB
	make func() (*probes.Snapshot, error)

	busy         atomic.Bool
	mu           sync.Mutex
	latest       *probes.Snapshot
	snapshots    int
	acknowledged int
}

func newSource(t testing.TB, metrics ...probes.Metric) *fakeSource {
	return &fakeSource{t: t, make: func() (*probes.Snapshot, error) {
		return &probes.Snapshot{Time: bootTime.Add(time.Hour), Metrics: metrics}, nil
	}}
}

func (s *fakeSource) enter() func() {
	if !s.busy.CompareAndSwap(false, true) {
		s.t.Error("the source was called concurrently")
	}
	s.mu.Lock()
	return func() { s.mu.Unlock(); s.busy.Store(false) }
}

func (s *fakeSource) Snapshot() (*probes.Snapshot, error) {
	defer s.enter()()
	s.snapshots++
	snapshot, err := s.make()
	s.latest = snapshot
	return snapshot, err
}

func (s *fakeSource) Acknowledge(snapshot *probes.Snapshot) {
	defer s.enter()()
	if snapshot != s.latest {
		s.t.Error("another snapshot than the latest was acknowledged")
	}
	s.acknowledged++
}

func (s *fakeSource) acks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acknowledged
}

func metricOf(in *probes.Instrument, points ...probes.Point) probes.Metric {
	return probes.Metric{Probe: "test", Scope: testScope, Instrument: in, Points: points}
}

func attrs(pairs ...any) *probes.Attributes {
	a := new(probes.Attributes)
	for i := 0; i < len(pairs); i += 2 {
		a.List = append(a.List, probes.Attribute{Key: pairs[i].(string), Value: pairs[i+1]})
	}
	return a
}

// podAttributes are as long as a pod's.
func podAttributes(i int) *probes.Attributes {
	return attrs(
		"container.id", fmt.Sprintf("%064x", i),
		"k8s.pod.uid", fmt.Sprintf("%08x-aaaa-bbbb-cccc-%012x", i, i),
		"process.executable.name", fmt.Sprintf("program-%d", i),
		"systemd.unit", fmt.Sprintf("cri-containerd-%064x.scope", i),
	)
}

// manySeries returns n series, half of them counters, half histograms with all buckets in use.
func manySeries(n int) []probes.Metric {
	counters, histograms := make([]probes.Point, n/2), make([]probes.Point, n/2)
	for i := range n / 2 {
		counters[i] = probes.Point{Attributes: podAttributes(i), Start: bootTime.Add(time.Duration(i)), Value: uint64(i)}
		counts := make([]uint64, 160)
		for j := range counts {
			counts[j] = uint64(i * j)
		}
		histograms[i] = probes.Point{Attributes: podAttributes(i), Start: bootTime.Add(time.Duration(i)),
			Histogram: probes.HistogramData{Scale: 3, Offset: -160, Sum: float64(i), Counts: counts}}
	}
	return []probes.Metric{metricOf(executions, counters...), metricOf(wait, histograms...)}
}

// receiver is an OTLP receiver that keeps what it accepts.
type receiver struct {
	service.UnimplementedMetricsServiceServer
	// answer decides about a request, nil accepts.
	answer func(*service.ExportMetricsServiceRequest) (*service.ExportMetricsServiceResponse, error)

	mu       sync.Mutex
	accepted []*service.ExportMetricsServiceRequest
	requests int
}

func (r *receiver) Export(_ context.Context, q *service.ExportMetricsServiceRequest) (*service.ExportMetricsServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	if r.answer != nil {
		resp, err := r.answer(q)
		if err != nil {
			return nil, err
		}
		if resp != nil {
			return resp, nil
		}
	}
	r.accepted = append(r.accepted, q)
	return &service.ExportMetricsServiceResponse{}, nil
}

// take returns what was accepted since the last call, and how many requests were made for it.
func (r *receiver) take() ([]*service.ExportMetricsServiceRequest, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, n := r.accepted, r.requests
	r.accepted, r.requests = nil, 0
	return a, n
}

// serve listens at address and returns the URL.
func (r *receiver) serve(t testing.TB, address string, options ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	service.RegisterMetricsServiceServer(s, r)
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); done.Wait() })
	return "http://" + l.Addr().String()
}

// logBuffer is a log that the test can read.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// lines returns the records with that message.
func (l *logBuffer) lines(t testing.TB, message string) []map[string]any {
	t.Helper()
	var found []map[string]any
	for line := range strings.Lines(l.text()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if strings.HasPrefix(record["msg"].(string), message) {
			found = append(found, record)
		}
	}
	return found
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// start starts a pipeline that exports only when the test says so, and shuts it down at the end.
func start(t testing.TB, o Options, source Source) (*Pipeline, *logBuffer) {
	t.Helper()
	log := new(logBuffer)
	o.Interval, o.Logger = time.Hour, log.logger()
	if o.Instruments == nil {
		o.Instruments = testInstruments
	}
	p, err := Start(t.Context(), o, source)
	if err != nil {
		t.Fatal(err)
	}
	p.cancel() // the first export
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = p.Shutdown(ctx)
	})
	return p, log
}

func flush(t testing.TB, p *Pipeline) {
	t.Helper()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// metricsByName returns the metrics of requests, by their names, with all points of one metric together.
func metricsByName(requests []*service.ExportMetricsServiceRequest) map[string]*otlp.Metric {
	found := make(map[string]*otlp.Metric)
	for _, q := range requests {
		for _, rm := range q.ResourceMetrics {
			for _, sm := range rm.ScopeMetrics {
				for _, m := range sm.Metrics {
					if f := found[m.Name]; f != nil {
						proto.Merge(f, m) // appends the points
					} else {
						found[m.Name] = m
					}
				}
			}
		}
	}
	return found
}

func attributesOf(kvs []*common.KeyValue) map[string]any {
	found := make(map[string]any)
	for _, kv := range kvs {
		switch v := kv.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			found[kv.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			found[kv.Key] = v.IntValue
		case *common.AnyValue_BoolValue:
			found[kv.Key] = v.BoolValue
		default:
			found[kv.Key] = fmt.Sprint(v)
		}
	}
	return found
}

// numberOf returns the point with exactly these attributes.
func numberOf(t testing.TB, m *otlp.Metric, want map[string]any) *otlp.NumberDataPoint {
	t.Helper()
	points := m.GetSum().GetDataPoints()
	if points == nil {
		points = m.GetGauge().GetDataPoints()
	}
	for _, p := range points {
		if maps.Equal(attributesOf(p.Attributes), want) {
			return p
		}
	}
	t.Fatalf("%s has no point with %v: %v", m.GetName(), want, points)
	return nil
}

// scopeOf returns the scope of the metric.
func scopeOf(requests []*service.ExportMetricsServiceRequest, name string) *common.InstrumentationScope {
	for _, q := range requests {
		for _, rm := range q.ResourceMetrics {
			for _, sm := range rm.ScopeMetrics {
				for _, m := range sm.Metrics {
					if m.Name == name {
						return sm.Scope
					}
				}
			}
		}
	}
	return nil
}

// goleakNow fails if the pipelines of this test, all shut down, have left a goroutine. The test's servers are still up.
func goleakNow(t *testing.T) {
	t.Helper()
	goleak.VerifyNone(t,
		goleak.IgnoreAnyFunction("google.golang.org/grpc.(*Server).Serve"),
		goleak.IgnoreAnyFunction("google.golang.org/grpc/internal/transport.(*http2Server).HandleStreams"),
		goleak.IgnoreAnyFunction("google.golang.org/grpc/internal/transport.(*http2Server).keepalive"),
		goleak.IgnoreAnyFunction("net/http.(*Server).Serve"),
		goleak.IgnoreAnyFunction("net/http.(*conn).serve"),
		goleak.IgnoreAnyFunction("testing.(*T).Run"),
		goleak.IgnoreAnyFunction("testing.tRunner"),
	)
}
