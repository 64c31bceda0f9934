package probes

import (
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

func scheduler() *Spec {
	const (
		switches   = "linux.scheduler.context_switches"
		runQueue   = "linux.scheduler.run_queue.duration"
		switchType = "process.context_switch.type"
	)
	return &Spec{
		Name:        "scheduler",
		Description: "Context switches, and how long tasks that could run waited for a CPU",
		Default:     true,
		Cost:        Cost{Medium, "72 to 124 ns a context switch"},
		Since:       [2]uint32{5, 10},
		Needs:       "CONFIG_FAIR_GROUP_SCHED",
		Limits: "A preemption is what the kernel counts as an involuntary switch, to another task than the idle one. It does not tell " +
			"one that was forced from a yield, nor from the end of a quota.",
		Version:   "1",
		Load:      bpf.LoadScheduler,
		Redundant: []string{"scheduler_task_created"}, // where the kernel skips programs, scheduler_switched creates
		Adapt: func(spec *ebpf.CollectionSpec, env Environment) error {
			if !env.Enabled(runQueue) {
				deletePrograms(spec, "scheduler_task_") // they keep the states of tasks
			}
			return nil
		},
		Tables: []TableSpec{{
			Name:      "schedules",
			MaxShards: 8,
			Decode:    decodeWorkload,
			Instruments: []Instrument{{
				Name:        switches,
				Unit:        "{context_switch}",
				Description: "Context switches away from the workload's tasks",
				Switch:      "context_switches_enabled",
				Attributes:  []string{switchType},
				Values: []Value{{
					Offset:     unsafe.Offsetof(bpf.SchedulerScheduleCell{}.Voluntary),
					Attributes: []Attribute{{switchType, "voluntary"}},
				}, {
					Offset:     unsafe.Offsetof(bpf.SchedulerScheduleCell{}.Involuntary),
					Attributes: []Attribute{{switchType, "involuntary"}},
				}},
			}, {
				Name:        runQueue,
				Unit:        "s",
				Description: "How long tasks that could run waited for a CPU, each time that they got one",
				Kind:        Histogram,
				Switch:      "run_queue_enabled",
				Range:       latencyRange,
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.SchedulerScheduleCell{}.Wait)}},
			}},
		}, {
			Name:      "preemptions",
			MaxShards: 8,
			Decode: func(_ *Kernel, key []byte) Key {
				k := (*bpf.SchedulerPreemptionKey)(unsafe.Pointer(&key[0]))
				return Key{Workload: k.Victim, Culprit: k.Culprit}
			},
			CountedBy: "schedules",
			Instruments: []Instrument{{
				Name: "linux.scheduler.preemptions",
				Unit: "{preemption}",
				Description: "Times that a task of the workload gave up the CPU to another though it could have run on, by the " +
					"workload that got it; it yielded, or had used up its share or quota",
				OptIn:      true,
				Attributes: []string{CulpritPrefix + "*"},
				Values:     []Value{{Offset: unsafe.Offsetof(bpf.SchedulerPreemptionCell{}.Preemptions)}},
			}},
		}},
	}
}
