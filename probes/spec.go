// Package probes manages the tracepoint programs: what there is (All), what this kernel can run of it (Load), and what it
// has counted (Set.Snapshot). It hands on plain values and knows nothing of how they are exported.
package probes

import (
	"fmt"
	"iter"

	"github.com/cilium/ebpf"
)

// Spec is a probe as data, apart from anything loaded. Adding a probe is a BPF file, a Spec and a line in All.
type Spec struct {
	Name        string
	Description string
	Default     bool // on unless configured otherwise
	Cost        Cost
	// Since is the oldest Linux that can run it, such as {5, 19}, and Needs is what else it needs of the kernel, for people.
	Since [2]uint32
	Needs string
	// Limits is what the probe cannot tell, on some kernels or at all, for people.
	Limits string
	// Version is that of the metrics' meaning: the version of their instrumentation scope.
	Version string
	// Load returns the probe's collection. Programs in it are attached where their sections say; iterators run once.
	Load   func() (*ebpf.CollectionSpec, error)
	Tables []TableSpec
	// Redundant lists the programs whose work another one does when the kernel skips them.
	Redundant []string
	// Adapt, if there is one, fits the collection to the kernel and to which metrics are enabled.
	Adapt func(*ebpf.CollectionSpec, Environment) error
}

// TableSpec is a group of instruments that share a key, and so a table in the kernel.
type TableSpec struct {
	Name string // of SERIES in the BPF file
	// MaxShards is how many CPUs may add to one series without contending: 8 for what happens many thousand times a
	// second, 1 for what does not.
	MaxShards int
	// Global says that its series belong to no workload.
	Global bool
	// MaxSeries is the most series that there can be, where that is less than the series limit; else 0.
	MaxSeries int
	Decode    func(k *Kernel, key []byte) Key
	// CountedBy is the table before it, if there is one, whose counters count the same events.
	CountedBy   string
	Instruments []Instrument
}

// Key is what a key in the kernel says.
type Key struct {
	Workload   uint64 // the id of its cgroup; 0: the series belongs to no workload
	Culprit    uint64 // likewise of a second workload, whose attributes begin with CulpritPrefix
	Attributes []Attribute
}

// CulpritPrefix is what the attributes of the workload begin with that an event is due to, beside those of whom it befalls.
const CulpritPrefix = "linux.culprit."

// Cost says what a probe costs, as measured (docs/benchmarks.md).
type Cost struct {
	Class CostClass
	Text  string // of what, in figures
}

// CostClass is how much a probe costs a busy machine.
type CostClass string

// The classes of cost.
const (
	// Low: what it watches happens seldom, or takes a hundred times as long as the probe does.
	Low CostClass = "low"
	// Medium: it runs on a hot path, for some ten to a hundred ns.
	Medium CostClass = "medium"
	// High: it also costs where nothing is counted, as on every system call.
	High CostClass = "high"
)

// Environment is what a collection is adapted to.
type Environment struct {
	Kernel  *Kernel
	Enabled func(metric string) bool
}

// scopePrefix begins the name of every instrumentation scope.
const scopePrefix = "github.com/ebpf-sidecar/sidecar/probes/"

// Requirements is what the probe needs of the kernel, for people.
func (s *Spec) Requirements() string {
	text := fmt.Sprintf("Linux %d.%d with BTF", s.Since[0], s.Since[1])
	if s.Needs != "" {
		text += " and " + s.Needs
	}
	return text
}

// Scope is the instrumentation scope of the probe's metrics.
func (s *Spec) Scope() Scope { return Scope{Name: scopePrefix + s.Name, Version: s.Version} }

// Instruments are those of all tables.
func (s *Spec) Instruments() iter.Seq[*Instrument] {
	return func(yield func(*Instrument) bool) {
		for i := range s.Tables {
			for j := range s.Tables[i].Instruments {
				if !yield(&s.Tables[i].Instruments[j]) {
					return
				}
			}
		}
	}
}
