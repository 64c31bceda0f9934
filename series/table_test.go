package series

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

//go:generate ../scripts/bpf2go.sh sample testdata/sample.bpf.c

const (
	offsetEvents = unsafe.Offsetof(sampleSampleCell{}.Events)
	offsetSum    = unsafe.Offsetof(sampleSampleCell{}.Sum)
)

// sample is a table, and the program of testdata/sample.bpf.c that counts in it.
type sample struct {
	*Table
	t    testing.TB
	coll *ebpf.Collection
}

func newSample(t testing.TB, slots, shards int) *sample {
	t.Helper()
	kerneltest.NeedRoot(t)
	spec, err := loadSample()
	if err != nil {
		t.Fatal(err)
	}
	delete(spec.Programs, "slow")
	layout, err := LayoutOf(spec, "samples")
	if err != nil {
		t.Fatal(err)
	}
	layout.Slots, layout.Shards = slots, shards
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps["samples_cache"].MaxEntries *= uint32(cpus)
	if err := layout.Configure(spec, "samples"); err != nil {
		t.Fatal(err)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(coll.Close)
	table, err := Open(coll, "samples", layout, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return &sample{table, t, coll}
}

const maxKeys = 256 // of sample.bpf.c, in one run

// run counts one event of each of n numbers, from first on. It may be called from any goroutine.
func (s *sample) run(first, n, value uint64) error { return s.runProgram("count", first, n, value) }

func (s *sample) runProgram(name string, first, n, value uint64) error {
	packet := make([]byte, 14) // an Ethernet header: the program sees what follows
	for _, word := range []uint64{first, n, value} {
		packet = binary.NativeEndian.AppendUint64(packet, word)
	}
	failed, err := s.coll.Programs[name].Run(&ebpf.RunOptions{Data: packet, Repeat: 1})
	if err == nil && failed != 0 {
		err = errors.New("the program found no cell")
	}
	return err
}

func (s *sample) count(first, n, value uint64) {
	s.t.Helper()
	for ; n > 0; n -= min(n, maxKeys) {
		if err := s.run(first, min(n, maxKeys), value); err != nil {
			s.t.Fatal(err)
		}
		first += maxKeys
	}
}

func (s *sample) number(slot uint32) uint64 {
	key := s.Key(slot)
	return uint64(binary.NativeEndian.Uint32(key))<<32 | uint64(binary.NativeEndian.Uint32(key[4:]))
}

func (s *sample) get(variable string, value any) {
	s.t.Helper()
	if err := s.coll.Variables[variable].Get(value); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sample) full() bool {
	s.t.Helper()
	var full uint32
	s.get("samples_full", &full)
	return full != 0
}

// fresh returns the slots that are new, after a Quiesce.
func (s *sample) fresh() []uint32 {
	s.t.Helper()
	slots, err := s.Fresh(nil)
	s.must(errors.Join(err, Quiesce()))
	return slots
}

func (s *sample) retire(slots []uint32) {
	s.t.Helper()
	s.must(s.Unpublish(slots...))
	s.must(Quiesce())
	s.must(s.Recycle(slots...))
	s.must(s.Reopen())
}

func (s *sample) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// total is the number of events in all series.
func (s *sample) total() (events uint64) {
	for slot := range s.layout.Slots {
		events += s.Value(uint32(slot), offsetEvents)
	}
	return events
}

// checkSlots checks that every slot but the overflow slot is either some key's or free, and once. It empties the queue of
// free slots for that and fills it again, so no program may run.
func (s *sample) checkSlots() {
	s.t.Helper()
	owners := make([]string, s.layout.Slots)
	owners[Overflow] = "overflow"
	own := func(slot uint32, owner string) {
		if owners[slot] != "" {
			s.t.Errorf("slot %d belongs to %s and %s", slot, owners[slot], owner)
		}
		owners[slot] = owner
	}
	var key sampleSampleKey
	var slot uint32
	keys := s.keys.Iterate()
	for keys.Next(&key, &slot) {
		own(slot, fmt.Sprintf("key %d", uint64(key.High)<<32|uint64(key.Low)))
	}
	s.must(keys.Err())
	var free []uint32
	for s.free.LookupAndDelete(nil, &slot) == nil {
		own(slot, "no key")
		free = append(free, slot)
	}
	for slot, owner := range owners {
		if owner == "" {
			s.t.Errorf("slot %d is lost", slot)
		}
	}
	for _, slot := range free {
		s.must(s.free.Put(nil, slot))
	}
	if len(free) != s.Free() {
		s.t.Errorf("%d slots are free, not %d", len(free), s.Free())
	}
	var missed [3]uint64
	if s.get("missed", &missed); missed != [3]uint64{} {
		s.t.Errorf("missed %v", missed)
	}
}

func monotonic(t testing.TB) uint64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return uint64(now.Nano())
}

// onEachCPU runs f on a thread of its own for each CPU that there is, all at once if together.
func onEachCPU(t testing.TB, together bool, f func(cpu int) error) (cpus int) {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	var threads sync.WaitGroup
	for cpu := range len(set) * 64 {
		if !set.IsSet(cpu) {
			continue
		}
		cpus++
		threads.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends
			var only unix.CPUSet
			only.Set(cpu)
			if err := errors.Join(unix.SchedSetaffinity(0, &only), f(cpu)); err != nil {
				t.Errorf("on CPU %d: %v", cpu, err)
			}
		})
		if !together {
			threads.Wait()
		}
	}
	threads.Wait()
	return cpus
}

