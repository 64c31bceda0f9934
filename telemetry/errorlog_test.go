package telemetry

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
)

func TestErrorLog(t *testing.T) {
	log := new(logBuffer)
	l := newErrorLog(log.logger())
	now := time.Unix(1000, 0)
	l.now = func() time.Time { return now }
	topic := topic{failing: "x failing", recovered: "x recovered", level: slog.LevelError, quiet: time.Minute}
	count := func(failing, recovered int) {
		t.Helper()
		if f, r := len(log.lines(t, "x failing")), len(log.lines(t, "x recovered")); f != failing || r != recovered {
			t.Fatalf("%d failing, %d recovered, want %d, %d: %s", f, r, failing, recovered, log.text())
		}
	}
	l.worked(topic, "")
	count(0, 0)
	for range 3 {
		l.failed(topic, "", errors.New("a\nb"), "endpoint", "e")
		now = now.Add(10 * time.Second)
	}
	count(1, 0)
	if line := log.lines(t, "x failing")[0]; line["error"] != "a b" || line["endpoint"] != "e" || line["level"] != "ERROR" {
		t.Error(line)
	}
	l.worked(topic, "", "endpoint", "e")
	l.worked(topic, "")
	count(1, 1)
	if line := log.lines(t, "x recovered")[0]; line["after"] != float64(30*time.Second) || line["failures"] != 3.0 {
		t.Error(line)
	}
	// It flaps: nothing within a minute of the last line.
	for range 3 {
		l.failed(topic, "", errors.New("c"))
		l.worked(topic, "")
	}
	count(1, 1)
	// It fails for longer than that.
	l.failed(topic, "", errors.New("d"))
	now = now.Add(time.Minute)
	l.failed(topic, "", errors.New("e"))
	l.failed(topic, "other", errors.New("f"))
	count(3, 1)
	l.worked(topic, "")
	count(3, 2)
}

// TestSDKErrors hands over what the SDK reports by itself.
func TestSDKErrors(t *testing.T) {
	log := new(logBuffer)
	l := newErrorLog(log.logger())
	now := time.Unix(1000, 0)
	l.now = func() time.Time { return now }
	otel.SetErrorHandler(l)
	logger := logr.New(sdkSink{l})

	otel.Handle(nil)
	otel.Handle(fmt.Errorf("reader: %w", reported{errors.New("export failed")}))
	logger.V(4).Info("information")
	logger.V(8).Info("debugging")
	if log.text() != "" {
		t.Error(log.text())
	}
	logger.WithName("n").WithValues("input", "hunter2").V(1).Info("a warning", "input", "hunter2")
	now = now.Add(time.Minute)
	logger.Error(errors.New("missing ="), "parse headers", "input", "hunter2")
	otel.Handle(errors.New("too soon"))
	now = now.Add(time.Minute)
	otel.Handle(errors.New("other"))
	var got []string
	for _, line := range log.lines(t, "OpenTelemetry SDK") {
		got = append(got, line["error"].(string))
	}
	if strings.Join(got, "; ") != "a warning; parse headers missing =; other" || strings.Contains(log.text(), "hunter2") {
		t.Error(log.text())
	}
}

func TestOneLine(t *testing.T) {
	got := oneLine(errors.New(strings.Repeat("é\n\x1b", 1000) + "\xff"))
	if len(got) > 510 || strings.Contains(got, "\n") || !strings.HasSuffix(got, "…") {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}
