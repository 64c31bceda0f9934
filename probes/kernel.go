package probes

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Kernel is what the loader must know of the running kernel.
type Kernel struct {
	Release      string // as uname -r prints it
	PossibleCPUs int
	version      uint32 // as LINUX_VERSION_CODE
	btf          *btf.Spec
	types        *btf.Cache // so that it is read once
	enums        map[string]map[uint64]string
}

// RunningKernel looks at the kernel that it runs on. The error says what is missing when it has no BTF.
func RunningKernel() (*Kernel, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("uname: %w", err)
	}
	k := &Kernel{Release: unix.ByteSliceToString(uts.Release[:])}
	var err error
	if k.PossibleCPUs, err = ebpf.PossibleCPU(); err != nil {
		return nil, fmt.Errorf("count the possible CPUs: %w", err)
	}
	if k.version, err = features.LinuxVersionCode(); err != nil {
		return nil, fmt.Errorf("read the kernel's version: %w", err)
	}
	k.types = btf.NewCache()
	if k.btf, err = k.types.Kernel(); err != nil {
		return nil, fmt.Errorf("read the BTF of kernel %s: %w (a kernel built with CONFIG_DEBUG_INFO_BTF=y has it, "+
			"in /sys/kernel/btf/vmlinux)", k.Release, err)
	}
	return k, nil
}

// arguments is how many arguments a tracepoint passes, 0 if the kernel has no such tracepoint.
func (k *Kernel) arguments(tracepoint string) int {
	var typedef *btf.Typedef
	if err := k.btf.TypeByName("btf_trace_"+tracepoint, &typedef); err != nil {
		return 0 // whatever attaches to it will tell
	}
	if pointer, ok := typedef.Type.(*btf.Pointer); ok {
		if proto, ok := pointer.Target.(*btf.FuncProto); ok {
			return len(proto.Params) - 1 // the first is the tracepoint's own
		}
	}
	return 0
}

// enum is the names of an enumeration's values, by its name in the kernel; nil if there is none.
func (k *Kernel) enum(name string) map[uint64]string {
	names, known := k.enums[name]
	if known {
		return names
	}
	var enum *btf.Enum
	if err := k.btf.TypeByName(name, &enum); err == nil {
		names = enumNames(enum)
	}
	if k.enums == nil {
		k.enums = make(map[string]map[uint64]string)
	}
	k.enums[name] = names
	return names
}

func enumNames(enum *btf.Enum) map[uint64]string {
	names := make(map[uint64]string, len(enum.Values))
	for _, value := range enum.Values {
		if names[value.Value] == "" { // the first of several
			names[value.Value] = value.Name
		}
	}
	return names
}

// taskStorage tells whether tracing programs have task storage.
func (k *Kernel) taskStorage() bool { return k.atLeast(5, 12) }

// recursionGuard tells whether a program that is running on its CPU is skipped there.
func (k *Kernel) recursionGuard() bool { return k.atLeast(6, 1) }

// preemptibleTracepoints tells whether a tracepoint can be preempted.
func (k *Kernel) preemptibleTracepoints() bool { return k.atLeast(7, 0) }

// Supports tells whether the kernel is new enough for a probe.
func (k *Kernel) Supports(spec *Spec) bool { return k.atLeast(spec.Since[0], spec.Since[1]) }

func (k *Kernel) atLeast(major, minor uint32) bool { return k.version >= major<<16|minor<<8 }

// explain adds what is known of the cause and what to do about it to an error of the kernel's.
func (k *Kernel) explain(err error, needs string) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return hintedError{err, "(run as root, or with CAP_BPF and CAP_PERFMON; before Linux 5.11 with LimitMEMLOCK=infinity, too)"}
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w (lower memory_limit, or raise the limit on the memory of the process)", err)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE),
		strings.Contains(err.Error(), unix.EMFILE.Error()): // which cilium/ebpf keeps as text alone in places
		return fmt.Errorf("%w (raise the limit on open files: LimitNOFILE=1024 in a unit, or ulimit -n 1024)", err)
	}
	return fmt.Errorf("%w (it needs %s; this is %s)", err, needs, k.Release)
}

// hintedError is an error of cilium/ebpf's with our hint instead of its own, which is for programmers.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Error() string {
	text := strings.ReplaceAll(e.error.Error(), " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", "")
	return text + " " + e.hint
}

func (e hintedError) Unwrap() error { return e.error }

// retrySuffix is in the names of the programs that handle what another was skipped for (bpf/preemption.bpf.h), before their
// number.
const retrySuffix = "_retry"

func isRetry(program string) bool { return strings.Contains(program, retrySuffix) }

// retries tells whether the kernel needs a retry: where it can preempt programs, and where it skips them, the first retry of
// one on top of which an interrupt's event may come, whose collection says so by a constant NAME_interrupted.
func (k *Kernel) retries(spec *ebpf.CollectionSpec, retry string) bool {
	interrupted, first := strings.CutSuffix(retry, retrySuffix+"1")
	return k.preemptibleTracepoints() || k.recursionGuard() && first && spec.Variables[interrupted+"_interrupted"] != nil
}

// configure answers the questions that a collection asks of the kernel (bpf/compat.bpf.h), leaves out what this kernel does
// not need of it, and makes room for all of its CPUs.
func (k *Kernel) configure(spec *ebpf.CollectionSpec) error {
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return isRetry(name) && !k.retries(spec, name) })
	if !k.preemptibleTracepoints() { // bpf/preemption.bpf.h
		if handled := spec.Maps["handled"]; handled != nil {
			handled.MaxEntries = 1 // not used
		}
	}
	cpus := uint32(k.PossibleCPUs)
	for name, m := range spec.Maps {
		switch {
		case strings.HasSuffix(name, "_cache"), strings.HasSuffix(name, "_by_cpu"): // SLOT_CACHE, CPU_STATE
			m.MaxEntries *= cpus
		case m.Type == ebpf.TaskStorage: // TASK_STATE
			k.configureTaskState(spec, name)
		}
	}
	errs := []error{setIfAsked(spec, "kernel_version", k.version)}
	for name, variable := range spec.Variables {
		if tracepoint, ok := strings.CutPrefix(name, "arguments_"); ok {
			errs = append(errs, variable.Set(uint32(k.arguments(tracepoint))))
		}
	}
	return errors.Join(errs...)
}

// configureTaskState fits one of the two maps of a TASK_STATE to the kernel. No program that it loads refers to the other.
func (k *Kernel) configureTaskState(spec *ebpf.CollectionSpec, name string) {
	byAddress := spec.Maps[name+"_by_address"]
	if k.taskStorage() {
		byAddress.MaxEntries = 1
		delete(spec.Programs, name+"_freed")
		return
	}
	spec.Maps[name] = byAddress.Copy() // of a type that the kernel knows
	spec.Maps[name].MaxEntries = 1
	byAddress.MaxEntries = max(byAddress.MaxEntries, 1024*uint32(k.PossibleCPUs)) // as pid_max (kernel/pid.c)
}