func TestSeries(t *testing.T) {
	s := newSample(t, 16, 2)
	if fresh := s.fresh(); len(fresh) != 0 || s.Used() != 0 || s.Free() != 15 {
		t.Fatalf("before the first event: fresh %v, %d used, %d free", fresh, s.Used(), s.Free())
	}
	before := monotonic(t)
	s.count(1<<32+5, 3, 7)
	s.count(1<<32+5, 2, 70)
	after := monotonic(t)

	fresh := s.fresh()
	if len(fresh) != 3 || s.Used() != 3 || s.Free() != 12 {
		t.Fatalf("fresh %v, %d used, %d free; want 3, 3, 12", fresh, s.Used(), s.Free())
	}
	want := map[uint64][]uint64{1<<32 + 5: {2, 77}, 1<<32 + 6: {2, 77}, 1<<32 + 7: {1, 7}}
	for _, slot := range fresh {
		number := s.number(slot)
		got := make([]uint64, 2)
		s.Add(got, slot, offsetEvents)
		if !slices.Equal(got, want[number]) {
			t.Errorf("series %d is %v, want %v", number, got, want[number])
		}
		if sum := s.Value(slot, offsetSum); sum != got[1] {
			t.Errorf("series %d: the sum is %d alone, and %d with the events", number, sum, got[1])
		}
		if created := s.Created(slot); created < before || created > after {
			t.Errorf("series %d was created at %d, not between %d and %d", number, created, before, after)
		}
		delete(want, number)
	}
	if fresh := s.fresh(); len(fresh) != 0 {
		t.Errorf("fresh again: %v", fresh)
	}
	if n := s.Value(Overflow, offsetEvents); n != 0 || s.full() {
		t.Errorf("%d events in the overflow series, full %t", n, s.full())
	}
	s.checkSlots()
}

func TestValueSumsShards(t *testing.T) {
	const shards = 2
	s := newSample(t, 2, shards)
	var want [shards]uint64
	cpus := onEachCPU(t, false, func(cpu int) error {
		for range cpu + 1 {
			want[cpu&(shards-1)]++
			if err := s.run(1, 1, 0); err != nil {
				return err
			}
		}
		return nil
	})
	slot := s.fresh()[0]
	for shard, want := range want {
		if got := s.cell(slot, shard)[0]; got != want {
			t.Errorf("shard %d of %d CPUs: %d events, want %d", shard, cpus, got, want)
		}
	}
	if got := s.Value(slot, offsetEvents); got != want[0]+want[1] {
		t.Errorf("%d events, want %d", got, want[0]+want[1])
	}
}

