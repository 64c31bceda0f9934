package receiver

import (
	"net"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestToken(t *testing.T) {
	taken := 0
	r, err := Listen(func(*collector.ExportMetricsServiceRequest) { taken++ })
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	connection, err := grpc.NewClient(r.URL[len("http://"):], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	send := func(headers map[string]string) codes.Code {
		_, err := collector.NewMetricsServiceClient(connection).Export(
			metadata.NewOutgoingContext(t.Context(), metadata.New(headers)), &collector.ExportMetricsServiceRequest{})
		return status.Code(err)
	}
	for name, headers := range map[string]map[string]string{"none": nil, "another": {tokenHeader: "x"}} {
		if code := send(headers); code != codes.Unauthenticated || taken != 0 {
			t.Errorf("with the token %s: %v, %d taken", name, code, taken)
		}
	}
	if code := send(r.Headers); code != codes.OK || taken != 1 {
		t.Errorf("with the token: %v, %d taken", code, taken)
	}
}

// TestClose has connections that say nothing, or do not end their request: closing waits for none of them.
func TestClose(t *testing.T) {
	r, err := Listen(func(*collector.ExportMetricsServiceRequest) {})
	if err != nil {
		t.Fatal(err)
	}
	address := r.URL[len("http://"):]
	silent, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	_, err = connection.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, "/"+collector.MetricsService_ServiceDesc.ServiceName+"/Export", grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() { r.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("it waits for connections of others")
	}
}
