package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
)

// topic is something that can fail for hours. It is logged when it begins to fail and when it works again, not in
// between, and at most once in quiet.
type topic struct {
	failing, recovered string // the messages; recovered is empty for what only happens
	level              slog.Level
	quiet              time.Duration
}

// topicState is what the log knows of one topic. Several things can fail in the same way, hence the key.
type topicState struct {
	since    time.Time // of the failure now going on; zero while all is well
	failures int
	told     bool
	last     time.Time // when it was last told
}

type topicKey struct{ topic, instance string }

// errorLog writes one line a change of state. It is the SDK's error handler and logger too, so that nothing reaches
// stderr by another way.
type errorLog struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	states map[topicKey]*topicState
}

func newErrorLog(log *slog.Logger) *errorLog {
	return &errorLog{log: log, now: time.Now, states: make(map[topicKey]*topicState)}
}

// sdkTopic holds what the SDK reports by itself.
var sdkTopic = topic{failing: "OpenTelemetry SDK", level: slog.LevelWarn, quiet: time.Minute}

// failed tells that the topic's instance does not work, and why.
func (l *errorLog) failed(t topic, instance string, err error, attrs ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.state(t, instance)
	now := l.now()
	if s.since.IsZero() {
		*s = topicState{since: now, last: s.last}
	}
	s.failures++
	attrs = append(attrs, "error", oneLine(err))
	if s.told || !s.last.IsZero() && now.Sub(s.last) < t.quiet {
		l.log.Debug(t.failing, attrs...)
		return
	}
	l.log.Log(context.Background(), t.level, t.failing, attrs...)
	s.told, s.last = true, now
}

// worked tells that the topic's instance works.
func (l *errorLog) worked(t topic, instance string, attrs ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.state(t, instance)
	if s.since.IsZero() {
		return
	}
	if s.told && t.recovered != "" {
		l.log.Info(t.recovered, append(attrs, "after", l.now().Sub(s.since).Round(time.Millisecond), "failures", s.failures)...)
	}
	*s = topicState{last: s.last}
}

// happened tells of something that has no end. Within quiet of the last line nothing is written.
func (l *errorLog) happened(t topic, instance string, err error, attrs ...any) {
	l.failed(t, instance, err, attrs...)
	l.worked(t, instance)
}

func (l *errorLog) state(t topic, instance string) *topicState {
	key := topicKey{t.failing, instance}
	s := l.states[key]
	if s == nil {
		s = new(topicState)
		l.states[key] = s
	}
	return s
}

// reported is an error that was logged where it happened. The reader hands it to the error handler once more.
type reported struct{ error }

func (r reported) Unwrap() error { return r.error }

var _ otel.ErrorHandler = (*errorLog)(nil)

// Handle logs an error of the SDK.
func (l *errorLog) Handle(err error) {
	if err == nil || errors.As(err, new(reported)) {
		return
	}
	l.happened(sdkTopic, "", err)
}

// sdkSink is the SDK's logger. It keeps errors and warnings, and of those only the message and the error: the values
// beside them are whole batches and configuration, headers included.
type sdkSink struct{ *errorLog }

var _ logr.LogSink = sdkSink{}

func (sdkSink) Init(logr.RuntimeInfo) {}

// Enabled lets warnings through, which the SDK logs at level 1; 4 and 8 are information and debugging.
func (sdkSink) Enabled(level int) bool             { return level <= 1 }
func (s sdkSink) Info(_ int, msg string, _ ...any) { s.Handle(errors.New(msg)) }
func (s sdkSink) WithValues(...any) logr.LogSink   { return s }
func (s sdkSink) WithName(string) logr.LogSink     { return s }
func (s sdkSink) Error(err error, msg string, _ ...any) {
	s.Handle(errors.Join(errors.New(msg), err))
}

// oneLine returns the text of err, without line breaks and not much longer than a line: receivers answer with pages.
func oneLine(err error) string {
	const limit = 500
	s := strings.Join(strings.Fields(strings.ToValidUTF8(err.Error(), "\uFFFD")), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
