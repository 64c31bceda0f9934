package main

import (
	"context"
	"io"
	"net"
	"os"

	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// request is an OTLP request that a receiver has taken. The times are those of monotonic.
type request struct {
	Begin, End int64 // its header came; it was decoded and counted
	Points     int
	Bytes      int
}

// receiver takes OTLP requests over gRPC, decodes them and counts their points.
type receiver struct {
	collector.UnimplementedMetricsServiceServer
	server *grpc.Server
	got    func(request)
}

// newReceiver listens on the loopback interface and returns the URL. got may be called concurrently.
func newReceiver(got func(request)) (*receiver, string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	r := &receiver{server: grpc.NewServer(grpc.StatsHandler(requestTimes{})), got: got}
	collector.RegisterMetricsServiceServer(r.server, r)
	go func() { _ = r.server.Serve(listener) }() // until Stop
	return r, "http://" + listener.Addr().String(), nil
}

// Export implements the official service.
func (r *receiver) Export(ctx context.Context, q *collector.ExportMetricsServiceRequest) (*collector.ExportMetricsServiceResponse, error) {
	current := ctx.Value(requestKey{}).(*request)
	for _, rm := range q.ResourceMetrics {
		for _, sm := range rm.ScopeMetrics {
			for _, m := range sm.Metrics {
				current.Points += points(m)
			}
		}
	}
	current.End = monotonic()
	r.got(*current)
	return &collector.ExportMetricsServiceResponse{}, nil
}

func points(m *otlp.Metric) int {
	return len(m.GetSum().GetDataPoints()) + len(m.GetGauge().GetDataPoints()) +
		len(m.GetHistogram().GetDataPoints()) + len(m.GetExponentialHistogram().GetDataPoints())
}

type requestKey struct{}

// requestTimes notes what only the transport sees of a request.
type requestTimes struct{}

var _ stats.Handler = requestTimes{}

func (requestTimes) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, requestKey{}, &request{Begin: monotonic()})
}

func (requestTimes) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if payload, ok := s.(*stats.InPayload); ok {
		ctx.Value(requestKey{}).(*request).Bytes = payload.Length
	}
}

func (requestTimes) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (requestTimes) HandleConn(context.Context, stats.ConnStats) {}

// receive is a part: a receiver. It answers with its URL, then with every request.
func receive([]string) error {
	requests := make(chan request, 1000)
	r, url, err := newReceiver(func(q request) { requests <- q })
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		r.server.Stop()
		close(requests)
	}()
	if err := answer(url); err != nil {
		return err
	}
	for q := range requests {
		if err := answer(q); err != nil {
			return err
		}
	}
	return nil
}
