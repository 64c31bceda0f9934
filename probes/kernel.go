package probes

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Kernel is what the loader must know of the running kernel.
type Kernel struct {
	Release      string // as uname -r prints it
	PossibleCPUs int
	btf          *btf.Spec
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
	if k.btf, err = btf.LoadKernelSpec(); err != nil {
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

func (k *Kernel) taskStorage() bool { return features.HaveMapType(ebpf.TaskStorage) == nil }

func (k *Kernel) taskStorageAnywhere() bool {
	version, err := features.LinuxVersionCode()
	return err == nil && version >= 6<<16|4<<8
}

// configure answers the questions of bpf/compat.bpf.h in a collection that asks them.
func (k *Kernel) configure(spec *ebpf.CollectionSpec) error {
	var errs []error
	for name, answer := range map[string]func() bool{
		"has_prev_state":            k.prevState,
		"has_group_dead":            k.groupDead,
		"has_task_storage":          k.taskStorage,
		"has_task_storage_anywhere": k.taskStorageAnywhere,
	} {
		errs = append(errs, setIfAsked(spec, name, answer()))
	}
	return errors.Join(errs...)
}
