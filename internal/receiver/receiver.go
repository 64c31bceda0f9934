// Package receiver is an OTLP receiver inside a process, for what the same process exports.
package receiver

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"net"
	"sync"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Receiver listens for OTLP/gRPC on the loopback interface, where other users' programs could send to it too: it takes
// requests with its Headers alone.
type Receiver struct {
	URL     string
	Headers map[string]string

	server  *grpc.Server
	serving sync.WaitGroup
}

// connectionTimeout is how long a connection may take to begin. Close waits for it, and 120 s without it.
const connectionTimeout = time.Second

// tokenHeader is where a request shows that it comes from who started the receiver.
const tokenHeader = "sidecar-token"

// Listen starts a receiver. take gets every request, and is not called concurrently.
func Listen(take func(*collector.ExportMetricsServiceRequest)) (*Receiver, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	token := rand.Text()
	r := &Receiver{
		URL:     "http://" + listener.Addr().String(),
		Headers: map[string]string{tokenHeader: token},
		server:  grpc.NewServer(grpc.ConnectionTimeout(connectionTimeout), grpc.WaitForHandlers(true)),
	}
	collector.RegisterMetricsServiceServer(r.server, &service{token: token, take: take})
	r.serving.Go(func() { _ = r.server.Serve(listener) }) // until Close
	return r, nil
}

// Close ends it, and waits for the request that is being taken. It does not wait for what other users' programs have
// begun to send, which may never end.
func (r *Receiver) Close() {
	r.server.Stop()
	r.serving.Wait()
}

type service struct {
	collector.UnimplementedMetricsServiceServer
	token string

	mu   sync.Mutex
	take func(*collector.ExportMetricsServiceRequest)
}

// Export implements the official service.
func (s *service) Export(ctx context.Context, request *collector.ExportMetricsServiceRequest) (*collector.ExportMetricsServiceResponse, error) {
	tokens := metadata.ValueFromIncomingContext(ctx, tokenHeader)
	if len(tokens) != 1 || subtle.ConstantTimeCompare([]byte(tokens[0]), []byte(s.token)) != 1 {
		return nil, status.Error(codes.Unauthenticated, "this receiver is for the process that started it")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take(request)
	return &collector.ExportMetricsServiceResponse{}, nil
}
