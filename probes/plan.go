package probes

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/ebpf-sidecar/sidecar/bpf"
	"github.com/ebpf-sidecar/sidecar/handover"
	"github.com/ebpf-sidecar/sidecar/series"
)

// The attributes that a configuration can leave out of the series.
const (
	ContainerID    = "container.id"
	PodUID         = "k8s.pod.uid"
	SystemdUnit    = "systemd.unit"
	LinuxCgroup    = "process.linux.cgroup"
	ExecutableName = "process.executable.name"
)

// Options says which probes run and what they may use.
type Options struct {
	// Enabled tells whether a probe is on. Nil: those that are by default.
	Enabled func(*Spec) bool
	// Metric tells whether a metric of a probe is on. Nil: those that are by default.
	Metric func(probe, metric string) bool
	// Attributes lists those of the five attributes above that series carry. What is left out is not in the
	// kernel's keys either.
	Attributes []string
	// SeriesLimit is how many series a table may hold, the overflow series not included.
	SeriesLimit int
	// MemoryLimit is what all maps together may take in the kernel, in bytes. It lowers the series limit if need be.
	MemoryLimit uint64
	// Store keeps what is in the kernel for the next Set, in this process or another. Nil: nothing is kept.
	Store handover.Store
}

func (o Options) store() handover.Store {
	if o.Store == nil {
		return handover.None{}
	}
	return o.Store
}

func (o Options) enabled(spec *Spec) bool {
	if o.Enabled == nil {
		return spec.Default
	}
	return o.Enabled(spec)
}

func (o Options) metric(spec *Spec, metric *Instrument) bool {
	return o.Metric == nil && !metric.OptIn || o.Metric != nil && o.Metric(spec.Name, metric.Name)
}

func (o Options) has(attribute string) bool { return slices.Contains(o.Attributes, attribute) }

func (o Options) byWorkload() bool {
	return o.has(ContainerID) || o.has(PodUID) || o.has(SystemdUnit) || o.has(LinuxCgroup)
}

// Plan is how the memory limit is shared out: which tables there will be, and how large.
type Plan struct {
	Probes []ProbePlan // one for each Spec that was asked for
	// SeriesLimit is how many series each table holds, at most: the configured limit, or what fits the memory limit.
	SeriesLimit int
	// Memory is what all maps take in the kernel, in bytes. What a task's storage takes is not in it.
	Memory uint64

	options Options
	kernel  *Kernel
	cgroups series.Layout
	shared  uint64 // what the other maps of the workload collection take, in bytes
}

// ProbePlan is one probe's part of a Plan.
type ProbePlan struct {
	Spec    *Spec
	Enabled bool
	TooOld  bool                 // the kernel is, for this probe
	Err     error                // of its collection; the probe has failed
	Memory  uint64               // bytes
	layouts []series.Layout      // of the tables
	enabled []bool               // the tables that have a metric
	spec    *ebpf.CollectionSpec // until it is loaded
}

// cgroupsTable is the table of bpf/workload.bpf.h; it has twice the slots of the others, since it also holds the cgroups
// above those that have series.
const cgroupsTable = "cgroups"

// NewPlan lays out the tables of the enabled probes. The error says so if not even the smallest tables fit.
func NewPlan(specs []*Spec, options Options, kernel *Kernel) (*Plan, error) {
	plan := &Plan{options: options, kernel: kernel}
	workload, err := bpf.LoadWorkload()
	if err != nil {
		return nil, fmt.Errorf("read the workload collection: %w", err)
	}
	plan.shared = otherMaps(workload, nil)
	if plan.cgroups, err = series.LayoutOf(workload, cgroupsTable); err != nil {
		return nil, err
	}
	for _, spec := range specs {
		probe := ProbePlan{Spec: spec, Enabled: options.enabled(spec), TooOld: !kernel.Supports(spec)}
		probe.Err = probe.prepare(options, kernel)
		plan.Probes = append(plan.Probes, probe)
	}

	if plan.layOut(1); plan.Memory > options.MemoryLimit {
		return nil, fmt.Errorf("memory_limit is %d bytes, and the enabled probes need at least %d "+
			"(raise memory_limit or disable a probe)", options.MemoryLimit, plan.Memory)
	}
	// The largest limit that fits: one more does not.
	plan.layOut(sort.Search(options.SeriesLimit, func(limit int) bool {
		plan.layOut(limit + 1)
		return plan.Memory > options.MemoryLimit
	}))
	return plan, nil
}

