package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/ebpf-sidecar/sidecar/config"
)

// newLogger makes the logger that a configuration asks for. The journal has the time of a line itself, and is told its level.
func newLogger(c config.Log, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	inJournal := false
	if w == io.Writer(os.Stderr) {
		inJournal, _ = journal.StderrIsJournalStream() // if it cannot be told, it is another file
	}
	out := &leveled{w: w}
	if inJournal {
		options.ReplaceAttr = withoutTime
		w = out
	}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if c.Format == config.JSON {
		handler = slog.NewJSONHandler(w, options)
	}
	if inJournal {
		handler = journalHandler{handler, out}
	}
	return slog.New(handler)
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// journalHandler puts a line's level before it, as sd-daemon(3) says.
type journalHandler struct {
	slog.Handler
	out *leveled
}

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.level = r.Level
	return h.Handler.Handle(ctx, r)
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return journalHandler{h.Handler.WithAttrs(attrs), h.out}
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	return journalHandler{h.Handler.WithGroup(name), h.out}
}

// leveled writes a line, in one piece, at a level of the journal's.
type leveled struct {
	w     io.Writer
	mu    sync.Mutex // from the setting of the level to the writing of the line
	level slog.Level
}

func (l *leveled) Write(line []byte) (int, error) {
	prefix := "<7>" // debug
	switch {
	case l.level >= slog.LevelError:
		prefix = "<3>"
	case l.level >= slog.LevelWarn:
		prefix = "<4>"
	case l.level >= slog.LevelInfo:
		prefix = "<6>"
	}
	if _, err := l.w.Write(append([]byte(prefix), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}
