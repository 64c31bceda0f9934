package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/probes"
)

// probeReport is what there is to say of a probe on this kernel.
type probeReport struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Default     bool     `json:"default"`
	Enabled     bool     `json:"enabled"`
	Supported   bool     `json:"supported"`
	TooOld      bool     `json:"-"` // the kernel is, for it
	CostClass   string   `json:"cost_class"`
	Cost        string   `json:"cost"`            // in figures
	Error       string   `json:"error,omitempty"` // why it is not
	Memory      uint64   `json:"memory"`          // bytes
	Metrics     []string `json:"metrics"`         // those that are on, or would be
}

func probesCommand() *cobra.Command {
	var path string
	var output format
	command := &cobra.Command{
		Use:   "probes",
		Short: "List the probes: what this kernel supports, what is on by default, and what each takes",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := loadConfig(path)
			if err != nil {
				return err
			}
			kernel, err := probes.RunningKernel()
			if err != nil {
				return err
			}
			reports, plan, err := tryProbes(c, kernel)
			if err != nil {
				return err
			}
			return write(command.OutOrStdout(), output, reports, func(w io.Writer) error {
				return printProbes(w, reports, plan)
			})
		},
	}
	configFlag(command, &path)
	outputFlag(command, &output)
	return command
}

// tryProbes loads every probe, enabled or not, to see whether the kernel takes it. None of them counts anything.
func tryProbes(c *config.Config, kernel *probes.Kernel) ([]probeReport, *probes.Plan, error) {
	plan, err := probes.NewPlan(probes.All(), probeOptions(c), kernel)
	if err != nil {
		return nil, nil, usageError{err}
	}
	all := probeOptions(c)
	all.Enabled = func(*probes.Spec) bool { return true }
	all.SeriesLimit, all.MemoryLimit = 1, math.MaxUint64 // memory_limit is for the enabled ones
	trial, err := probes.NewPlan(probes.All(), all, kernel)
	if err != nil {
		return nil, nil, usageError{err}
	}
	set, err := probes.Load(trial)
	if err != nil {
		return nil, nil, err
	}
	defer set.Close()
	var reports []probeReport
	for i, status := range set.Status() {
		probe := plan.Probes[i]
		report := probeReport{
			Name:        status.Probe,
			Description: probe.Spec.Description,
			Default:     probe.Spec.Default,
			Enabled:     probe.Enabled,
			Supported:   status.State == probes.Attached,
			TooOld:      probe.TooOld,
			CostClass:   string(probe.Spec.Cost.Class),
			Cost:        probe.Spec.Cost.Text,
			Memory:      probe.Memory,
		}
		if status.Err != nil {
			report.Error = status.Err.Error()
		}
		for instrument := range probe.Spec.Instruments() {
			if c.Probes[probe.Spec.Name].Metrics[instrument.Name] {
				report.Metrics = append(report.Metrics, instrument.Name)
			}
		}
		reports = append(reports, report)
	}
	return reports, plan, nil
}

func printProbes(w io.Writer, reports []probeReport, plan *probes.Plan) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PROBE\tKERNEL\tDEFAULT\tENABLED\tMEMORY\tCOST\tMEASURES")
	for _, r := range reports {
		kernel, byDefault := "supported", "opt-in"
		if !r.Supported {
			kernel = "unsupported"
		}
		if r.Default {
			byDefault = "on"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%t\t%s\t%s\t%s\n", r.Name, kernel, byDefault, r.Enabled,
			mebibytes(r.Memory), r.CostClass, r.Description)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, r := range reports {
		if r.Error != "" {
			fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(r.Error))
		}
	}
	_, err := fmt.Fprintf(w, "\nKernel memory of the enabled probes: %s, for %d series a table.\n",
		mebibytes(plan.Memory), plan.SeriesLimit)
	return err
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// format is how a command answers, one of some.
type format struct {
	choices []string
	chosen  string // empty until one is
}

// outputFlag adds --output to a command that can answer as text, by default, or JSON.
func outputFlag(command *cobra.Command, output *format) {
	*output = format{choices: []string{"text", "json"}, chosen: "text"}
	command.Flags().Var(output, "output", "`FORMAT` of the answer: "+output.list())
}

func (f *format) list() string { return strings.Join(f.choices, ", ") }

func (f *format) String() string { return f.chosen }

func (f *format) Type() string { return "string" }

// Set refuses other formats before the command does anything.
func (f *format) Set(text string) error {
	if !slices.Contains(f.choices, text) {
		return errors.New("write one of " + f.list())
	}
	f.chosen = text
	return nil
}

// write answers in the chosen format.
func write(w io.Writer, output format, answer any, text func(io.Writer) error) error {
	if output.chosen == "text" {
		return text(w)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(answer)
}
