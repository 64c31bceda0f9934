package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/probes"
	"github.com/ebpf-sidecar/sidecar/telemetry"
)

// shutdownTimeout bounds the last collection and export.
const shutdownTimeout = 4 * time.Second

type runOptions struct {
	config string
	strict bool
	safe   bool
}

func runCommand() *cobra.Command {
	var options runOptions
	command := &cobra.Command{
		Use:   "run",
		Short: "Load the probes and export their metrics until stopped",
		Long: "Load the probes and export their metrics until stopped by SIGINT or SIGTERM; a second signal ends at once.\n" +
			"With no endpoint configured and a terminal, a table is printed besides.",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := loadConfig(options.config)
			if err != nil {
				return err
			}
			logger := newLogger(c.Log, command.ErrOrStderr())
			slog.SetDefault(logger)
			ctx, stop := untilSignal(command.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			return Run(ctx, c, options, command.OutOrStdout(), logger)
		},
	}
	configFlag(command, &options.config)
	command.Flags().BoolVar(&options.strict, "strict", false, "fail unless every enabled probe is attached, but for those that are on by default and that the kernel is too old for")
	command.Flags().BoolVar(&options.safe, "safe", false, "load no BPF program; export only metrics of the sidecar itself")
	return command
}

// untilSignal returns a context that ends with the first signal. A second one ends the process, unless it is the first one
// again: timeout(1) sends it to the process and to its group.
func untilSignal(ctx context.Context, signals ...os.Signal) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, signals...)
	context.AfterFunc(ctx, func() { time.AfterFunc(250*time.Millisecond, stop) })
	return ctx, stop
}

func newLogger(c config.Log, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.Format == config.JSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// Run measures and exports until the context ends. The foreground, the container and the service manager all call it.
func Run(ctx context.Context, c *config.Config, options runOptions, stdout io.Writer, logger *slog.Logger) error {
	if c.Disabled || len(c.Exporters) == 0 {
		logger.Info("OTEL_SDK_DISABLED is true or OTEL_METRICS_EXPORTER none: nothing is measured or exported")
		<-ctx.Done()
		return nil
	}
	var measured source = nothing{}
	if !options.safe {
		set, err := loadProbes(c, options.strict, logger)
		if err != nil {
			return err
		}
		measured = set
	}
	export := telemetryOptions(c, stdout, logger)
	return exportWhile(ctx, measured, export, func() error {
		running := []any{"version", version, "interval", c.Export.Interval}
		if export.OTLP != nil {
			running = append(running, "endpoint", export.OTLP.Endpoint)
		}
		logger.Info("running", running...)
		<-ctx.Done()
		return nil
	})
}

// exportWhile opens what is measured and exports it until the function returns, and then a last time. It closes what is
// measured in any case.
func exportWhile(ctx context.Context, measured source, export telemetry.Options, while func() error) (err error) {
	pipeline, err := telemetry.Start(ctx, export, measured)
	if err != nil {
		return errors.Join(fmt.Errorf("start the export: %w", err), measured.Close())
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		err = errors.Join(err, stop(ctx, pipeline, measured, export.Logger))
	}()
	if err := measured.Open(); err != nil {
		return err
	}
	debug.FreeOSMemory() // what loading took: the kernel's types above all
	return while()
}

// stop exports a last time, and closes what was measured. An export that has failed is no failure of the sidecar.
func stop(ctx context.Context, pipeline *telemetry.Pipeline, measured source, logger *slog.Logger) error {
	err := pipeline.Shutdown(ctx)
	if err != nil {
		logger.Warn("the last export failed", "error", err)
	}
	logger.Info("stopped")
	if errors.Is(err, telemetry.ErrNotEnded) {
		return nil // it may still read the maps' memory, and the end of the process closes all
	}
	return measured.Close()
}

// source is what is measured: a Set of probes, or nothing.
type source interface {
	telemetry.Source
	Open() error
	Close() error
}

// nothing is the source of a sidecar without probes.
type nothing struct{}

func (nothing) Open() error { return nil }

func (nothing) Close() error { return nil }

func (nothing) Snapshot() (*probes.Snapshot, error) { return &probes.Snapshot{Time: time.Now()}, nil }

func (nothing) Acknowledge(*probes.Snapshot) {}

// loadProbes loads the enabled probes behind the gate, and tells of those that it could not load.
func loadProbes(c *config.Config, strict bool, logger *slog.Logger) (*probes.Set, error) {
	kernel, err := probes.RunningKernel()
	if err != nil {
		return nil, err
	}
	options := probeOptions(c)
	plan, err := probes.NewPlan(probes.All(), options, kernel)
	if err != nil {
		return nil, usageError{err}
	}
	if plan.SeriesLimit < c.SeriesLimit {
		logger.Warn("memory_limit lowers the series limit", "memory_limit", c.MemoryLimit,
			"series_limit", plan.SeriesLimit, "configured", c.SeriesLimit)
	}
	set, err := probes.Load(plan)
	if err != nil {
		return nil, err
	}
	var failed []error
	for i, status := range set.Status() {
		spec := plan.Probes[i].Spec
		switch {
		case status.Err == nil:
		case spec.Default && !kernel.Supports(spec):
			logger.Info("probe not running", "probe", status.Probe, "state", status.State, "error", status.Err)
		default:
			failed = append(failed, status.Err)
			logger.Warn("probe not running", "probe", status.Probe, "state", status.State, "error", status.Err)
		}
	}
	if strict && len(failed) > 0 {
		return nil, errors.Join(append(failed, set.Close())...)
	}
	return set, nil
}

func telemetryOptions(c *config.Config, stdout io.Writer, logger *slog.Logger) telemetry.Options {
	options := telemetry.Options{
		Version:         version,
		Revision:        revision(),
		Interval:        c.Export.Interval,
		ExportTimeout:   c.Export.CycleTimeout,
		ExplicitBuckets: c.Export.Histograms == config.ExplicitBuckets,
		OTLP:            otlp(c),
		Logger:          logger,
	}
	for _, spec := range probes.All() {
		for instrument := range spec.Instruments() {
			options.Instruments = append(options.Instruments,
				telemetry.Instrument{Scope: spec.Scope(), Instrument: instrument})
		}
	}
	if slices.Contains(c.Exporters, config.Console) || !c.Export.EndpointSet && isTerminal(stdout) {
		options.Console = &telemetry.Console{Writer: stdout}
	}
	return options
}

// otlp says where to send, nil for nowhere.
func otlp(c *config.Config) *telemetry.OTLP {
	if c.Disabled || !slices.Contains(c.Exporters, config.OTLP) {
		return nil
	}
	return &telemetry.OTLP{
		Endpoint:    c.Export.Endpoint,
		Protocol:    telemetry.Protocol(c.Export.Protocol),
		Headers:     c.Export.Headers,
		Timeout:     c.Export.Timeout,
		Compression: c.Export.Compression,
		TLS: telemetry.TLS{
			CAFile:             c.Export.TLS.CAFile,
			CertFile:           c.Export.TLS.CertFile,
			KeyFile:            c.Export.TLS.KeyFile,
			ServerName:         c.Export.TLS.ServerName,
			InsecureSkipVerify: c.Export.TLS.InsecureSkipVerify,
		},
	}
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
