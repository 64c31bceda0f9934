package series

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// membarrierGlobal is MEMBARRIER_CMD_GLOBAL of include/uapi/linux/membarrier.h.
const membarrierGlobal = 1

// Quiesce returns when every run of a program that was under way at the call has ended and what it wrote can be read. It
// takes some milliseconds.
func Quiesce() error {
	// MEMBARRIER_CMD_GLOBAL is synchronize_rcu(), and tracing programs run inside an RCU read-side section. With
	// nohz_full CPUs it is refused (kernel/sched/membarrier.c).
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	switch {
	case errno == 0:
		return nil
	case errors.Is(errno, unix.EINVAL), errors.Is(errno, unix.ENOSYS), errors.Is(errno, unix.EPERM):
		return quiesceByMap()
	}
	return fmt.Errorf("membarrier: %w", errno)
}

// quiesceByMap uses that an update of a map of maps waits for all running programs (kernel/bpf/syscall.c,
// maybe_wait_bpf_programs).
func quiesceByMap() error {
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner,
	})
	if err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	defer outer.Close()
	m, err := ebpf.NewMap(inner)
	if err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	defer m.Close()
	if err := outer.Put(uint32(0), m); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}
