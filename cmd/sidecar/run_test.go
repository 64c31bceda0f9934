package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/admin"
	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/service"
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

// TestReload checks that a reload takes what is valid and nothing else, by the socket and by SIGHUP, and that status tells.
func TestReload(t *testing.T) {
	t.Setenv("OTEL_METRICS_EXPORTER", config.Console)
	path := filepath.Join(t.TempDir(), "sidecar.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("log: {level: error}\n")
	c, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	options := runOptions{config: path, instance: service.Instance(fmt.Sprintf("sidecar-test-%d", os.Getpid())), safe: true}
	defer os.RemoveAll(filepath.Dir(options.instance.Socket()))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var log lockedBuffer
	go func() { ended <- Run(ctx, c, options, io.Discard, &log) }()
	client := admin.NewClient(options.instance.Socket())
	status := func() (s admin.Status) { s, _ = client.Status(t.Context()); return s }
	eventually(t, "it runs", func() bool { return status().State == admin.Running })
	if s := status(); s.PID != os.Getpid() || s.Configuration != path || s.Export == nil {
		t.Errorf("status: %+v", s)
	}

	write("log: {level: info}\n")
	if err := client.Reload(t.Context()); err != nil {
		t.Errorf("reload: %v", err)
	}
	if s := status(); s.State != admin.Running || !strings.Contains(log.String(), "msg=running") {
		t.Errorf("the level of the log is the old one: %+v\n%s", s, &log)
	}
	write("log: {levell: debug}\n")
	if err := client.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "did you mean level?") {
		t.Errorf("reload of what is wrong: %v", err)
	}
	if s := status(); s.State != admin.Running || s.ReloadError == "" {
		t.Errorf("after a reload that failed: %+v", s)
	}
	write("log: {level: info}\n")
	if err := unix.Kill(os.Getpid(), unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "SIGHUP reloads", func() bool { return status().ReloadError == "" && strings.Count(log.String(), "msg=running") == 2 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := client.Reload(t.Context()); !errors.Is(err, admin.ErrNotRunning) {
		t.Errorf("when it has ended: %v", err)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// lockedBuffer is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
