package probes

import (
	"errors"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

func syscalls() *Spec {
	const (
		duration = "linux.syscall.duration"
		attempts = "linux.process.execution.attempts"
		name     = "linux.syscall.name"
	)
	return &Spec{
		Name:        "syscalls",
		Description: "System calls: how long they took and how they failed, and the attempts to execute a program",
		Cost: Cost{High, "180 to 209 ns a system call of any process, and 100 ns more for the kernel's way to the tracepoints; " +
			"with the attempts alone 10 ns and those 100"},
		Since: [2]uint32{5, 10},
		Limits: "It taxes every system call of the machine, whoever makes it. A call that is in progress when the probe begins, or " +
			"never returns, such as exit, has no duration. One that seccomp refuses has none either, and is a missed event, unmatched.",
		Version: "1",
		Load:    bpf.LoadSyscalls,
		Adapt: func(spec *ebpf.CollectionSpec, env Environment) error {
			if !env.Enabled(duration) { // no beginnings are kept
				deletePrograms(spec, "syscall_entered", "syscall_task_freed")
				spec.Maps["syscall_task_by_address"].MaxEntries = 1
			}
			var executions [abis]bpf.SyscallsExecutionNumbers
			for abi := range executions {
				executions[abi].Execve = syscallNumber(abi, "execve")
				executions[abi].Execveat = syscallNumber(abi, "execveat")
			}
			return errors.Join(
				spec.Variables["executions"].Set(executions),
				spec.Variables["compat_status"].Set(compats[runtime.GOARCH].status),
				spec.Variables["compat_flags"].Set(compats[runtime.GOARCH].flags),
			)
		},
		Tables: []TableSpec{{
			Name:      "durations",
			MaxShards: 8,
			Decode: func(_ *Kernel, key []byte) Key {
				k := (*bpf.SyscallsDurationKey)(unsafe.Pointer(&key[0]))
				all := []Attribute{{name, syscallName(int(k.Call.Abi), k.Call.Number)}}
				if k.Call.Error != 0 {
					all = append(all, Attribute{ErrorType, errnoName(unix.Errno(k.Call.Error))})
				}
				return Key{Workload: k.Cgroup, Attributes: all}
			},
			Instruments: []Instrument{{
				Name:        duration,
				Unit:        "s",
				Description: "How long system calls took, with the error of those that failed",
				Kind:        Histogram,
				Attributes:  []string{name, ErrorType},
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.SyscallsDurationCell{}.Duration)}},
				Range:       latencyRange,
			}},
		}, {
			Name:      "attempts",
			MaxShards: 1,
			Decode: func(_ *Kernel, key []byte) Key {
				k := (*bpf.SyscallsAttemptKey)(unsafe.Pointer(&key[0]))
				if k.Error == 0 {
					return Key{Workload: k.Cgroup}
				}
				return Key{Workload: k.Cgroup, Attributes: []Attribute{{ErrorType, errnoName(unix.Errno(k.Error))}}}
			},
			CountedBy: "durations",
			Instruments: []Instrument{{
				Name:        attempts,
				Unit:        "{attempt}",
				Description: "Attempts to execute a program, by execve and execveat, with the error of those that failed",
				Attributes:  []string{ErrorType},
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.SyscallsAttemptCell{}.Attempts)}},
			}},
		}},
	}
}
