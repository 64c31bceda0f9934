package probes

import (
	"unsafe"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

// SignalResult is the attribute that says what became of a signal.
const SignalResult = "linux.signal.result"

// signalResults are the TRACE_SIGNAL_* of include/trace/events/signal.h, whose enumeration has no name.
var signalResults = [...]string{"delivered", "ignored", "already_pending", "overflow_fail", "lose_info"}

func signals() *Spec {
	return &Spec{
		Name:        "signals",
		Description: "Signals sent to processes and threads, and what became of them",
		Default:     true,
		Cost:        Cost{Low, "39 ns a signal"},
		Since:       [2]uint32{5, 10},
		Limits: "It cannot see the SIGKILL that ends the other threads of a process with it, nor signals that a debugger " +
			"injects. A signal is delivered when it is pending, though it may be blocked.",
		Version: "1",
		Load:    bpf.LoadSignals,
		Tables: []TableSpec{{
			Name:      "signals",
			MaxShards: 8,
			Decode: func(_ *Kernel, key []byte) Key {
				k := (*bpf.SignalsSignalKey)(unsafe.Pointer(&key[0]))
				attributes := []Attribute{{SignalName, signalName(int(k.Signal))}}
				if k.Result < uint32(len(signalResults)) {
					attributes = append(attributes, Attribute{SignalResult, signalResults[k.Result]})
				}
				return Key{Workload: k.Cgroup, Attributes: attributes}
			},
			Instruments: []Instrument{{
				Name:        "linux.signals",
				Unit:        "{signal}",
				Description: "Signals sent to the workload's tasks, by other tasks and by the kernel",
				Attributes:  []string{SignalName, SignalResult},
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.SignalsSignalCell{}.Signals)}},
			}},
		}},
	}
}
