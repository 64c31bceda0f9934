package probes

import (
	"encoding/binary"
	"unsafe"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

// lockTypes are the names by which perf lock contention knows the flags of a lock (tools/perf/builtin-lock.c).
var lockTypes = map[uint64]string{
	0:                        "semaphore",
	lockSpin:                 "spinlock",
	lockSpin | lockRead:      "rwlock:R",
	lockSpin | lockWrite:     "rwlock:W",
	lockRead:                 "rwsem:R",
	lockWrite:                "rwsem:W",
	lockRealTime:             "rt-mutex",
	lockRealTime | lockRead:  "rwlock-rt:R",
	lockRealTime | lockWrite: "rwlock-rt:W",
	lockPerCPU | lockRead:    "pcpu-sem:R",
	lockPerCPU | lockWrite:   "pcpu-sem:W",
	lockMutex:                "mutex",
}

// The flags of a lock, LCB_F_* in include/trace/events/lock.h.
const (
	lockSpin = 1 << iota
	lockRead
	lockWrite
	lockRealTime
	lockPerCPU
	lockMutex
)

// lockType is the name of the flags, or what OpenTelemetry calls a value that is none of the known.
func lockType(flags uint64) string {
	if name := lockTypes[flags]; name != "" {
		return name
	}
	return "_OTHER"
}

func locks() *Spec {
	const lockTypeKey = "linux.lock.type"
	return &Spec{
		Name:        "locks",
		Description: "Locks of the kernel: how long was waited for them",
		Cost:        Cost{Medium, "0.6 us a wait for a mutex, nothing where a lock is free"},
		Since:       [2]uint32{6, 1},
		Limits: "Locks that programs have among themselves are not the kernel's. A wait that goes on when the probe begins is not " +
			"counted, and a missed event, unmatched. Of spinlocks the kernel tells, unless it is a guest, only the waits behind another that waits.",
		Version: "1",
		Load:    bpf.LoadLocks,
		Tables: []TableSpec{{
			Name:      "waits",
			MaxShards: 8,
			Global:    true,
			MaxSeries: 2 * len(lockTypes),
			Decode: func(_ *Kernel, key []byte) Key {
				return Key{Attributes: []Attribute{{lockTypeKey, lockType(binary.NativeEndian.Uint64(key))}}}
			},
			Instruments: []Instrument{{
				Name:        "linux.lock.contention.duration",
				Unit:        "s",
				Description: "How long tasks and interrupts waited for locks of the kernel that were taken, spinning or asleep",
				Kind:        Histogram,
				Attributes:  []string{lockTypeKey},
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.LocksWaitCell{}.Duration)}},
				Range:       latencyRange,
			}},
		}},
	}
}
