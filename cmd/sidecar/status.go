package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ebpf-sidecar/sidecar/admin"
	"github.com/ebpf-sidecar/sidecar/service"
)

// adminTimeout bounds a question to the running sidecar. A reload loads the probes.
const adminTimeout = 30 * time.Second

// statusReport is what the service manager and the program know.
type statusReport struct {
	Running bool            `json:"running"`
	Service *service.Report `json:"service,omitempty"` // nil where it is no service
	Sidecar *admin.Status   `json:"sidecar,omitempty"` // nil if it does not answer
	Error   string          `json:"error,omitempty"`   // why it does not
}

func statusCommand() *cobra.Command {
	var instance service.Instance
	var output format
	command := &cobra.Command{
		Use:   "status",
		Short: "Show how the service and the running sidecar do; the exit code is 0 if it runs",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			report, err := queryStatus(command.Context(), instance)
			if err != nil {
				return err
			}
			if err := write(command.OutOrStdout(), output, report, func(w io.Writer) error {
				return printStatus(w, report, time.Now())
			}); err != nil {
				return err
			}
			if !report.Running {
				return errReported
			}
			return nil
		},
	}
	serviceFlag(command, &instance)
	outputFlag(command, &output)
	return command
}

func queryStatus(ctx context.Context, instance service.Instance) (*statusReport, error) {
	var report statusReport
	var err error
	if report.Service, err = service.Query(instance); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	status, err := admin.NewClient(instance.Socket()).Status(ctx)
	if err != nil {
		report.Error = err.Error()
		return &report, nil
	}
	report.Sidecar = &status
	report.Running = status.State == admin.Running || status.State == admin.Reloading
	return &report, nil
}

func printStatus(w io.Writer, report *statusReport, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	if s := report.Service; s != nil {
		row("service", "%s, %s (%s), %s", s.Unit, s.Active, s.Sub, s.Enabled)
		row("unit file", "%s", s.File)
		if s.Since != "" {
			row("since", "%s, %d restarts", s.Since, s.Restarts)
		}
		if s.Result != "success" {
			row("last end", "%s, exit code %d: journalctl --unit %s", s.Result, s.ExitCode, s.Unit)
		}
		if s.Memory > 0 {
			row("memory", "%s of at most %s", mebibytes(s.Memory), mebibytes(s.MemoryMax))
		}
	}
	if report.Error != "" {
		row("sidecar", "%s", report.Error)
	}
	if s := report.Sidecar; s != nil {
		row("sidecar", "%s, version %s, process %d, for %s", s.State, s.Version, s.PID, now.Sub(s.Started).Round(time.Second))
		if s.Configuration != "" {
			row("configuration", "%s", s.Configuration)
		}
		if s.ReloadError != "" {
			row("last reload", "changed nothing: %s", s.ReloadError)
		}
		row("export", "%s", exportLine(s.Export, now))
	}
	if err := table.Flush(); err != nil || report.Sidecar == nil || len(report.Sidecar.Probes) == 0 {
		return err
	}
	fmt.Fprintln(table, "\nPROBE\tSTATE\tEVENTS\tMISSED")
	for _, p := range report.Sidecar.Probes {
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\n", p.Name, p.State, p.Events, p.Missed)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, p := range report.Sidecar.Probes {
		if p.Error != "" {
			fmt.Fprintf(w, "\n%s\n", p.Error)
		}
	}
	return nil
}

func exportLine(e *admin.Export, now time.Time) string {
	if e == nil {
		return "none"
	}
	to := e.Endpoint
	if to == "" {
		to = "console"
	}
	accepted := "nothing accepted yet"
	if e.Accepted != nil {
		accepted = fmt.Sprintf("all accepted %s ago", now.Sub(*e.Accepted).Round(time.Second))
	}
	if e.Error != "" {
		return fmt.Sprintf("%s, failing, %s: %s", to, accepted, e.Error)
	}
	return to + ", " + accepted
}

func reloadCommand() *cobra.Command {
	var instance service.Instance
	command := &cobra.Command{
		Use:   "reload",
		Short: "Have the running sidecar read its configuration again",
		Long: "Have the running sidecar read its configuration again, and wait until it is in effect. One that is not valid\n" +
			"changes nothing, and its errors are printed.",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(command.Context(), adminTimeout)
			defer cancel()
			err := admin.NewClient(instance.Socket()).Reload(ctx)
			if err == nil {
				fmt.Fprintln(command.OutOrStdout(), "Reloaded.")
			}
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("no answer within %v: sidecar status", adminTimeout)
			}
			return err
		},
	}
	serviceFlag(command, &instance)
	return command
}
