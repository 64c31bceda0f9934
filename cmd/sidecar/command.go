package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/probes"
	"github.com/ebpf-sidecar/sidecar/service"
)

// Exit codes.
const (
	exitOK     = 0 // done, or stopped by a signal
	exitFailed = 1
	exitUsage  = 2 // the command line or the configuration is wrong
)

// usageError is an error in what the user wrote, on the command line or in the configuration.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errReported ends a command whose output has already said what is wrong.
var errReported = errors.New("")

// run runs the command line and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	started := false
	root := &cobra.Command{
		Use:   "sidecar",
		Short: "Count and time what the Linux kernel does, for each workload, as OpenTelemetry metrics",
		Long: "sidecar runs BPF programs on kernel tracepoints, which count and time what the kernel does for each\n" +
			"container, pod and systemd unit, and exports the figures as OpenTelemetry metrics.",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			started = true
			return raiseCapabilities()
		},
	}
	root.AddCommand(topCommand(), runCommand(), probesCommand(), checkCommand(), configCommand(),
		installCommand(), uninstallCommand(),
		controlCommand("start", "Start the installed service (root)", service.Start),
		controlCommand("stop", "Stop the service (root)", service.Stop),
		controlCommand("restart", "Stop the service, if it runs, and start it (root)", service.Restart),
		reloadCommand(), detachCommand(), statusCommand(), versionCommand())
	root.InitDefaultCompletionCmd()
	for _, group := range root.Commands() {
		if group.HasSubCommands() { // cobra would answer an unknown one with the help, and success
			group.RunE = func(group *cobra.Command, _ []string) error { return group.Help() }
		}
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)

	err := root.Execute()
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errReported):
		return exitFailed
	case !started:
		fmt.Fprintf(stderr, "sidecar: %v\nTry: sidecar --help\n", err)
		return exitUsage
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "sidecar: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "sidecar: %v\n", err)
	return exitFailed
}

// probeOptions is what a configuration says to the probes.
func probeOptions(c *config.Config) probes.Options {
	return probes.Options{
		Enabled:     func(spec *probes.Spec) bool { return c.Probes[spec.Name].Enabled },
		Metric:      func(probe, metric string) bool { return c.Probes[probe].Metrics[metric] },
		Attributes:  c.Attributes,
		SeriesLimit: c.SeriesLimit,
		MemoryLimit: uint64(c.MemoryLimit),
	}
}

// configFlag adds --config to a command.
func configFlag(command *cobra.Command, path *string) {
	command.Flags().StringVar(path, "config", "", "configuration `FILE` (see: sidecar config default)")
}
