package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/term"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/handover"
	"github.com/ebpf-sidecar/sidecar/probes"
	"github.com/ebpf-sidecar/sidecar/telemetry"
)

// shutdownTimeout bounds the last collection and export.
const shutdownTimeout = 4 * time.Second

// exportWhile opens what is measured and exports it until the function returns, and then a last time. It closes what is
// measured in any case.
func exportWhile(ctx context.Context, measured source, export telemetry.Options, while func(*telemetry.Pipeline) error) (err error) {
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
	return while(pipeline)
}

// stop exports a last time, and closes what was measured. An export that has failed is no failure of the sidecar; one that has
// not ended is, and then nothing is closed: it may still read the maps' memory.
func stop(ctx context.Context, pipeline *telemetry.Pipeline, measured source, logger *slog.Logger) error {
	err := pipeline.Shutdown(ctx)
	if err != nil {
		logger.Warn("the last export failed", "error", err)
	}
	if errors.Is(err, telemetry.ErrNotEnded) {
		return err
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

// planProbes says what would be loaded, without loading it.
func planProbes(c *config.Config, store handover.Store) (*probes.Plan, error) {
	kernel, err := probes.RunningKernel()
	if err != nil {
		return nil, err
	}
	options := probeOptions(c)
	options.Store = store
	plan, err := probes.NewPlan(probes.All(), options, kernel)
	if err != nil {
		return nil, usageError{err}
	}
	return plan, nil
}

// loadProbes loads the enabled probes behind the gate, and tells of those that it could not load.
func loadProbes(c *config.Config, store handover.Store, strict bool, logger *slog.Logger) (*probes.Set, error) {
	plan, err := planProbes(c, store)
	if err != nil {
		return nil, err
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
		probe := plan.Probes[i]
		switch {
		case status.Err == nil:
		case probe.Spec.Default && probe.TooOld:
			logger.Info("probe not running", "probe", status.Probe, "state", status.State, "error", status.Err)
		default:
			failed = append(failed, status.Err)
			logger.Warn("probe not running", "probe", status.Probe, "state", status.State, "error", status.Err)
		}
	}
	if strict && len(failed) > 0 {
		return nil, errors.Join(append(failed, set.Close())...)
	}
	if taken := set.Taken(); len(taken) > 0 {
		logger.Info("these probes have counted on", "probes", taken)
	}
	if err := set.Keep(); err != nil {
		logger.Warn("not all probes will count on when the sidecar is started anew", "error", err)
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
