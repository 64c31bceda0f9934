// Package probes manages the tracepoint programs: what there is (All), what this kernel can run of it (Load), and what it
// has counted (Set.Snapshot). It hands on plain values and knows nothing of how they are exported.
package probes

import (
	"iter"

	"github.com/cilium/ebpf"
)

// Spec is a probe as data, apart from anything loaded. Adding a probe is a BPF file, a Spec and a line in All.
type Spec struct {
	Name        string
	Description string
	Default     bool   // on unless configured otherwise
	Needs       string // what it needs of the kernel, for people
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
	// Decode reads the cgroup id and the attributes of the key's own from a key.
	Decode func(key []byte) (cgroup uint64, attributes []Attribute)
	// CountedBy is the table before it, if there is one, whose counters count the same events.
	CountedBy   string
	Instruments []Instrument
}

// Environment is what a collection is adapted to.
type Environment struct {
	Kernel  *Kernel
	Enabled func(metric string) bool
}

// scopePrefix begins the name of every instrumentation scope.
const scopePrefix = "github.com/ebpf-sidecar/sidecar/probes/"

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
