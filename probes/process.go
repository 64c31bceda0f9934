package probes

import (
	"bytes"
	"encoding/binary"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

func process() *Spec {
	return &Spec{
		Name:        "process",
		Description: "Processes and threads: created, executed, exited, and how long they lived",
		Default:     true,
		Cost:        Cost{Low, "1.4 us for the fork, execution and exit of a process"},
		Since:       [2]uint32{5, 10},
		Version:     "1",
		Load:        bpf.LoadProcess,
		Adapt: func(spec *ebpf.CollectionSpec, env Environment) error {
			// A CPU sets 128 elements of an LRU map aside for itself (kernel/bpf/bpf_lru_list.c).
			spec.Maps["exited"].MaxEntries = max(4096, 128*uint32(env.Kernel.PossibleCPUs))
			if env.Kernel.arguments("sched_process_exit") >= 2 {
				spec.Maps["exited"].MaxEntries = 1 // not used
			}
			return nil
		},
		Tables: []TableSpec{{
			Name:      "creations",
			MaxShards: 1,
			Decode:    decodeWorkload,
			Instruments: []Instrument{{
				Name:        "system.process.created",
				Unit:        "{process}",
				Description: "Processes created, the kernel's own included",
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.ProcessCreationCell{}.Processes)}},
			}, {
				Name:        "linux.thread.created",
				Unit:        "{thread}",
				Description: "Threads created besides the first of each process",
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.ProcessCreationCell{}.Threads)}},
			}},
		}, {
			Name:      "executions",
			MaxShards: 1,
			Decode: func(_ *Kernel, key []byte) Key {
				k := (*bpf.ProcessExecutionKey)(unsafe.Pointer(&key[0]))
				return executableKey(k.Cgroup, k.Executable[:])
			},
			Instruments: []Instrument{{
				Name: "linux.process.executions",
				Unit: "{execution}",
				Description: "Programs executed successfully; the executable is the file that is mapped: " +
					"for a script, its interpreter",
				Attributes: []string{ExecutableName},
				Values:     []Value{{Offset: unsafe.Offsetof(bpf.ProcessExecutionCell{}.Executions)}},
			}},
		}, {
			Name:      "exits",
			MaxShards: 1,
			Decode: func(_ *Kernel, key []byte) Key {
				k := (*bpf.ProcessExitKey)(unsafe.Pointer(&key[0]))
				if signal := k.Status & 0x7f; signal != 0 {
					return Key{Workload: k.Cgroup, Attributes: []Attribute{{SignalName, signalName(int(signal))}}}
				}
				return Key{Workload: k.Cgroup, Attributes: []Attribute{{"process.exit.code", int64(k.Status >> 8 & 0xff)}}}
			},
			Instruments: []Instrument{{
				Name:        "linux.process.exits",
				Unit:        "{process}",
				Description: "Processes that exited, with the status that their parent can wait for",
				Attributes:  []string{"process.exit.code", SignalName},
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.ProcessExitCell{}.Exits)}},
			}},
		}, {
			Name:      "lifetimes",
			MaxShards: 1,
			Decode:    decodeWorkload,
			CountedBy: "exits",
			Instruments: []Instrument{{
				Name:        "linux.process.lifetime",
				Unit:        "s",
				Description: "How long processes lived, from the creation of the first thread to the exit of the last",
				Kind:        Histogram,
				Range:       lifetimeRange,
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.ProcessLifetimeCell{}.Lifetime)}},
			}},
		}},
	}
}

// decodeWorkload reads a key that is just a workload.
func decodeWorkload(_ *Kernel, key []byte) Key { return Key{Workload: binary.NativeEndian.Uint64(key)} }

// executableKey is a workload and an executable's name, if it has one.
func executableKey(workload uint64, executable []int8) Key {
	name := cleanName(cString(executable))
	if name == "" {
		return Key{Workload: workload}
	}
	return Key{Workload: workload, Attributes: []Attribute{{ExecutableName, name}}}
}

// cString is the bytes of a C array up to its NUL.
func cString(array []int8) []byte {
	b := unsafe.Slice((*byte)(unsafe.Pointer(&array[0])), len(array))
	if end := bytes.IndexByte(b, 0); end >= 0 {
		return b[:end]
	}
	return b
}
