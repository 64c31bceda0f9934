package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/telemetry"
)

// stuck is a writer that blocks until it is let go.
type stuck chan struct{}

func (s stuck) Write(p []byte) (int, error) { <-s; return len(p), nil }

// closer is a source that cannot be closed well.
type closer struct {
	nothing
	closed bool
}

var errClose = errors.New("detach")

func (c *closer) Close() error { c.closed = true; return errClose }

// TestStop checks that the source is closed, unless the export still uses it, and that no error gets lost.
func TestStop(t *testing.T) {
	blocked := make(stuck)
	defer close(blocked)
	for name, test := range map[string]struct {
		console io.Writer
		closes  bool
		err     error
		says    string
	}{
		"in time": {io.Discard, true, errClose, ""},
		"blocked": {blocked, false, telemetry.ErrNotEnded, telemetry.ErrNotEnded.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			logger := slog.New(slog.NewTextHandler(&log, nil))
			measured := new(closer)
			pipeline, err := telemetry.Start(t.Context(), telemetry.Options{
				Interval: time.Hour, Console: &telemetry.Console{Writer: test.console}, Logger: slog.New(slog.DiscardHandler),
			}, measured)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if err := stop(ctx, pipeline, measured, logger); !errors.Is(err, test.err) || measured.closed != test.closes {
				t.Errorf("closed: %t, error: %v", measured.closed, err)
			}
			if !strings.Contains(log.String(), test.says) {
				t.Errorf("the log does not say %q:\n%s", test.says, &log)
			}
		})
	}
}

// TestLogEndpoint checks that the log has the endpoint if something is sent there.
func TestLogEndpoint(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
	options := runOptions{instance: "sidecar-test", safe: true}
	defer os.RemoveAll(filepath.Dir(options.instance.Socket()))
	for _, exporter := range []string{config.OTLP, config.Console} {
		t.Setenv("OTEL_METRICS_EXPORTER", exporter)
		c, err := loadConfig("")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var log bytes.Buffer
		if err := Run(ctx, c, options, io.Discard, &log); err != nil {
			t.Error(err)
		}
		if strings.Contains(log.String(), "endpoint=") != (exporter == config.OTLP) {
			t.Errorf("%s: %s", exporter, &log)
		}
	}
}
