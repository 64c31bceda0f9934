package series

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Quiesce returns when every run of a program that was under way at the call has ended and what it wrote can be read. It
// takes some milliseconds.
func Quiesce() error {
	if err := quiesce(); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}

// An update of a map of maps is followed by synchronize_rcu(), so that the caller may read the map that it took away
// (kernel/bpf/syscall.c, maybe_wait_bpf_programs, 1ae80cf31938), and programs run inside an RCU read-side section. The
// same is behind MEMBARRIER_CMD_GLOBAL, but that is refused with nohz_full CPUs, and does nothing on a machine with one CPU,
// where a program may be preempted half way (in a tracepoint too: seen on 7.2).
func quiesce() error {
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner,
	})
	if err != nil {
		return err
	}
	m, err := ebpf.NewMap(inner)
	if err != nil {
		return errors.Join(err, outer.Close())
	}
	return errors.Join(outer.Put(uint32(0), m), m.Close(), outer.Close())
}
