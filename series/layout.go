// Package series is the user-space side of the mechanism in bpf/series.bpf.h: key -> slot -> cells. A Table reads the
// values of a running BPF program's series from memory that it shares with the kernel, and gives slots back.
package series

import (
	"fmt"
	"math/bits"
	"os"

	"github.com/cilium/ebpf"
)

// Overflow is the slot of the series that takes the events of all keys without a slot of their own.
const Overflow = 0

// Layout is the size of a table.
type Layout struct {
	KeySize  int // bytes
	InfoSize int // bytes
	CellSize int // bytes
	Slots    int // the overflow slot included
	Shards   int // copies of each cell, a power of two
}

// Shards returns how many copies of a cell keep the CPUs from contending: the next power of two, at most limit. More than
// 8 cost memory and time to read, and gain little.
func Shards(cpus, limit int) int {
	if cpus > limit {
		cpus = limit
	}
	return 1 << bits.Len(uint(cpus-1))
}

// LayoutOf reads the sizes of a table's types from its maps, for one slot and one shard.
func LayoutOf(spec *ebpf.CollectionSpec, name string) (Layout, error) {
	for _, suffix := range []string{"_keys", "_free", "_info", "_cells"} {
		if spec.Maps[name+suffix] == nil {
			return Layout{}, fmt.Errorf("collection has no map %s%s", name, suffix)
		}
	}
	return Layout{
		KeySize:  int(spec.Maps[name+"_keys"].KeySize),
		InfoSize: align(int(spec.Maps[name+"_info"].ValueSize), 8),
		CellSize: align(int(spec.Maps[name+"_cells"].ValueSize), 8),
		Slots:    1,
		Shards:   1,
	}, nil
}

// Memory is what the table's maps take in the kernel, in bytes, on a machine with that many possible CPUs. The
// sizes are those of kernel/bpf/hashtab.c, queue_stack_maps.c and arraymap.c.
func (l Layout) Memory(possibleCPUs int) uint64 {
	const (
		mapHeader   = 1024 // struct bpf_htab or bpf_queue_stack, generously
		hashElement = 48   // struct htab_elem
		hashBucket  = 16   // struct bucket
		hashLocks   = 8    // map_locked counters a CPU, 4 bytes each
	)
	keys := l.Slots + possibleCPUs // one spare element a CPU
	hash := keys*(hashElement+align(l.KeySize, 8)+8) + (1<<bits.Len(uint(l.Slots-1)))*hashBucket +
		possibleCPUs*(hashLocks*4+8)
	queue := (l.Slots + 1) * 4
	// The header of an array that can be mapped has a page of its own.
	info := pages(1) + pages(l.Slots*l.InfoSize)
	cells := pages(1) + pages(l.Slots*l.Shards*l.CellSize)
	return uint64(2*mapHeader + hash + queue + info + cells)
}

// Configure sizes the table's maps in a collection that is not loaded yet.
func (l Layout) Configure(spec *ebpf.CollectionSpec, name string) error {
	slots := uint32(l.Slots)
	spec.Maps[name+"_keys"].MaxEntries = slots
	spec.Maps[name+"_free"].MaxEntries = slots
	spec.Maps[name+"_info"].MaxEntries = slots
	spec.Maps[name+"_cells"].MaxEntries = slots * uint32(l.Shards)
	for variable, value := range map[string]uint32{"_slots": slots, "_shards": uint32(l.Shards)} {
		if err := spec.Variables[name+variable].Set(value); err != nil {
			return fmt.Errorf("set %s%s: %w", name, variable, err)
		}
	}
	return nil
}

func align(n, to int) int { return (n + to - 1) / to * to }

func pages(n int) int { return align(n, os.Getpagesize()) }
