package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/grpclog"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/handover"
	"github.com/ebpf-sidecar/sidecar/internal/receiver"
	"github.com/ebpf-sidecar/sidecar/probes"
	"github.com/ebpf-sidecar/sidecar/readings"
	"github.com/ebpf-sidecar/sidecar/telemetry"
	"github.com/ebpf-sidecar/sidecar/top"
)

// minInterval is the shortest time between two readings.
const minInterval = 100 * time.Millisecond

// frameWriters are what can be written instead of a screen.
var frameWriters = map[string]func(io.Writer) readings.Writer{
	"text": readings.NewText, "json": readings.NewJSON, "csv": readings.NewCSV,
}

type topOptions struct {
	config   string
	interval time.Duration
	once     bool
	output   format // empty for the screen
}

func topCommand() *cobra.Command {
	options := topOptions{output: format{choices: slices.Sorted(maps.Keys(frameWriters))}}
	command := &cobra.Command{
		Use:   "top",
		Short: "Look at this machine, live, with nothing else installed",
		Long: "Load the probes and draw what they measure, on a terminal; elsewhere, print it every interval until stopped.\n" +
			"Nothing is sent anywhere: the values go through the whole export to a receiver inside the process.",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if options.interval < minInterval {
				return usageError{fmt.Errorf("--interval %v: write %v or more", options.interval, minInterval)}
			}
			c, err := loadConfig(options.config)
			if err != nil {
				return err
			}
			signals := []os.Signal{unix.SIGINT, unix.SIGTERM}
			if !signal.Ignored(unix.SIGHUP) { // as nohup(1) has it
				signals = append(signals, unix.SIGHUP)
			}
			ctx, stop := untilSignal(command.Context(), signals...)
			defer stop()
			return runTop(ctx, c, options, command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	configFlag(command, &options.config)
	command.Flags().DurationVar(&options.interval, "interval", time.Second, "`TIME` between two readings")
	command.Flags().BoolVar(&options.once, "once", false, "print one reading, after one interval, and end")
	command.Flags().Var(&options.output, "output", "print as `FORMAT` instead of drawing: "+options.output.list())
	return command
}

// runTop measures, and shows it until the user quits, the context ends, or it was shown once.
func runTop(ctx context.Context, c *config.Config, options topOptions, stdout, stderr io.Writer) error {
	draws := options.output.chosen == "" && !options.once && isTerminal(os.Stdin) && isTerminal(stdout) &&
		!slices.Contains([]string{"", "dumb"}, os.Getenv("TERM"))
	messages := new(messageLog)
	logTo := stderr
	if draws {
		logTo = messages
		// gRPC's own logger would write over the screen.
		grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, messages))
		defer func() { fmt.Fprint(stderr, messages) }()
	}
	logger := newLogger(config.Log{Level: max(c.Log.Level, slog.LevelWarn), Format: c.Log.Format}, logTo)
	slog.SetDefault(logger)

	set, err := loadProbes(c, handover.None{}, false, logger)
	if err != nil {
		return err
	}
	if statistics, err := probes.MeasureRunTime(); err != nil {
		logger.Warn("what the probes cost is not shown", "error", err)
	} else {
		defer statistics.Close()
	}
	begin := time.Now()
	store := readings.NewStore(begin)
	loopback, err := receiver.Listen(store.AddOTLP)
	if err != nil {
		return errors.Join(fmt.Errorf("listen on the loopback interface: %w", err), set.Close())
	}
	defer loopback.Close()
	framed := &framedSource{source: set, store: store, least: options.interval / 2, last: begin, frames: make(chan *readings.Frame, 1)}

	export := telemetryOptions(c, io.Discard, logger)
	// What the configuration says of exports is for a receiver elsewhere.
	export.Interval, export.FirstExport, export.ExportTimeout = options.interval, options.interval, 0
	export.ExplicitBuckets, export.Console = false, nil
	export.OTLP = &telemetry.OTLP{Endpoint: loopback.URL, Headers: loopback.Headers}
	return exportWhile(ctx, framed, export, func(*telemetry.Pipeline) error {
		if draws {
			return top.Run(ctx, top.Options{
				Frames: framed.frames, Messages: messages.lines, Interval: options.interval,
				Input: os.Stdin, Output: stdout, Environment: os.Environ(),
			})
		}
		return printFrames(ctx, framed.frames, stdout, options)
	})
}

// printFrames writes what comes until the context ends, or once.
func printFrames(ctx context.Context, frames <-chan *readings.Frame, stdout io.Writer, options topOptions) error {
	writer := frameWriters[cmp.Or(options.output.chosen, "text")](stdout)
	for {
		select {
		case <-ctx.Done():
			return nil
		case frame := <-frames:
			if err := writer.Write(frame); err != nil || options.once {
				return err
			}
		}
	}
}

// framedSource makes a frame of every reading that has arrived whole.
type framedSource struct {
	source
	store  *readings.Store
	least  time.Duration // between two frames: after a cycle that was late the next one comes soon
	last   time.Time     // of the frame before, or when the counting began
	frames chan *readings.Frame
}

// Acknowledge is called when the receiver has all points of a snapshot. A frame that is not taken yet is not replaced: what
// was added since is in the one that comes after it.
func (s *framedSource) Acknowledge(snapshot *probes.Snapshot) {
	s.source.Acknowledge(snapshot)
	if snapshot.Time.Sub(s.last) >= s.least && len(s.frames) == 0 {
		s.last = snapshot.Time
		s.frames <- s.store.Frame(snapshot.Time)
	}
}

// messageLog keeps the latest lines that were logged.
type messageLog struct {
	mu     sync.Mutex
	latest []string
}

const maxMessages = 50

func (m *messageLog) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for line := range bytes.Lines(p) {
		m.latest = append(m.latest, strings.TrimSuffix(string(line), "\n"))
	}
	m.latest = m.latest[max(0, len(m.latest)-maxMessages):]
	return len(p), nil
}

func (m *messageLog) lines() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.latest)
}

func (m *messageLog) String() string {
	var b strings.Builder
	for _, line := range m.lines() {
		fmt.Fprintln(&b, line)
	}
	return b.String()
}
