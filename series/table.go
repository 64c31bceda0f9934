package series

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
)

// Table is one table of a loaded collection. It is not safe for concurrent use; the BPF programs may run all the time.
//
// A slot is free, then claimed and made live by a program, then known here by Fresh. Unpublish takes its key away, so that
// after a Quiesce no program writes to it, and Recycle makes it free again.
type Table struct {
	name   string
	layout Layout
	keys   *ebpf.Map
	free   *ebpf.Map
	full   *ebpf.Variable
	info   *memory
	cells  *memory // mapped by chunk
	mapped []bool  // by chunk
	known  []bool  // by slot
	used   int     // slots known, without the overflow slot
}

// The words of struct NAME_info.
const (
	infoCreated = iota
	infoLive
	infoStart
	infoKey
)

// chunks is how many parts the cells of a shard are mapped in, each when a slot of it is first known: pages of a kernel's map
// count as resident memory of the process wherever they are mapped, used or not.
const chunks = 32

// Open maps the table's memory and hands its free slots to the kernel, unless an earlier process has: then its series are Fresh
// again. The maps stay the collection's.
func Open(coll *ebpf.Collection, name string, layout Layout, taken bool) (*Table, error) {
	t := &Table{
		name:   name,
		layout: layout,
		keys:   coll.Maps[name+"_keys"],
		free:   coll.Maps[name+"_free"],
		full:   coll.Variables[name+"_full"],
		mapped: make([]bool, chunks),
		known:  make([]bool, layout.Slots),
	}
	var err error
	if t.info, err = reserve(coll.Maps[name+"_info"], layout.Slots*layout.InfoSize); err == nil {
		err = t.info.share(0, layout.Slots*layout.InfoSize)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map %s_info into memory: %w", name, err), t.Close())
	}
	if t.cells, err = reserve(coll.Maps[name+"_cells"], layout.Slots*layout.Shards*layout.CellSize); err == nil {
		err = t.mapCells(Overflow)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map %s_cells into memory: %w", name, err), t.Close())
	}
	for slot := Overflow + 1; slot < layout.Slots && !taken; slot++ {
		if err := t.free.Put(nil, uint32(slot)); err != nil {
			return nil, errors.Join(fmt.Errorf("fill %s_free: %w", name, err), t.Close())
		}
	}
	t.known[Overflow] = true
	return t, nil
}

// Close unmaps the memory.
func (t *Table) Close() error {
	err := errors.Join(t.info.release(), t.cells.release())
	t.info, t.cells = nil, nil
	return err
}

// mapCells maps the cells of the slot, and of those around it.
func (t *Table) mapCells(slot int) error {
	size := (t.layout.Slots + chunks - 1) / chunks
	chunk := slot / size
	if t.mapped[chunk] {
		return nil
	}
	first, end := chunk*size, min((chunk+1)*size, t.layout.Slots)
	for shard := range t.layout.Shards {
		start := shard * t.layout.Slots
		if err := t.cells.share((start+first)*t.layout.CellSize, (start+end)*t.layout.CellSize); err != nil {
			return err
		}
	}
	t.mapped[chunk] = true
	return nil
}

// Layout returns the table's size.
func (t *Table) Layout() Layout { return t.layout }

// Used is the number of slots known and not recycled, the overflow slot not included.
func (t *Table) Used() int { return t.used }

// Free is the number of slots that a program may still claim.
func (t *Table) Free() int { return t.layout.Slots - 1 - t.used }

// Fresh appends to slots those that have become live since the last call. Their keys may be read after a Quiesce. What an
// error leaves out, the next call returns.
func (t *Table) Fresh(slots []uint32) ([]uint32, error) {
	words := t.layout.InfoSize / 8
	for slot := range t.known {
		if t.known[slot] || atomic.LoadUint64(&t.info.words[slot*words+infoLive]) == 0 {
			continue
		}
		if err := t.mapCells(slot); err != nil {
			return slots, fmt.Errorf("map %s_cells into memory: %w", t.name, err)
		}
		t.known[slot] = true
		t.used++
		slots = append(slots, uint32(slot))
	}
	return slots, nil
}

