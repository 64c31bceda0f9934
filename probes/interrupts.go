package probes

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

func interrupts() *Spec {
	const (
		softirqDuration = "linux.softirq.duration"
		softirqName     = "linux.softirq.name"
		irqDuration     = "linux.irq.duration"
		irqName         = "linux.irq.name"
	)
	return &Spec{
		Name:        "interrupts",
		Description: "Interrupts: how long their handlers ran, and the softirqs that do the rest",
		Cost:        Cost{Medium, "136 ns a softirq, 90 of them to read the clock twice; 0.5 us an interrupt"},
		Since:       [2]uint32{5, 10},
		Limits: "Interrupts that have no handler of a driver's are not seen: those of the local timer, between CPUs, of machine " +
			"checks. Where handlers run in threads (PREEMPT_RT, `threadirqs`) it is their wake-up that is measured. " +
			"The time of a softirq holds that of the interrupts that come in it; with PREEMPT_RT, also that of what preempts it.",
		Version: "1",
		Load:    bpf.LoadInterrupts,
		Adapt: func(spec *ebpf.CollectionSpec, env Environment) error {
			for metric, prefix := range map[string]string{softirqDuration: "softirq_", irqDuration: "irq_"} {
				if !env.Enabled(metric) {
					deletePrograms(spec, prefix)
				}
			}
			return nil
		},
		Tables: []TableSpec{{
			Name:      "softirqs",
			MaxShards: 8,
			Global:    true,
			MaxSeries: 16,
			Decode: func(_ *Kernel, key []byte) Key {
				return Key{Attributes: []Attribute{{softirqName, softirqVector(binary.NativeEndian.Uint64(key))}}}
			},
			Instruments: []Instrument{{
				Name:        softirqDuration,
				Unit:        "s",
				Description: "How long softirqs ran, by their names in /proc/softirqs",
				Kind:        Histogram,
				Attributes:  []string{softirqName},
				Range:       latencyRange,
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.InterruptsSoftirqCell{}.Duration)}},
			}},
		}, {
			Name:      "irqs",
			MaxShards: 1, // a line interrupts one CPU, as a rule
			Global:    true,
			Decode: func(_ *Kernel, key []byte) Key {
				k := (*bpf.InterruptsIrqKey)(unsafe.Pointer(&key[0]))
				return Key{Attributes: []Attribute{{irqName, cleanName(cString(k.Name[:]))}}}
			},
			Instruments: []Instrument{{
				Name: irqDuration,
				Unit: "s",
				Description: "How long handlers of interrupts ran, by their names in /proc/interrupts; each of those that share a " +
					"line is called for every interrupt on it",
				Kind:       Histogram,
				Attributes: []string{irqName},
				Range:      latencyRange,
				Values:     []Value{{Offset: unsafe.Offsetof(bpf.InterruptsIrqCell{}.Duration)}},
			}},
		}},
	}
}

// softirqs are the kernel's names (kernel/softirq.c, softirq_to_name), by vector. The enumeration has no name in the BTF.
var softirqs = []string{"HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"}

// softirqVector is the name of a softirq.
func softirqVector(vector uint64) string {
	if vector < uint64(len(softirqs)) {
		return softirqs[vector]
	}
	return fmt.Sprint(vector)
}
