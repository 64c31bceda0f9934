package telemetry

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// A request is encoded by us and sent by the SDK's exporter, which repeats it, waits as the receiver asks, and reads the
// answer. The exporter is given an empty request, and the encoded one takes its place on the way to the connection.

// encodedKey is the key of the encoded request, a mem.Buffer, in the context of an export.
type encodedKey struct{}

// exportEncoded has exporter send request.
func exportEncoded(ctx context.Context, exporter sdkmetric.Exporter, request mem.Buffer) error {
	return exporter.Export(context.WithValue(ctx, encodedKey{}, request), &metricdata.ResourceMetrics{Resource: resource.Empty()})
}

// encodedIn returns the request to send instead of the SDK's, if there is one.
func encodedIn(ctx context.Context) (request mem.Buffer, ok bool) {
	request, ok = ctx.Value(encodedKey{}).(mem.Buffer)
	return request, ok
}

// sendEncoded is the gRPC interceptor that sends the encoded request.
func sendEncoded(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if encoded, ok := encodedIn(ctx); ok {
		request = encoded
		options = append(options, grpc.ForceCodecV2(encodedCodec{encoding.GetCodecV2(proto.Name)}))
	}
	return invoke(ctx, method, request, reply, conn, options...)
}

// encodedCodec is the codec of a request that is encoded already, and of a response that is not.
type encodedCodec struct{ encoding.CodecV2 }

// Marshal implements the codec.
func (encodedCodec) Marshal(request any) (mem.BufferSlice, error) {
	b := request.(mem.Buffer)
	b.Ref() // gRPC frees it
	return mem.BufferSlice{b}, nil
}

// encodedBody is the encoded request as the body of an HTTP request. net/http may close it when it has returned the
// response, and while it reads.
type encodedBody struct {
	mu     sync.Mutex
	buffer mem.Buffer
	unread []byte
	closed bool
}

func newEncodedBody(b mem.Buffer) *encodedBody {
	b.Ref()
	return &encodedBody{buffer: b, unread: b.ReadOnlyData()}
}

// Read implements [io.Reader].
func (b *encodedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case len(b.unread) == 0:
		return 0, io.EOF
	}
	n := copy(p, b.unread)
	b.unread = b.unread[n:]
	return n, nil
}

// Close implements [io.Closer].
func (b *encodedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		b.buffer.Free()
	}
	return nil
}

// spare is a pool of one slice: the memory of a request, for the next one. It is put back by who is the last to read the
// request, which may be a connection, after the export has ended.
type spare struct{ slice atomic.Pointer[[]byte] }

var _ mem.BufferPool = (*spare)(nil)

// Get returns an empty slice of any capacity.
func (s *spare) Get(int) *[]byte {
	if b := s.slice.Swap(nil); b != nil {
		*b = (*b)[:0]
		return b
	}
	return new([]byte)
}

// Put takes b for the next Get.
func (s *spare) Put(b *[]byte) { s.slice.Store(b) }