// Key returns the slot's key, in memory shared with the kernel: valid until the slot is recycled.
func (t *Table) Key(slot uint32) []byte {
	word := int(slot)*t.layout.InfoSize/8 + infoKey
	return unsafe.Slice((*byte)(unsafe.Pointer(&t.info.words[word])), t.layout.KeySize)
}

// Created is when the slot's series began, in ns of CLOCK_MONOTONIC.
func (t *Table) Created(slot uint32) uint64 {
	return atomic.LoadUint64(&t.info.words[int(slot)*t.layout.InfoSize/8+infoCreated])
}

// SetCreated changes when the slot's series began.
func (t *Table) SetCreated(slot uint32, ns uint64) {
	atomic.StoreUint64(&t.info.words[int(slot)*t.layout.InfoSize/8+infoCreated], ns)
}

// Start is when the slot's series began in wall time, in ns, as told to a receiver; 0: it was not told yet. It is kept with
// the series, for a process that goes on with it.
func (t *Table) Start(slot uint32) uint64 {
	return atomic.LoadUint64(&t.info.words[int(slot)*t.layout.InfoSize/8+infoStart])
}

// SetStart notes when the slot's series began in wall time, in ns.
func (t *Table) SetStart(slot uint32, ns uint64) {
	atomic.StoreUint64(&t.info.words[int(slot)*t.layout.InfoSize/8+infoStart], ns)
}

// Add adds to sums the words of the slot's cell from offset (bytes) on, over all shards.
func (t *Table) Add(sums []uint64, slot uint32, offset uintptr) {
	for shard := range t.layout.Shards {
		cell := t.cell(slot, shard)[offset/8:][:len(sums)]
		for i := range sums {
			sums[i] += atomic.LoadUint64(&cell[i])
		}
	}
}

// Value is the word at offset (bytes) of the slot's cell, summed over all shards.
func (t *Table) Value(slot uint32, offset uintptr) uint64 {
	var sum [1]uint64
	t.Add(sum[:], slot, offset)
	return sum[0]
}

// Cell is the slot's cell in the first shard, in memory shared with the kernel: valid until the slot is recycled.
func (t *Table) Cell(slot uint32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&t.cell(slot, 0)[0])), t.layout.CellSize)
}

// Fold adds the values of one slot to another's, whose series then began when the earlier of the two did. The slot that is
// taken from must be quiet: unpublished before the last Quiesce.
func (t *Table) Fold(from, to uint32) {
	target := t.cell(to, 0)
	sums := make([]uint64, len(target))
	t.Add(sums, from, 0)
	for i, n := range sums {
		if n != 0 {
			atomic.AddUint64(&target[i], n)
		}
	}
	if created := t.Created(from); created < t.Created(to) {
		t.SetCreated(to, created)
	}
}

// Published tells whether programs count in the slot, after a Quiesce. Of what an earlier process has left, some may be unpublished
// and not recycled.
func (t *Table) Published(slot uint32) (bool, error) {
	var published uint32
	err := t.keys.Lookup(t.Key(slot), &published)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look a key up in %s_keys: %w", t.name, err)
	}
	return published == slot, nil
}

// Unpublish takes the slots' keys out of the kernel's table. After the next Quiesce nothing adds to the slots.
func (t *Table) Unpublish(slots ...uint32) error {
	for _, slot := range slots {
		if err := t.keys.Delete(t.Key(slot)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete a key from %s_keys: %w", t.name, err)
		}
	}
	return nil
}

// Recycle clears quiet slots and makes them free.
func (t *Table) Recycle(slots ...uint32) error {
	for _, slot := range slots {
		for shard := range t.layout.Shards {
			clear(t.cell(slot, shard))
		}
		words := t.layout.InfoSize / 8
		clear(t.info.words[int(slot)*words:][:words])
		t.known[slot] = false
		t.used--
		if err := t.free.Put(nil, slot); err != nil {
			return fmt.Errorf("give a slot back to %s_free: %w", t.name, err)
		}
	}
	return nil
}

// Reopen lets the programs try for a slot again if they have given up while there was none.
func (t *Table) Reopen() error {
	if t.Free() == 0 {
		return nil
	}
	return t.full.Set(uint32(0))
}

func (t *Table) cell(slot uint32, shard int) []uint64 {
	words := t.layout.CellSize / 8
	return t.cells.words[(shard*t.layout.Slots+int(slot))*words:][:words]
}
