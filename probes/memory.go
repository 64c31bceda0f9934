package probes

import (
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

// ReclaimType is the attribute that says for whose want of memory some was freed.
const ReclaimType = "linux.memory.reclaim.type"

func memory() *Spec {
	const (
		oomKills = "linux.oom.kills"
		reclaims = "linux.memory.reclaim.duration"
	)
	return &Spec{
		Name:        "memory",
		Description: "Processes killed for want of memory, and how long tasks waited for memory to be freed",
		Default:     true,
		Cost:        Cost{Low, "245 ns a reclaim, and under 10 ns a signal"},
		Since:       [2]uint32{5, 10},
		Limits: "Of the members of a cgroup with memory.oom.group each is killed once, where the kernel's oom_kill may count " +
			"the first twice. What kswapd frees, and what is freed of one NUMA node for a local page, is not in the reclaims. " +
			"What a manager has a cgroup give back (memory.reclaim, a lowered memory.high) is the manager's.",
		Version: "1",
		Load:    bpf.LoadMemory,
		Adapt: func(spec *ebpf.CollectionSpec, env Environment) error {
			// A CPU sets 128 elements of an LRU map aside for itself (kernel/bpf/bpf_lru_list.c).
			spec.Maps["reclaiming_besides"].MaxEntries = max(4096, 128*uint32(env.Kernel.PossibleCPUs))
			if env.Kernel.arguments("mm_vmscan_memcg_reclaim_begin") == 0 { // no CONFIG_MEMCG
				deletePrograms(spec, "memcg_")
			}
			if !env.Enabled(oomKills) {
				deletePrograms(spec, "oom_")
			}
			if !env.Enabled(reclaims) {
				deletePrograms(spec, "direct_", "memcg_")
			}
			return nil
		},
		Tables: []TableSpec{{
			Name:      "oom_kills",
			MaxShards: 1,
			Decode: func(_ *Kernel, key []byte) Key {
				k := (*bpf.MemoryOomKillKey)(unsafe.Pointer(&key[0]))
				return executableKey(k.Cgroup, k.Executable[:])
			},
			Instruments: []Instrument{{
				Name:        oomKills,
				Unit:        "{process}",
				Description: "Processes that the kernel killed for want of memory, in a memory cgroup or in all",
				Attributes:  []string{ExecutableName},
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.MemoryOomKillCell{}.Kills)}},
			}},
		}, {
			Name:      "reclaims",
			MaxShards: 1,
			Decode: func(_ *Kernel, key []byte) Key {
				k := (*bpf.MemoryReclaimKey)(unsafe.Pointer(&key[0]))
				return Key{Workload: k.Cgroup, Attributes: []Attribute{{ReclaimType, reclaimTypes[k.Type&1]}}}
			},
			Instruments: []Instrument{{
				Name: reclaims,
				Unit: "s",
				Description: "How long tasks freed memory before they got theirs: direct, for want of any, or memcg, at a limit " +
					"of their cgroup",
				Kind:       Histogram,
				Attributes: []string{ReclaimType},
				Range:      latencyRange,
				Values:     []Value{{Offset: unsafe.Offsetof(bpf.MemoryReclaimCell{}.Duration)}},
			}},
		}},
	}
}

// reclaimTypes are the names of enum reclaim_type in bpf/memory.bpf.c.
var reclaimTypes = [...]string{"direct", "memcg"}
