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
			ctx, stop := signal.NotifyContext(command.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			// A second signal ends the process, unless it is the first one again: timeout(1) sends it to the process
			// and to its group.
			context.AfterFunc(ctx, func() { time.AfterFunc(250*time.Millisecond, stop) })
			return Run(ctx, c, options, command.OutOrStdout(), logger)
		},
	}
	configFlag(command, &options.config)
	command.Flags().BoolVar(&options.strict, "strict", false, "fail unless every enabled probe is attached")
	command.Flags().BoolVar(&options.safe, "safe", false, "load no BPF program; export only metrics of the sidecar itself")
	return command
}

func newLogger(c config.Log, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.Format == config.JSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// Run measures and exports until the context ends. The foreground, the container and the service manager all call it.
func Run(ctx context.Context, c *config.Config, options runOptions, stdout io.Writer, logger *slog.Logger) (err error) {
	if c.Disabled || len(c.Exporters) == 0 {
		logger.Info("OTEL_SDK_DISABLED is true or OTEL_METRICS_EXPORTER none: nothing is measured or exported")
		<-ctx.Done()
		return nil
	}
	var source telemetry.Source = nothing{}
	open := func() error { return nil }
	if !options.safe {
		set, err := loadProbes(c, options.strict, logger)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, set.Close()) }()
		source, open = set, set.Open
	}
	pipeline, err := telemetry.Start(ctx, telemetryOptions(c, stdout, logger), source)
	if err != nil {
		return fmt.Errorf("start the export: %w", err)
	}
	defer func() {
		shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		_ = pipeline.Shutdown(shutdown) // it has logged what could not be sent
		logger.Info("stopped")
	}()
	if err := open(); err != nil {
		return err
	}
	debug.FreeOSMemory() // what loading took: the kernel's types above all
	logger.Info("running", "version", version, "endpoint", c.Export.Endpoint, "interval", c.Export.Interval)
	<-ctx.Done()
	return nil
}

// nothing is the source of a sidecar without probes.
type nothing struct{}

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
	set, err := probes.Load(plan, options, kernel)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, status := range set.Status() {
		if status.Err != nil {
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
		Version:       version,
		Revision:      revision(),
		Interval:      c.Export.Interval,
		ExportTimeout: max(c.Export.CycleTimeout, c.Export.Timeout),
		Logger:        logger,
	}
	for _, spec := range probes.All() {
		for instrument := range spec.Instruments() {
			options.Instruments = append(options.Instruments,
				telemetry.Instrument{Scope: spec.Scope(), Instrument: instrument})
		}
	}
	if slices.Contains(c.Exporters, config.OTLP) {
		options.OTLP = otlp(c.Export)
	}
	if slices.Contains(c.Exporters, config.Console) || !c.Export.EndpointSet && isTerminal(stdout) {
		options.Console = &telemetry.Console{Writer: stdout}
	}
	return options
}

func otlp(c config.Export) *telemetry.OTLP {
	return &telemetry.OTLP{
		Endpoint:    c.Endpoint,
		Protocol:    telemetry.Protocol(c.Protocol),
		Headers:     c.Headers,
		Timeout:     c.Timeout,
		Compression: c.Compression,
		TLS: telemetry.TLS{
			CAFile:             c.TLS.CAFile,
			CertFile:           c.TLS.CertFile,
			KeyFile:            c.TLS.KeyFile,
			ServerName:         c.TLS.ServerName,
			InsecureSkipVerify: c.TLS.InsecureSkipVerify,
		},
	}
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