// TestSlotCache counts more keys than a cache has entries, some of which share one, then retires some of them.
func TestSlotCache(t *testing.T) {
	const keys = 200
	s := newSample(t, 2*keys+1, 2)
	count := func(first, n uint64) {
		t.Helper()
		onEachCPU(t, false, func(int) error { return s.runProgram("count_cached", first, n, 3) })
	}
	events := func(slots []uint32) map[uint64]uint64 {
		all := make(map[uint64]uint64)
		for _, slot := range slots {
			all[s.number(slot)] += s.Value(slot, offsetEvents)
		}
		return all
	}
	first, rounds := rand.Uint64(), uint64(2+rand.IntN(5))
	t.Logf("%d rounds from key %d on", rounds, first)
	for range rounds {
		count(first, keys)
	}
	cpus := uint64(onEachCPU(t, false, func(int) error { return nil }))
	slots := s.fresh()
	got := events(slots)
	for key := first; key != first+keys; key++ {
		if got[key] != rounds*cpus {
			t.Errorf("key %d: %d events, want %d", key, got[key], rounds*cpus)
		}
	}
	if len(got) != keys {
		t.Errorf("%d keys, want %d", len(got), keys)
	}

	// The last is remembered until the epoch changes.
	last := slots[slices.IndexFunc(slots, func(slot uint32) bool { return s.number(slot) == first+keys-1 })]
	s.must(s.Unpublish(last))
	count(first+keys-1, 1)
	if n := s.Value(last, offsetEvents); n != (rounds+1)*cpus {
		t.Errorf("the key that was met last has %d events, want %d: it is not remembered", n, (rounds+1)*cpus)
	}
	s.must(s.coll.Variables["policy"].Set(samplePolicy{Epoch: 1}))
	count(first+keys-1, 1)
	if n := s.Value(last, offsetEvents); n != (rounds+1)*cpus {
		t.Errorf("the slot of a past epoch has %d events, want %d", n, (rounds+1)*cpus)
	}
	if fresh := s.fresh(); len(fresh) != 1 || s.Value(fresh[0], offsetEvents) != cpus {
		t.Errorf("the key has the slots %v in the new epoch, want one with %d events", fresh, cpus)
	}

	// The overflow slot is not remembered: what has none gets one when there is room.
	full := newSample(t, 2, 1)
	onEachCPU(t, false, func(int) error { return full.runProgram("count_cached", 0, 2, 1) })
	full.retire(full.fresh())
	onEachCPU(t, false, func(int) error { return full.runProgram("count_cached", 1, 1, 1) })
	if n := full.Value(Overflow, offsetEvents); n != cpus {
		t.Errorf("%d events in the overflow series, want %d", n, cpus)
	}
	if fresh := full.fresh(); len(fresh) != 1 || full.number(fresh[0]) != 1 {
		t.Errorf("the key that there was no room for has the slots %v, want one", fresh)
	}
}

func TestFull(t *testing.T) {
	s := newSample(t, 4, 1)
	s.count(1, 3, 10)
	if s.full() {
		t.Error("full before a key found no slot")
	}
	s.count(1, 5, 10)
	if events, sum := s.Value(Overflow, offsetEvents), s.Value(Overflow, offsetSum); events != 2 || sum != 20 {
		t.Errorf("overflow series: %d events, sum %d; want 2, 20", events, sum)
	}
	slots := s.fresh()
	if s.must(s.Reopen()); !s.full() || s.Free() != 0 {
		t.Errorf("full %t, %d free; want full while nothing is free", s.full(), s.Free())
	}

	s.retire(slots[:1])
	if s.full() {
		t.Error("still full with a free slot")
	}
	s.count(9, 2, 10)
	if got := s.fresh(); !slices.Equal(got, slots[:1]) || s.number(got[0]) != 9 {
		t.Errorf("slots %v are fresh, want %v", got, slots[:1])
	}
	if n := s.Value(Overflow, offsetEvents); n != 3 || !s.full() {
		t.Errorf("%d events in the overflow series, full %t; want 3, full", n, s.full())
	}
	s.checkSlots()
}

// A table of a metric that is switched off has the overflow slot only.
func TestOneSlot(t *testing.T) {
	s := newSample(t, 1, 1)
	s.count(1, 10, 1)
	if n := s.Value(Overflow, offsetEvents); n != 10 || len(s.fresh()) != 0 || s.Free() != 0 {
		t.Errorf("%d events in the overflow series, %d free; want 10, 0", n, s.Free())
	}
}

