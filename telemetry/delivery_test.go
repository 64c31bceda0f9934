package telemetry

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	service "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// seriesCount is how many series a receiver with default settings must get, each point once. The race detector makes it
// ten times slower.
func seriesCount() int {
	if raceEnabled || testing.Short() {
		return 10_000
	}
	return 100_000
}

func TestManySeries(t *testing.T) {
	n := seriesCount()
	r := new(receiver)
	url := r.serve(t, "127.0.0.1:0") // refuses what is larger than 4 MiB
	source := newSource(t, manySeries(n)...)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "long="+strings.Repeat("x", 20_000))
	p, log := start(t, Options{OTLP: &OTLP{Endpoint: url, Timeout: time.Minute}, ExportTimeout: time.Minute}, source)
	flush(t, p)
	requests, sent := r.take()
	checkManySeries(t, requests, n)
	for _, q := range requests {
		if size := proto.Size(q); size > maxRequest {
			t.Errorf("%d bytes", size)
		}
	}
	if sent != len(requests) || source.acks() != 1 || log.text() != "" {
		t.Errorf("%d requests, %d accepted, %d acknowledged, log: %s", sent, len(requests), source.acks(), log.text())
	}
	t.Logf("%d requests", sent)
}

// checkManySeries checks that every point of manySeries(n) has arrived, once, with its value and start.
func checkManySeries(t *testing.T, requests []*service.ExportMetricsServiceRequest, n int) {
	t.Helper()
	counters, histograms := make([]int, n/2), make([]int, n/2)
	for _, q := range requests {
		for _, sm := range q.ResourceMetrics[0].ScopeMetrics {
			for _, m := range sm.Metrics {
				if m.Name == executions.Name {
					for _, p := range m.GetSum().DataPoints {
						i := int(p.GetAsInt())
						counters[i]++
						if p.StartTimeUnixNano != uint64(bootTime.UnixNano()+int64(i)) || attributesOf(p.Attributes)["container.id"] != fmt.Sprintf("%064x", i) {
							t.Fatalf("counter: %v", p)
						}
					}
				}
				if m.Name == wait.Name {
					for _, p := range m.GetExponentialHistogram().DataPoints {
						i := int(p.GetSum())
						histograms[i]++
						if p.StartTimeUnixNano != uint64(bootTime.UnixNano()+int64(i)) || attributesOf(p.Attributes)["container.id"] != fmt.Sprintf("%064x", i) ||
							p.Count != uint64(i*159*160/2) || p.Positive.BucketCounts[100] != uint64(100*i) {
							t.Fatalf("histogram: %v", p)
						}
					}
				}
			}
		}
	}
	for i := range n / 2 {
		if counters[i] != 1 || histograms[i] != 1 {
			t.Fatalf("series %d arrived %d and %d times", i, counters[i], histograms[i])
		}
	}
}

// TestSmallReceiver has receivers that take less than 4 MiB: batches are split, and the next cycle has learned it.
func TestSmallReceiver(t *testing.T) {
	const n, limit = 1000, 100_000
	tooBig := func(err error) func(*service.ExportMetricsServiceRequest) (*service.ExportMetricsServiceResponse, error) {
		return func(q *service.ExportMetricsServiceRequest) (*service.ExportMetricsServiceResponse, error) {
			if proto.Size(q) > limit {
				return nil, err
			}
			return nil, nil
		}
	}
	for name, serve := range map[string]func(*receiver) OTLP{
		"grpc": func(r *receiver) OTLP {
			return OTLP{Endpoint: r.serve(t, "127.0.0.1:0", grpc.MaxRecvMsgSize(limit))}
		},
		"grpc gzip": func(r *receiver) OTLP { // too large only after decompression
			return OTLP{Endpoint: r.serve(t, "127.0.0.1:0", grpc.MaxRecvMsgSize(limit)), Compression: "gzip"}
		},
		"grpc proxy": func(r *receiver) OTLP {
			r.answer = tooBig(status.Error(codes.Unknown, "unexpected HTTP status code received from server: 413 (Request Entity Too Large)"))
			return OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}
		},
		"http": func(r *receiver) OTLP {
			r.answer = tooBig(&httpError{http.StatusRequestEntityTooLarge, strings.Repeat("<html> ", 1000)})
			return OTLP{Endpoint: r.serveHTTP(t, nil) + "/v1/metrics", Protocol: HTTP}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := new(receiver)
			o := serve(r)
			source := newSource(t, manySeries(n)...)
			p, log := start(t, Options{OTLP: &o}, source)
			flush(t, p)
			first, _ := r.take()
			checkManySeries(t, first, n)
			flush(t, p)
			second, sent := r.take()
			checkManySeries(t, second, n)
			if source.acks() != 2 || sent != len(second) || log.text() != "" {
				t.Errorf("%d acknowledged; second cycle: %d requests, %d accepted; log: %s", source.acks(), sent, len(second), log.text())
			}
		})
	}
}

