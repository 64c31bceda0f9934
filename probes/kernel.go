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

	prevState bool // sched_switch passes the state of the task that gives way
	groupDead bool // sched_process_exit tells whether it is the last thread's
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
	if k.prevState, err = k.hasArgument("sched_switch", 4); err != nil {
		return nil, err
	}
	if k.groupDead, err = k.hasArgument("sched_process_exit", 2); err != nil {
		return nil, err
	}
	return k, nil
}

// hasArgument tells whether a tracepoint that the kernel has passes that many arguments.
func (k *Kernel) hasArgument(tracepoint string, number int) (bool, error) {
	var typedef *btf.Typedef
	if err := k.btf.TypeByName("btf_trace_"+tracepoint, &typedef); errors.Is(err, btf.ErrNotFound) {
		return false, nil // the probe that attaches to it will tell
	} else if err != nil {
		return false, fmt.Errorf("read the type of the tracepoint %s: %w", tracepoint, err)
	}
	pointer, ok := typedef.Type.(*btf.Pointer)
	if !ok {
		return false, fmt.Errorf("btf_trace_%s is not a pointer", tracepoint)
	}
	proto, ok := pointer.Target.(*btf.FuncProto)
	if !ok {
		return false, fmt.Errorf("btf_trace_%s is not a function", tracepoint)
	}
	return len(proto.Params) > number, nil // the first is the tracepoint's own
}

func (k *Kernel) taskStorage() bool { return k.atLeast(5, 12) }

func (k *Kernel) taskStorageAnywhere() bool { return k.atLeast(6, 4) }

func (k *Kernel) preemptibleTracepoints() bool { return k.atLeast(7, 0) }

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

// configure answers the questions that a collection asks of the kernel (bpf/compat.bpf.h, bpf/preemption.bpf.h), and
// makes room for all of the kernel's CPUs.
func (k *Kernel) configure(spec *ebpf.CollectionSpec) error {
	if !k.preemptibleTracepoints() {
		maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
			return isRetry(name)
		})
		if handled := spec.Maps["handled"]; handled != nil {
			handled.MaxEntries = 1 // not used
		}
	}
	for name, m := range spec.Maps {
		if strings.HasSuffix(name, "_cache") { // SLOT_CACHE
			m.MaxEntries *= uint32(k.PossibleCPUs)
		}
	}
	var errs []error
	for name, answer := range map[string]bool{
		"has_prev_state":              k.prevState,
		"has_group_dead":              k.groupDead,
		"has_task_storage":            k.taskStorage(),
		"has_task_storage_anywhere":   k.taskStorageAnywhere(),
		"has_preemptible_tracepoints": k.preemptibleTracepoints(),
	} {
		errs = append(errs, setIfAsked(spec, name, answer))
	}
	return errors.Join(errs...)
}
