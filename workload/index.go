// Package workload tells which workload a cgroup is: its container, its pod, its systemd unit. Cgroups are learned by the
// BPF programs (bpf/workload.bpf.h); this package reads what they learned.
package workload

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unsafe"

	"github.com/ebpf-sidecar/sidecar/bpf"
	"github.com/ebpf-sidecar/sidecar/series"
)

// Index holds the cgroups that the kernel side knows. It is not safe for concurrent use.
type Index struct {
	table *series.Table
	slots map[uint64]uint32 // by cgroup id
	ids   map[uint64]Identity
	ended map[uint64]bool // unpublished
}

// NewIndex returns an index over the table "cgroups" of bpf/workload.bpf.h.
func NewIndex(table *series.Table) *Index {
	return &Index{table: table, slots: make(map[uint64]uint32), ids: make(map[uint64]Identity), ended: make(map[uint64]bool)}
}

// Learn takes in the slots that table.Fresh found, after a Quiesce.
func (x *Index) Learn(fresh []uint32) {
	for _, slot := range fresh {
		x.slots[binary.NativeEndian.Uint64(x.table.Key(slot))] = slot
	}
}

// TakeOver takes in the slots that an earlier process left, after a Quiesce, and returns the cgroups among them that it had
// unpublished.
func (x *Index) TakeOver(left []uint32) (ended []uint64, err error) {
	x.Learn(left)
	for _, slot := range left {
		published, err := x.table.Published(slot)
		if err != nil {
			return nil, err
		}
		if !published {
			id := binary.NativeEndian.Uint64(x.table.Key(slot))
			x.ended[id] = true
			ended = append(ended, id)
		}
	}
	return ended, nil
}

// Lookup returns the identity of a cgroup; false if it is not known, or not all of its ancestors are.
func (x *Index) Lookup(cgroup uint64) (Identity, bool) {
	if id, ok := x.ids[cgroup]; ok {
		return id, true
	}
	path, ok := x.path(cgroup)
	if !ok {
		return Identity{}, false
	}
	id := identify(path)
	x.ids[cgroup] = id
	return id, true
}

func (x *Index) path(cgroup uint64) (string, bool) {
	var names []string
	for {
		slot, ok := x.slots[cgroup]
		if !ok {
			return "", false
		}
		entry := x.entry(slot)
		if entry.Parent == 0 {
			break
		}
		names = append(names, name(entry))
		cgroup = entry.Parent
	}
	var path strings.Builder
	for i := len(names) - 1; i >= 0; i-- {
		path.WriteString("/" + names[i])
	}
	if path.Len() == 0 {
		return "/", true
	}
	return path.String(), true
}

// Removed returns the ids of the cgroups that were removed before a time, in ns of CLOCK_MONOTONIC, and are published.
func (x *Index) Removed(before uint64) []uint64 {
	var removed []uint64
	for id, slot := range x.slots {
		if at := x.entry(slot).Removed; at != 0 && at < before && !x.ended[id] {
			removed = append(removed, id)
		}
	}
	return removed
}

// Unpublish has the programs forget cgroups. They are known here until Forget.
func (x *Index) Unpublish(cgroups []uint64) error {
	for _, id := range cgroups {
		if err := x.table.Unpublish(x.slots[id]); err != nil {
			return err
		}
		x.ended[id] = true
	}
	return nil
}

// Forget gives the slots of unpublished cgroups back, after a Quiesce.
func (x *Index) Forget(cgroups []uint64) error {
	for _, id := range cgroups {
		slot := x.slots[id]
		delete(x.slots, id)
		delete(x.ids, id)
		delete(x.ended, id)
		if err := x.table.Recycle(slot); err != nil {
			return err
		}
	}
	return nil
}

func (x *Index) entry(slot uint32) *bpf.WorkloadCgroupEntry {
	return (*bpf.WorkloadCgroupEntry)(unsafe.Pointer(&x.table.Cell(slot)[0]))
}

func name(entry *bpf.WorkloadCgroupEntry) string {
	b := unsafe.Slice((*byte)(unsafe.Pointer(&entry.Name[0])), len(entry.Name))
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	return string(b)
}