func TestManyKeys(t *testing.T) {
	const keys, slots, rounds = 1000, 64, 3
	s := newSample(t, slots, 2)
	for range rounds {
		s.count(1, keys, 5)
	}
	fresh := s.fresh()
	if len(fresh) != slots-1 {
		t.Errorf("%d series, want %d", len(fresh), slots-1)
	}
	for _, slot := range fresh {
		if n := s.Value(slot, offsetEvents); n != rounds {
			t.Errorf("series %d has %d events, want %d", s.number(slot), n, rounds)
		}
	}
	if n := s.Value(Overflow, offsetSum); n != (keys-slots+1)*rounds*5 {
		t.Errorf("overflow series: sum %d, want %d", n, (keys-slots+1)*rounds*5)
	}
	if n := s.total(); n != keys*rounds {
		t.Errorf("%d events in all, want %d", n, keys*rounds)
	}
	s.checkSlots()
}

func TestRecycle(t *testing.T) {
	s := newSample(t, 3, 2)
	s.count(1, 1, 10)
	old := s.fresh()
	created := s.Created(old[0])

	s.must(s.Unpublish(old...))
	s.must(s.Unpublish(old...)) // of what is unpublished already
	s.must(Quiesce())
	s.count(1, 1, 100) // late: a series of its own
	if n := s.Value(old[0], offsetSum); n != 10 {
		t.Errorf("the unpublished series has the sum %d, want 10", n)
	}
	s.must(s.Recycle(old...))
	late := s.fresh()
	if len(late) != 1 || late[0] == old[0] || s.number(late[0]) != 1 || s.Value(late[0], offsetSum) != 100 {
		t.Fatalf("late event: fresh %v after %v", late, old)
	}
	if s.Value(old[0], offsetEvents) != 0 || s.Created(old[0]) != 0 || s.Used() != 1 || s.Free() != 1 {
		t.Errorf("recycled, and %d events, created at %d, %d used, %d free",
			s.Value(old[0], offsetEvents), s.Created(old[0]), s.Used(), s.Free())
	}

	s.count(2, 1, 1)
	again := s.fresh()
	if !slices.Equal(again, old) || s.number(again[0]) != 2 || s.Value(again[0], offsetEvents) != 1 {
		t.Fatalf("fresh %v, want %v used again", again, old)
	}
	if s.Created(again[0]) <= created {
		t.Errorf("created at %d, no later than its predecessor at %d", s.Created(again[0]), created)
	}
	s.checkSlots()
}

func TestFold(t *testing.T) {
	for _, test := range []struct {
		name     string
		from, to uint64 // created
		want     uint64
	}{
		{"from the older", 100, 200, 100},
		{"from the newer", 200, 100, 100},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSample(t, 3, 2)
			onEachCPU(t, false, func(int) error { return errors.Join(s.run(1, 2, 10), s.run(1, 1, 5)) })
			slots := s.fresh()
			total, sum := s.total(), s.Value(slots[0], offsetSum)+s.Value(slots[1], offsetSum)
			from, to := slots[0], slots[1]
			s.SetCreated(from, test.from)
			s.SetCreated(to, test.to)
			s.must(s.Unpublish(from))
			s.must(Quiesce())

			s.Fold(from, to)
			s.must(s.Recycle(from))
			if got := s.Value(to, offsetEvents); got != total || s.total() != total {
				t.Errorf("%d events of %d, want all %d", got, s.total(), total)
			}
			if got := s.Value(to, offsetSum); got != sum {
				t.Errorf("sum %d, want %d", got, sum)
			}
			if got := s.Created(to); got != test.want {
				t.Errorf("created at %d, want %d", got, test.want)
			}
			s.checkSlots()
		})
	}
}