// TestPointTooLarge has one point that the receiver can never take. The others arrive.
func TestPointTooLarge(t *testing.T) {
	const n = 100
	r := new(receiver)
	source := newSource(t, append(manySeries(n), metricOf(exits, probes.Point{Attributes: attrs("x", strings.Repeat("x", 200_000)), Start: bootTime, Value: 7}))...)
	p, log := start(t, Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0", grpc.MaxRecvMsgSize(150_000))}}, source)
	for range 2 {
		if err := p.Flush(t.Context()); err == nil {
			t.Error("no error")
		}
		requests, _ := r.take()
		checkManySeries(t, requests, n)
	}
	if lines := log.lines(t, "a point is too large"); len(lines) != 1 || lines[0]["metric"] != exits.Name || source.acks() != 0 {
		t.Errorf("%d acknowledged, log: %s", source.acks(), log.text())
	}
}

// TestAcknowledgesOnlyAll has one of several batches refused.
func TestAcknowledgesOnlyAll(t *testing.T) {
	const n = 200
	// Long attributes make several batches of few points.
	metrics := manySeries(n)
	for _, m := range metrics {
		for _, p := range m.Points {
			p.Attributes.List = append(p.Attributes.List, probes.Attribute{Key: "long", Value: strings.Repeat("x", 60_000)})
		}
	}
	for name, test := range map[string]struct {
		err     error
		goesOn  bool   // whether the other batches are sent
		refused string // the error.type, or several
	}{
		"refused":     {status.Error(codes.InvalidArgument, "no"), true, "INVALID_ARGUMENT"},
		"overloaded":  {status.Error(codes.ResourceExhausted, "quota exceeded"), false, "RESOURCE_EXHAUSTED"},
		"unavailable": {status.Error(codes.Unavailable, "later"), false, "UNAVAILABLE DEADLINE_EXCEEDED"}, // the last repetition may be under way at the timeout
	} {
		t.Run(name, func(t *testing.T) {
			r := new(receiver)
			count, broken := 0, true
			r.answer = func(*service.ExportMetricsServiceRequest) (*service.ExportMetricsServiceResponse, error) {
				if count++; count >= 2 && broken && (!test.goesOn || count == 2) {
					return nil, test.err
				}
				return nil, nil
			}
			source := newSource(t, metrics...)
			p, log := start(t, Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0"), Timeout: 5 * time.Second}}, source)
			if err := p.Flush(t.Context()); err == nil {
				t.Error("no error")
			}
			requests, _ := r.take()
			if source.acks() != 0 || (len(requests) > 1) != test.goesOn {
				t.Errorf("%d acknowledged, %d requests", source.acks(), len(requests))
			}
			r.mu.Lock()
			broken = false
			r.mu.Unlock()
			flush(t, p)
			requests, _ = r.take()
			if test.goesOn { // else a repeated request may arrive late, and its points a second time
				checkManySeries(t, requests, n)
			}
			if source.acks() != 1 {
				t.Errorf("%d acknowledged", source.acks())
			}
			m := metricsByName(requests)
			refused := false
			for _, p := range m["otel.sdk.exporter.metric_data_point.exported"].GetSum().GetDataPoints() {
				refused = refused || strings.Contains(test.refused, fmt.Sprint(attributesOf(p.Attributes)["error.type"])) && p.GetAsInt() > 0
			}
			aged := false
			for _, p := range m["sidecar.export.unacknowledged.age"].GetGauge().GetDataPoints() {
				aged = aged || p.GetAsDouble() > 0
			}
			if !refused || !aged {
				t.Errorf("the self-metrics tell nothing: %v, %v", m["otel.sdk.exporter.metric_data_point.exported"], m["sidecar.export.unacknowledged.age"])
			}
			if len(log.lines(t, "export failing")) != 1 || len(log.lines(t, "export recovered")) != 1 {
				t.Error(log.text())
			}
		})
	}
}

func TestPartialSuccess(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			r := new(receiver)
			partial := &service.ExportMetricsPartialSuccess{RejectedDataPoints: 3, ErrorMessage: "too old"}
			r.answer = func(*service.ExportMetricsServiceRequest) (*service.ExportMetricsServiceResponse, error) {
				return &service.ExportMetricsServiceResponse{PartialSuccess: partial}, nil
			}
			o := transport.serve(t, r)
			source := newSource(t)
			p, log := start(t, Options{OTLP: &o}, source)
			if err := p.Flush(t.Context()); err == nil || source.acks() != 0 {
				t.Errorf("%d acknowledged, error: %v", source.acks(), err)
			}
			if lines := log.lines(t, "export failing"); len(lines) != 1 || lines[0]["error.type"] != "partial_success" || !strings.Contains(lines[0]["error"].(string), "too old") {
				t.Error(log.text())
			}
			r.mu.Lock()
			partial = &service.ExportMetricsPartialSuccess{ErrorMessage: "this version ends soon"}
			r.mu.Unlock()
			flush(t, p)
			if lines := log.lines(t, "the receiver accepted"); source.acks() != 1 || len(lines) != 1 || !strings.Contains(lines[0]["error"].(string), "ends soon") {
				t.Errorf("%d acknowledged, log: %s", source.acks(), log.text())
			}
		})
	}
}

