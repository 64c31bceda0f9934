package probes

import (
	"unsafe"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

func faults() *Spec {
	const faultType = "system.paging.fault.type"
	return &Spec{
		Name:        "faults",
		Description: "Page faults",
		Cost:        Cost{Medium, "24 ns a context switch, 70 where there were faults"},
		Since:       [2]uint32{5, 10},
		Limits: "The faults of a task are counted when it gives up the CPU; those of what runs while the probe begins are not, up to that. " +
			"A turn of which the beginning was not seen is a missed event, unmatched, whatever its faults.",
		Version: "1",
		Load:    bpf.LoadFaults,
		Tables: []TableSpec{{
			Name:      "faults",
			MaxShards: 8,
			Decode:    decodeWorkload,
			Instruments: []Instrument{{
				Name:        "system.paging.faults",
				Unit:        "{fault}",
				Description: "Page faults of the workload's tasks; a major one had to wait for a disk",
				Attributes:  []string{faultType},
				Values: []Value{{
					Offset:     unsafe.Offsetof(bpf.FaultsFaultCell{}.Minor),
					Attributes: []Attribute{{faultType, "minor"}},
				}, {
					Offset:     unsafe.Offsetof(bpf.FaultsFaultCell{}.Major),
					Attributes: []Attribute{{faultType, "major"}},
				}},
			}},
		}},
	}
}
