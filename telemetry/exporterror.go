package telemetry

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tooLarge tells whether a request was refused for its size, so that half of it may be accepted.
func tooLarge(err error) bool {
	var h *httpError
	if errors.As(err, &h) {
		return h.status == http.StatusRequestEntityTooLarge
	}
	s, ok := status.FromError(err)
	if !ok || err == nil {
		return false
	}
	switch s.Code() {
	case codes.ResourceExhausted, // gRPC in Go, Java, C++
		codes.OutOfRange, // in Rust
		codes.Unknown:    // a proxy that answers gRPC with HTTP 413
	default:
		return false
	}
	message := strings.ToLower(s.Message())
	for _, words := range []string{"larger than max", "too large", "exceeds max", "exceeds the max"} {
		if strings.Contains(message, words) {
			return true
		}
	}
	return false
}

// answered tells whether err is the receiver's final word on these points: others may fare better. Otherwise the
// receiver was not reached or wants to be left in peace.
func answered(err error) bool {
	if _, ok := rejectedPoints(err); ok || tooLarge(err) {
		return true
	}
	var h *httpError
	if errors.As(err, &h) {
		return !repeatable(h.status)
	}
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch s.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Unavailable:
		return false
	}
	return true
}

// rejectedPoints returns how many points of a request were rejected in an OTLP partial success. It may be none: the
// receiver has accepted all of them then, and has something to say.
//
// The SDK returns it as an error whose type is internal (otlpmetricgrpc/internal.PartialSuccess), hence the reflection.
func rejectedPoints(err error) (n int, ok bool) {
	var partial interface {
		error
		As(any) bool
		Is(error) bool
	}
	if !errors.As(err, &partial) {
		return 0, false
	}
	v := reflect.ValueOf(partial)
	if v.Kind() != reflect.Struct {
		return 0, false
	}
	f := v.FieldByName("RejectedItems")
	if !f.CanInt() {
		return 0, false
	}
	return int(f.Int()), true
}

// errorType returns the value of error.type for err, empty for nil: a gRPC or HTTP status where there is one.
func errorType(err error) string {
	if err == nil {
		return ""
	}
	var h *httpError
	if errors.As(err, &h) {
		return strconv.Itoa(h.status)
	}
	if _, ok := rejectedPoints(err); ok {
		return "partial_success"
	}
	if s, ok := status.FromError(err); ok {
		return code.Code(s.Code()).String()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.As(err, new(*net.DNSError)):
		return "dns"
	case errors.As(err, new(*net.OpError)):
		return "connection"
	}
	return "_OTHER" // the semantic conventions' word
}