func TestTooLarge(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("too large"), false},
		{status.Error(codes.ResourceExhausted, "grpc: received message larger than max (5000000 vs. 4194304)"), true},
		{status.Error(codes.ResourceExhausted, "grpc: received message after decompression larger than max 4194304"), true},
		{status.Error(codes.ResourceExhausted, "gRPC message exceeds maximum size 4194304: 5000000"), true},                                 // Java
		{status.Error(codes.OutOfRange, "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes"), true}, // Rust
		{status.Error(codes.ResourceExhausted, "Received message exceeds the maximum configured message size."), true},                      // .NET
		{fmt.Errorf("failed to upload metrics: %w", errors.Join(nil, status.Error(codes.ResourceExhausted, "trying to send message larger than max"))), true},
		{status.Error(codes.ResourceExhausted, "quota exceeded"), false},
		{status.Error(codes.InvalidArgument, "label too large"), false},
		{&httpError{413, ""}, true},
		{fmt.Errorf("post: %w", &httpError{413, ""}), true},
		{&httpError{400, "too large"}, false},
	} {
		if got := tooLarge(test.err); got != test.want {
			t.Errorf("%v: got %v", test.err, got)
		}
	}
}

// TestRepeatableStatus has a receiver that is overloaded: the SDK repeats the request, and says nothing of the status.
func TestRepeatableStatus(t *testing.T) {
	r := new(receiver)
	r.answer = func(*service.ExportMetricsServiceRequest) (*service.ExportMetricsServiceResponse, error) {
		return nil, &httpError{http.StatusServiceUnavailable, "memory limit"}
	}
	p, log := start(t, Options{OTLP: &OTLP{Endpoint: r.serveHTTP(t, nil) + "/v1/metrics", Protocol: HTTP, Timeout: 5 * time.Second}}, newSource(t))
	if err := p.Flush(t.Context()); err == nil {
		t.Error("no error")
	}
	if _, n := r.take(); n < 2 {
		t.Errorf("%d requests", n)
	}
	if lines := log.lines(t, "export failing"); len(lines) != 1 || lines[0]["error.type"] != "503" || !strings.Contains(lines[0]["error"].(string), "HTTP 503 Service Unavailable") {
		t.Error(log.text())
	}
}