// All CPUs meet the same new keys in the same order at the same time: each key gets one slot, the slots of those who come
// second are free again, and no event is lost.
func TestLostRace(t *testing.T) {
	const (
		keys   = 8 * maxKeys // a round
		enough = 1000        // lost races
	)
	var lost, rounds uint64
	// One slot a key, and one that each CPU may hold until it has lost.
	s := newSample(t, 1+keys+runtime.NumCPU(), 2)
	alone := runtime.NumCPU() == 1 // then there is no race, only the counts to see
	racing := func(since time.Time) bool {
		d := time.Since(since)
		if alone {
			return rounds == 0
		}
		return lost < enough && d < 3*time.Second || lost == 0 && d < 20*time.Second
	}
	for start := time.Now(); racing(start); rounds++ {
		first := rounds*keys + 1
		var waiting atomic.Int32
		waiting.Store(int32(runtime.NumCPU()))
		cpus := onEachCPU(t, true, func(int) error {
			for waiting.Add(-1); waiting.Load() > 0; {
			}
			for next := first; next < first+keys; next += maxKeys {
				if err := s.run(next, maxKeys, 3); err != nil {
					return err
				}
			}
			return nil
		})
		slots := s.fresh()
		for _, slot := range slots {
			events, sum := s.Value(slot, offsetEvents), s.Value(slot, offsetSum)
			if events != uint64(cpus) || sum != 3*uint64(cpus) {
				t.Errorf("series %d: %d events, sum %d; want %d, %d", s.number(slot), events, sum, cpus, 3*cpus)
			}
		}
		if len(slots) != keys || s.Value(Overflow, offsetEvents) != 0 {
			t.Errorf("%d series, want %d; %d overflow events, want none", len(slots), keys, s.Value(Overflow, offsetEvents))
		}
		s.checkSlots()
		if t.Failed() {
			return
		}
		var lookups uint64
		s.get("lookups_failed", &lookups)
		lost = lookups - (rounds+1)*keys
		s.retire(slots)
	}
	t.Logf("%d keys, %d races lost", rounds*keys, lost)
	if lost == 0 && !alone {
		t.Error("no race was lost: this shows nothing")
	}
}

// Series are retired all the time while all CPUs count, in more keys than there are slots: every event is in what was read
// of a quiet slot before it was recycled, or is still there at the end.
func TestRetireUnderLoad(t *testing.T) {
	s := newSample(t, 24, 2)
	var counted atomic.Uint64
	var stop atomic.Bool
	var load sync.WaitGroup
	load.Go(func() {
		onEachCPU(t, true, func(int) error {
			for !stop.Load() {
				n := rand.Uint64N(8) + 1
				if err := s.run(rand.Uint64N(32), n, 1); err != nil {
					return err
				}
				counted.Add(n)
			}
			return nil
		})
	})
	var collected uint64
	retired := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		slots := s.fresh()
		s.must(s.Unpublish(slots...))
		s.must(Quiesce())
		for i, slot := range slots {
			if i%2 == 0 {
				s.Fold(slot, Overflow)
			} else {
				collected += s.Value(slot, offsetEvents)
			}
		}
		s.must(s.Recycle(slots...))
		s.must(s.Reopen())
		retired += len(slots)
	}
	stop.Store(true)
	load.Wait()
	s.fresh()
	if got, want := collected+s.total(), counted.Load(); got != want {
		t.Errorf("%d events, want %d", got, want)
	}
	if retired == 0 {
		t.Error("nothing was retired")
	}
	t.Logf("%d events, %d series retired, %d events in the overflow series", counted.Load(), retired, s.Value(Overflow, offsetEvents))
	s.checkSlots()
}

// Only what is in use is mapped, and so counts as the process's memory.
func TestResident(t *testing.T) {
	before := resident(t)
	s := newSample(t, 8192, 2)
	cells := s.layout.Slots * s.layout.Shards * s.layout.CellSize
	info := s.layout.Slots * s.layout.InfoSize
	s.count(0, 10, 1)
	s.fresh()
	if got := resident(t) - before; got > info+cells/8 {
		t.Errorf("%d bytes are resident with 10 series, of %d for cells and %d for info", got, cells, info)
	}
	s.count(0, 8000, 1)
	s.fresh()
	if got := resident(t) - before; got < info+cells*9/10 {
		t.Errorf("%d bytes are resident with 8,000 series, of %d for cells and %d for info", got, cells, info)
	}
}

// resident is how many bytes of BPF maps are in this process's memory.
func resident(t *testing.T) (bytes int) {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(smaps)) {
		var kibibytes int
		if n, _ := fmt.Sscanf(line, "Rss: %d kB", &kibibytes); n == 1 && inside {
			bytes += kibibytes << 10
		} else if addresses, _, _ := strings.Cut(line, " "); strings.Contains(addresses, "-") {
			inside = strings.Contains(line, "bpf-map")
		}
	}
	return bytes
}
