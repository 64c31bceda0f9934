package telemetry

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
)

// TestRequestInUse checks that the memory of a request is for the next one only when nobody reads it any more: the
// delivery, gRPC, and each body of an HTTP request.
func TestRequestInUse(t *testing.T) {
	var pool spare
	memory := pool.Get(0)
	*memory = append(*memory, strings.Repeat("x", 5000)...)
	request := mem.NewBuffer(memory, &pool)
	message, err := encodedCodec{}.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	first, second := newEncodedBody(request), newEncodedBody(request)
	if b, err := io.ReadAll(first); len(b) != 5000 || err != nil {
		t.Errorf("read %d bytes: %v", len(b), err)
	}
	for _, done := range []func(){
		request.Free,
		func() { _ = first.Close() },
		func() { _ = first.Close() }, // net/http may
		message.Free,
		func() { _ = second.Close() },
	} {
		if pool.slice.Load() != nil {
			t.Fatal("the memory is free too early")
		}
		done()
	}
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("read a closed body: %v", err)
	}
	if next := pool.Get(0); next != memory || len(*next) != 0 || cap(*next) < 5000 {
		t.Error("the memory is not used again")
	}
}
