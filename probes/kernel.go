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

// tracepointArguments is the number of arguments that a tracepoint passes; an error that wraps btf.ErrNotFound if the kernel
// has no such tracepoint.
func (k *Kernel) tracepointArguments(name string) (int, error) {
	var typedef *btf.Typedef
	if err := k.btf.TypeByName("btf_trace_"+name, &typedef); err != nil {
		return 0, fmt.Errorf("kernel %s has no tracepoint %s: %w", k.Release, name, err)
	}
	pointer, ok := typedef.Type.(*btf.Pointer)
	if !ok {
		return 0, fmt.Errorf("btf_trace_%s is not a pointer", name)
	}
	proto, ok := pointer.Target.(*btf.FuncProto)
	if !ok {
		return 0, fmt.Errorf("btf_trace_%s is not a function", name)
	}
	return len(proto.Params) - 1, nil // the first is the tracepoint's own
}

func (k *Kernel) hasArgument(tracepoint string, number int) bool {
	n, err := k.tracepointArguments(tracepoint)
	return err == nil && n >= number
}

func (k *Kernel) prevState() bool { return k.hasArgument("sched_switch", 4) }

func (k *Kernel) groupDead() bool { return k.hasArgument("sched_process_exit", 2) }

func (k *Kernel) taskStorage() bool { return k.atLeast(5, 12) }

func (k *Kernel) taskStorageAnywhere() bool { return k.atLeast(6, 4) }

func (k *Kernel) preemptibleTracepoints() bool { return k.atLeast(7, 0) }

func (k *Kernel) atLeast(major, minor uint32) bool { return k.version >= major<<16|minor<<8 }

// retrySuffix is in the names of the programs that handle what another was skipped for (bpf/preemption.bpf.h), before their
// number.
const retrySuffix = "_retry"

func isRetry(program string) bool { return strings.Contains(program, retrySuffix) }

// configure answers the questions that a collection asks of the kernel (bpf/compat.bpf.h, bpf/preemption.bpf.h).
func (k *Kernel) configure(spec *ebpf.CollectionSpec) error {
	if !k.preemptibleTracepoints() {
		maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
			return isRetry(name)
		})
	}
	var errs []error
	for name, answer := range map[string]func() bool{
		"has_prev_state":              k.prevState,
		"has_group_dead":              k.groupDead,
		"has_task_storage":            k.taskStorage,
		"has_task_storage_anywhere":   k.taskStorageAnywhere,
		"has_preemptible_tracepoints": k.preemptibleTracepoints,
	} {
		errs = append(errs, setIfAsked(spec, name, answer()))
	}
	return errors.Join(errs...)
}
