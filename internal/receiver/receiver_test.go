package receiver

import (
	"testing"

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