// prepare reads the probe's collection and fits it to the kernel.
func (p *ProbePlan) prepare(options Options, kernel *Kernel) error {
	if p.TooOld {
		return fmt.Errorf("the kernel does not tell enough: %w", ebpf.ErrNotSupported)
	}
	spec, err := p.Spec.Load()
	if err != nil {
		return fmt.Errorf("read the collection: %w", err)
	}
	p.spec = spec
	errs := []error{kernel.configure(spec)}
	metrics := make(map[string]bool)
	for instrument := range p.Spec.Instruments() {
		metrics[instrument.Name] = options.metric(p.Spec, instrument)
		errs = append(errs, setIfAsked(spec, instrument.Switch, metrics[instrument.Name]))
	}
	enabled := func(metric string) bool { return metrics[metric] }
	if p.Spec.Adapt != nil {
		errs = append(errs, p.Spec.Adapt(spec, Environment{Kernel: kernel, Enabled: enabled}))
	}
	errs = append(errs,
		setIfAsked(spec, "by_workload", options.byWorkload()),
		setIfAsked(spec, "by_executable", options.has(ExecutableName)))
	for _, table := range p.Spec.Tables {
		layout, err := series.LayoutOf(spec, table.Name)
		layout.Shards = series.Shards(kernel.PossibleCPUs, table.MaxShards)
		p.layouts = append(p.layouts, layout)
		on := slices.ContainsFunc(table.Instruments, func(i Instrument) bool { return enabled(i.Name) })
		p.enabled = append(p.enabled, on)
		errs = append(errs, err, setIfAsked(spec, table.Name+"_enabled", on))
	}
	return errors.Join(errs...)
}

// layOut sizes the tables for a series limit, and sums up what all maps then take.
func (plan *Plan) layOut(limit int) {
	cpus := plan.kernel.PossibleCPUs
	plan.SeriesLimit = limit
	plan.cgroups.Slots = 1
	if plan.options.byWorkload() {
		plan.cgroups.Slots += 2 * limit
	}
	plan.Memory = plan.shared + plan.cgroups.Memory(cpus)
	for i := range plan.Probes {
		probe := &plan.Probes[i]
		if probe.Err != nil {
			continue
		}
		probe.Memory = otherMaps(probe.spec, probe.Spec.Tables)
		for j := range probe.layouts {
			layout := &probe.layouts[j]
			layout.Slots = 1
			if probe.enabled[j] {
				layout.Slots += tableLimit(&probe.Spec.Tables[j], limit)
			}
			probe.Memory += layout.Memory(cpus)
		}
		if probe.Enabled {
			plan.Memory += probe.Memory
		}
	}
}

// tableLimit is how many series a table may hold, by the limit for all.
func tableLimit(table *TableSpec, limit int) int {
	if table.MaxSeries > 0 {
		return min(limit, table.MaxSeries)
	}
	return limit
}

// otherMaps is what the maps of a collection that belong to no table take, in bytes, roughly.
func otherMaps(spec *ebpf.CollectionSpec, tables []TableSpec) uint64 {
	const (
		header  = 4096    // of the map, and what it has for each CPU
		element = 48 + 16 // struct htab_elem and struct bucket (kernel/bpf/hashtab.c)
	)
	page := uint64(os.Getpagesize())
	align := func(n, to uint64) uint64 { return (n + to - 1) / to * to }
	of := map[string]bool{}
	for _, name := range append([]string{cgroupsTable}, tableNames(tables)...) {
		for _, suffix := range []string{"_keys", "_free", "_info", "_cells"} {
			of[name+suffix] = true
		}
	}
	var total uint64
	for name, m := range spec.Maps {
		if of[name] {
			continue
		}
		key, value, n := align(uint64(m.KeySize), 8), align(uint64(m.ValueSize), 8), uint64(m.MaxEntries)
		if m.Type == ebpf.Array {
			total += align(header, page) + align(n*value, page)
		} else {
			total += header + n*(element+key+value)
		}
	}
	return total
}

func tableNames(tables []TableSpec) []string {
	var names []string
	for _, table := range tables {
		names = append(names, table.Name)
	}
	return names
}

// deletePrograms leaves out of a collection the programs whose names begin so.
func deletePrograms(spec *ebpf.CollectionSpec, prefixes ...string) {
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
		return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	})
}

// setIfAsked sets a constant of a collection that has it.
func setIfAsked(spec *ebpf.CollectionSpec, name string, value any) error {
	if variable := spec.Variables[name]; variable != nil {
		return variable.Set(value)
	}
	return nil
}
