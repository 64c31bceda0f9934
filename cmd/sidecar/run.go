package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/ebpf-sidecar/sidecar/admin"
	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/handover"
	"github.com/ebpf-sidecar/sidecar/probes"
	"github.com/ebpf-sidecar/sidecar/service"
	"github.com/ebpf-sidecar/sidecar/telemetry"
)

type runOptions struct {
	config   string
	instance service.Instance
	strict   bool
	safe     bool
}

func runCommand() *cobra.Command {
	var options runOptions
	command := &cobra.Command{
		Use:   "run",
		Short: "Load the probes and export their metrics until stopped",
		Long: "Load the probes and export their metrics until stopped by SIGINT or SIGTERM; a second signal ends at once.\n" +
			"SIGHUP and sidecar reload have it read its configuration again.\n" +
			"With no endpoint configured and a terminal, a table is printed besides.",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := loadConfig(options.config)
			if err != nil {
				return err
			}
			signals := []os.Signal{unix.SIGINT, unix.SIGTERM}
			if term.IsTerminal(unix.Stdin) && !signal.Ignored(unix.SIGHUP) {
				signals = append(signals, unix.SIGHUP) // the terminal is gone
			}
			ctx, stop := untilSignal(command.Context(), signals...)
			defer stop()
			return Run(ctx, c, options, command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	configFlag(command, &options.config)
	serviceFlag(command, &options.instance)
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

// Run measures and exports until the context ends. The foreground, the container and the service manager all call it.
func Run(ctx context.Context, c *config.Config, options runOptions, stdout, stderr io.Writer) error {
	r := &runner{
		options: options, stdout: stdout, stderr: stderr, started: time.Now(),
		hangups: make(chan os.Signal, 1), requests: make(chan chan<- error),
	}
	r.configure(c)
	signal.Notify(r.hangups, unix.SIGHUP)
	defer signal.Stop(r.hangups)
	store, err := openStore(c)
	if err != nil {
		return err
	}
	defer store.Close()
	r.store = store
	server, err := admin.Listen(options.instance.Socket(), admin.Handler{Status: r.status, Reload: r.reload})
	if err != nil {
		r.log.Warn("sidecar status and reload cannot reach this sidecar", "error", err)
	} else {
		defer server.Close()
	}
	for {
		next, err := r.measure(ctx)
		if next == nil && errors.Is(err, telemetry.ErrNotEnded) {
			err = nil // the end of the process ends it
		}
		if err != nil || next == nil {
			r.answer(err)
			r.log.Info("stopped")
			return err
		}
		r.configure(next)
	}
}

// runner runs the sidecar, under one configuration after another.
type runner struct {
	options        runOptions
	stdout, stderr io.Writer
	log            *slog.Logger
	manager        service.Manager
	store          handover.Store
	started        time.Time
	hangups        chan os.Signal
	requests       chan chan<- error // for a reload, each with where to answer
	waiting        chan<- error      // for the answer; nil for none

	mu          sync.Mutex // for what follows: update changes it, status reads it from another goroutine
	state       admin.State
	config      *config.Config
	probes      []probes.Status // as they were loaded
	pipeline    *telemetry.Pipeline
	reloadError error
}

// openStore opens where maps and programs are kept: for the next process, or at least for the next configuration.
func openStore(c *config.Config) (handover.Store, error) {
	if c.State.Pin != "" {
		pins, err := handover.NewPins(c.State.Pin)
		if err != nil {
			return nil, fmt.Errorf("state.pin: %w", err)
		}
		return pins, nil
	}
	if os.Getenv("NOTIFY_SOCKET") != "" {
		return handover.NewSystemd()
	}
	return handover.NewMemory(), nil
}

// configure takes a configuration for the next measurement.
func (r *runner) configure(c *config.Config) {
	r.update(func() {
		r.config, r.state, r.probes, r.pipeline, r.reloadError = c, admin.Starting, nil, nil, nil
	})
	r.log = newLogger(c.Log, r.stderr)
	slog.SetDefault(r.log)
}

// measure runs under one configuration. It returns the next, or nil when the context has ended.
func (r *runner) measure(ctx context.Context) (next *config.Config, err error) {
	c := r.config
	if c.Disabled || len(c.Exporters) == 0 {
		r.log.Info("OTEL_SDK_DISABLED is true or OTEL_METRICS_EXPORTER none: nothing is measured or exported")
		return r.serve(ctx, nil)
	}
	var measured source = nothing{}
	if !r.options.safe {
		set, err := loadProbes(c, r.store, r.options.strict, r.log)
		if err != nil {
			return nil, err
		}
		measured = set
		r.update(func() { r.probes = set.Status() })
	}
	export := telemetryOptions(c, r.stdout, r.log)
	export.Instance = r.options.instance.Identity()
	err = exportWhile(ctx, measured, export, func(pipeline *telemetry.Pipeline) (err error) {
		running := []any{"version", version, "interval", c.Export.Interval}
		if export.OTLP != nil {
			running = append(running, "endpoint", export.OTLP.Endpoint)
		}
		r.log.Info("running", running...)
		next, err = r.serve(ctx, pipeline)
		return err
	})
	return next, err
}

// serve tells the service manager and answers who asks, until the context ends or there is another configuration.
func (r *runner) serve(ctx context.Context, pipeline *telemetry.Pipeline) (next *config.Config, err error) {
	interval, err := r.manager.WatchdogInterval()
	if err != nil {
		return nil, fmt.Errorf("the service manager's watchdog: %w", err)
	}
	var alive <-chan time.Time
	if interval > 0 {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		alive = ticker.C
	}
	r.update(func() { r.state, r.pipeline = admin.Running, pipeline })
	r.manager.Ready(r.summary())
	r.answer(nil)
	for {
		select {
		case <-ctx.Done():
			r.manager.Stopping()
			r.update(func() { r.state = admin.Stopping })
			return nil, nil
		case <-alive:
			if r.progresses() {
				r.manager.Alive()
			}
			continue
		case <-r.hangups:
		case r.waiting = <-r.requests:
		}
		if next := r.readAgain(); next != nil {
			return next, nil
		}
	}
}

// readAgain reads the configuration again. It returns nil for one that is not valid, which changes nothing.
func (r *runner) readAgain() *config.Config {
	r.manager.Reloading()
	r.update(func() { r.state = admin.Reloading })
	next, err := loadConfig(r.options.config)
	if err == nil && !r.options.safe {
		_, err = planProbes(next, nil)
	}
	if err == nil {
		r.log.Info("the configuration is read again")
		return next
	}
	r.log.Error("reload: nothing is changed", "error", err)
	r.update(func() { r.state, r.reloadError = admin.Running, err })
	r.manager.Ready("the last reload changed nothing: see the log")
	r.answer(err)
	return nil
}

// answer tells who waits for a reload how it went.
func (r *runner) answer(err error) {
	if r.waiting != nil {
		r.waiting <- err
		r.waiting = nil
	}
}

// reload has the configuration read again, for another goroutine.
func (r *runner) reload(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case r.requests <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// progresses says whether collections and exports come to an end. Each may take the interval and the time that a whole cycle may
// take.
func (r *runner) progresses() bool {
	if r.pipeline == nil {
		return true
	}
	most := r.config.Export.Interval + r.config.Export.CycleTimeout + shutdownTimeout
	return time.Since(r.pipeline.Health().Cycle) < most
}

// update changes what status reads.
func (r *runner) update(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// summary is a line for systemctl status.
func (r *runner) summary() string {
	attached := 0
	for _, p := range r.probes {
		if p.State == probes.Attached {
			attached++
		}
	}
	return fmt.Sprintf("%d probes count", attached)
}

// status is what sidecar status shows.
func (r *runner) status() admin.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	status := admin.Status{
		State: r.state, Version: version, PID: os.Getpid(), Started: r.started, Configuration: r.options.config,
	}
	if r.reloadError != nil {
		status.ReloadError = r.reloadError.Error()
	}
	all := r.probes
	if r.pipeline != nil {
		health := r.pipeline.Health()
		if health.Probes != nil {
			all = health.Probes
		}
		status.Export = &admin.Export{}
		if to := otlp(r.config); to != nil {
			status.Export.Endpoint = to.Endpoint
		}
		if !health.Accepted.IsZero() {
			status.Export.Accepted = &health.Accepted
		}
		if health.Err != nil {
			status.Export.Error = health.Err.Error()
		}
	}
	for _, p := range all {
		probe := admin.Probe{Name: p.Probe, State: string(p.State), Events: p.Events}
		if p.Err != nil {
			probe.Error = p.Err.Error()
		}
		for _, missed := range p.Missed {
			probe.Missed += missed.Count
		}
		status.Probes = append(status.Probes, probe)
	}
	return status
}
