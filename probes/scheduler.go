package probes

import (
	"errors"
	"maps"
	"strings"
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
		Needs:       "Linux 5.10 with BTF and CONFIG_FAIR_GROUP_SCHED",
		Version:     "1",
		Load:        bpf.LoadScheduler,
		Redundant:   []string{"scheduler_task_created"}, // where the kernel skips programs, scheduler_switched creates
		Adapt: func(spec *ebpf.CollectionSpec, env Environment) error {
			cpus := uint32(env.Kernel.PossibleCPUs)
			byAddress := spec.Maps["task_states_by_address"]
			if env.Kernel.taskStorage() {
				byAddress.MaxEntries = 1
				delete(spec.Programs, "scheduler_task_freed")
			} else {
				// The kernel does not know the type. No program that it loads refers to the map.
				spec.Maps["task_states"] = byAddress.Copy()
				spec.Maps["task_states"].MaxEntries = 1
				byAddress.MaxEntries = max(byAddress.MaxEntries, 1024*cpus) // as pid_max (kernel/pid.c)
			}
			if !env.Enabled(runQueue) {
				maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
					return strings.HasPrefix(name, "scheduler_task_") // they keep the states of tasks
				})
			}
			return errors.Join(
				spec.Variables["context_switches_enabled"].Set(env.Enabled(switches)),
				spec.Variables["run_queue_enabled"].Set(env.Enabled(runQueue)),
			)
		},
		Tables: []TableSpec{{
			Name:      "schedules",
			MaxShards: 8,
			Decode:    decodeCgroup,
			Instruments: []Instrument{{
				Name:        switches,
				Unit:        "{context_switch}",
				Description: "Context switches away from the workload's tasks",
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
				Range:       latencyRange,
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.SchedulerScheduleCell{}.Wait)}},
			}},
		}},
	}
}
