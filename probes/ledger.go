package probes

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ebpf-sidecar/sidecar/series"
	"github.com/ebpf-sidecar/sidecar/workload"
)

// ledger keeps the series of one table. Slots with the same attributes (the cgroups of one container, a unit that was
// restarted) are one group, exported as one series: its value is their sum, its start the earliest of theirs.
//
// Nothing that was counted leaves the kernel's memory before a receiver has it. When a cgroup is gone, its slots are folded
// into others of their groups. A group that loses its last cgroup keeps one slot; it is exported until it was acknowledged,
// and from then on only kept: if the same workload comes back it goes on from there, and if slots run short it is let go.
type ledger struct {
	kernel  *Kernel
	probe   *Spec
	spec    *TableSpec
	table   *series.Table
	fresh   []uint32          // slots that programs have published, in no group yet
	members []*member         // of groups, by slot
	rest    *group            // of the overflow slot
	groups  map[string]*group // by attributes
	order   []*group          // the same by first sight
	kept    []*group          // acknowledged and not exported, the oldest first
	gone    uint64            // events of series that were let go

	exported []exportedInstrument // those that are enabled
	derived  bool                 // another table counts the same events
	arena    []uint64
}

// member is a slot that a program published.
type member struct {
	workload, culprit uint64
	group             *group
}

type group struct {
	key        string
	attributes []Attribute
	slots      []uint32  // live ones, or the one that is left
	start      time.Time // zero until it is first exported
	retired    uint64    // the first generation whose snapshot had the final value; 0: not final
	kept       bool
	points     []*Attributes // one for each value of each exported instrument
}

type exportedInstrument struct {
	*Instrument
	metric int // index in Snapshot.Metrics
}

// overflowAttributes mark the overflow series, as the OpenTelemetry SDK specification does.
var overflowAttributes = []Attribute{{"otel.metric.overflow", true}}

func newLedger(kernel *Kernel, probe *Spec, spec *TableSpec, table *series.Table) *ledger {
	return &ledger{
		kernel:  kernel,
		probe:   probe,
		spec:    spec,
		table:   table,
		members: make([]*member, table.Layout().Slots),
		groups:  make(map[string]*group),
		rest:    &group{attributes: overflowAttributes, slots: []uint32{series.Overflow}},
	}
}

func (l *ledger) groupOf(attributes []Attribute) *group {
	key := attributesKey(attributes)
	g := l.groups[key]
	if g == nil {
		g = &group{key: key, attributes: attributes}
		l.groups[key] = g
		l.order = append(l.order, g)
	}
	return g
}

// attributesKey is equal for equal attributes in the same order, which is that of the code that makes them.
func attributesKey(attributes []Attribute) string {
	var key strings.Builder
	for _, a := range attributes {
		fmt.Fprintf(&key, "%q=%#v,", a.Key, a.Value) // quotes strings, and so tells them from numbers
	}
	return key.String()
}

// find reads the keys of fresh slots, after a Quiesce, and puts them into their groups. Those whose workload is not known
// stay fresh.
func (l *ledger) find(identify func(cgroup uint64) ([]Attribute, bool)) error {
	var errs []error
	l.fresh = slices.DeleteFunc(l.fresh, func(slot uint32) bool {
		key := l.spec.Decode(l.kernel, l.table.Key(slot))
		attributes, known := identify(key.Workload)
		culprit, culpritKnown := identify(key.Culprit)
		if !known || !culpritKnown {
			return false
		}
		attributes = slices.Clip(attributes)
		for _, a := range culprit {
			attributes = append(attributes, Attribute{CulpritPrefix + a.Key, a.Value})
		}
		g := l.groupOf(append(attributes, key.Attributes...))
		errs = append(errs, l.join(slot, member{key.Workload, key.Culprit, g}))
		return true
	})
	return errors.Join(errs...)
}

// join adds a live slot to a group. What the group has kept of cgroups that are gone goes on in it.
func (l *ledger) join(slot uint32, m member) error {
	l.members[slot] = &m
	g := m.group
	if !g.start.IsZero() {
		l.table.SetStart(slot, uint64(g.start.UnixNano()))
	}
	if g.retired == 0 {
		g.slots = append(g.slots, slot)
		return nil
	}
	left := g.slots[0]
	g.slots[0] = slot
	if g.kept {
		l.kept = slices.DeleteFunc(l.kept, func(k *group) bool { return k == g })
	}
	g.retired, g.kept = 0, false
	return l.fold(left, slot)
}

// of returns the slots whose series belong to the cgroups.
func (l *ledger) of(cgroups map[uint64]bool) []uint32 {
	var slots []uint32
	for slot, m := range l.members {
		if m != nil && (cgroups[m.workload] || cgroups[m.culprit]) {
			slots = append(slots, uint32(slot))
		}
	}
	return slots
}

// retire ends slots that are unpublished and quiet; generation is that of the next snapshot.
func (l *ledger) retire(slots []uint32, generation uint64) error {
	for _, slot := range slots {
		g := l.members[slot].group
		l.members[slot] = nil
		if len(g.slots) == 1 {
			g.retired = generation
			continue
		}
		g.slots = slices.DeleteFunc(g.slots, func(s uint32) bool { return s == slot })
		if err := l.fold(slot, g.slots[0]); err != nil {
			return err
		}
	}
	return nil
}

// overflow folds the fresh slots, which are unpublished and quiet, into the overflow series.
func (l *ledger) overflow() error {
	for len(l.fresh) > 0 {
		slot := l.fresh[0]
		l.fresh = l.fresh[1:]
		if err := l.fold(slot, series.Overflow); err != nil {
			return err
		}
	}
	return nil
}

func (l *ledger) fold(from, to uint32) error {
	l.table.Fold(from, to)
	return l.table.Recycle(from)
}

// acknowledge notes that a receiver has what the snapshots up to a generation held.
func (l *ledger) acknowledge(generation uint64) {
	for _, g := range l.order {
		if g.retired != 0 && g.retired <= generation && !g.kept {
			g.kept = true
			l.kept = append(l.kept, g)
		}
	}
}

// makeRoom lets the oldest kept groups go while fewer than a quarter of the slots are free.
func (l *ledger) makeRoom() error {
	var dropped int
	room := max(1, l.table.Layout().Slots/4)
	for dropped < len(l.kept) && l.table.Free() < room {
		g := l.kept[dropped]
		dropped++
		l.gone += l.events(g.slots[0])
		delete(l.groups, g.key)
		if err := l.table.Recycle(g.slots[0]); err != nil {
			return err
		}
		g.slots = nil
	}
	if dropped > 0 {
		l.kept = slices.Delete(l.kept, 0, dropped)
		l.order = slices.DeleteFunc(l.order, func(g *group) bool { return len(g.slots) == 0 })
	}
	return l.table.Reopen()
}

// events is how many events a slot has counted, 0 if another table counts the same ones.
func (l *ledger) events(slot uint32) uint64 {
	if l.derived {
		return 0
	}
	var n, counters uint64
	for _, instrument := range l.exported {
		if instrument.Kind == Counter && strings.HasPrefix(instrument.Unit, "{") {
			counters++
			for _, value := range instrument.Values {
				n += l.table.Value(slot, value.Offset)
			}
		}
	}
	if counters > 0 {
		return n
	}
	i := slices.IndexFunc(l.exported, func(i exportedInstrument) bool { return i.Kind == Histogram })
	if i < 0 {
		return 0
	}
	of := l.exported[i]
	return of.Range.decode(l.words([]uint32{slot}, of.Values[0].Offset, of.Range)).Count()
}

// read adds the points of every series to the metrics, the overflow series last, and returns the table's status and the
// events of all series.
func (l *ledger) read(metrics []Metric, now moment) (status TableStatus, events uint64) {
	l.arena = l.arena[:0]
	events = l.gone
	for _, g := range l.order {
		for _, slot := range g.slots {
			events += l.events(slot)
		}
		if !g.kept {
			l.readGroup(g, metrics, now)
		}
	}
	l.readGroup(l.rest, metrics, now)
	overflow := l.events(series.Overflow)
	return TableStatus{
		Probe:    l.probe.Name,
		Table:    l.spec.Name,
		Series:   l.table.Used() - len(l.kept),
		Limit:    l.table.Layout().Slots - 1,
		Overflow: overflow,
	}, events + overflow
}

// readGroup adds the points of a group that has counted something.
func (l *ledger) readGroup(g *group, metrics []Metric, now moment) {
	if g.start.IsZero() {
		g.start = l.begin(g.slots, now)
	}
	point := 0
	for _, instrument := range l.exported {
		metric := &metrics[instrument.metric]
		for _, value := range instrument.Values {
			p := Point{Attributes: g.point(point, value.Attributes), Start: g.start}
			point++
			if instrument.Kind == Histogram {
				p.Histogram = instrument.Range.decode(l.words(g.slots, value.Offset, instrument.Range))
			} else {
				for _, slot := range g.slots {
					p.Value += l.table.Value(slot, value.Offset)
				}
			}
			if p.Value != 0 || p.Histogram.ZeroCount != 0 || len(p.Histogram.Counts) != 0 {
				metric.Points = append(metric.Points, p)
			}
		}
	}
}

// begin is when the series of the slots began. It is found once and then kept with them, so that it is the same to the
// nanosecond for a process that goes on with them.
func (l *ledger) begin(slots []uint32, now moment) time.Time {
	var start, created uint64 = math.MaxUint64, math.MaxUint64
	for _, slot := range slots {
		if told := l.table.Start(slot); told != 0 {
			start = min(start, told)
		}
		created = min(created, l.table.Created(slot))
	}
	if start == math.MaxUint64 {
		start = uint64(now.wallTime(created).UnixNano())
	}
	for _, slot := range slots {
		l.table.SetStart(slot, start)
	}
	return time.Unix(0, int64(start))
}

// point returns the attributes of the group's n-th point, the same pointer each time.
func (g *group) point(n int, own []Attribute) *Attributes {
	for len(g.points) <= n {
		g.points = append(g.points, nil)
	}
	if g.points[n] == nil {
		g.points[n] = &Attributes{List: append(slices.Clip(g.attributes), own...)}
	}
	return g.points[n]
}

// words sums a histogram's words over slots, in memory that the next snapshot uses again.
func (l *ledger) words(slots []uint32, offset uintptr, r Range) []uint64 {
	n := r.words()
	if cap(l.arena)-len(l.arena) < n {
		l.arena = make([]uint64, 0, max(2*cap(l.arena), 64*n))
	}
	words := l.arena[len(l.arena):][:n]
	l.arena = l.arena[:len(l.arena)+n]
	clear(words)
	for _, slot := range slots {
		l.table.Add(words, slot, offset)
	}
	return words
}

// identifier returns a function that gives a cgroup's attributes, those that the options ask for. That of no workload has none.
func identifier(index *workload.Index, options Options) func(uint64) ([]Attribute, bool) {
	if !options.byWorkload() {
		return func(uint64) ([]Attribute, bool) { return nil, true }
	}
	return func(cgroup uint64) ([]Attribute, bool) {
		if cgroup == 0 {
			return nil, true
		}
		id, ok := index.Lookup(cgroup)
		if !ok {
			return nil, false
		}
		var attributes []Attribute
		for _, a := range []struct{ key, value string }{
			{ContainerID, id.ContainerID},
			{PodUID, id.PodUID},
			{SystemdUnit, id.SystemdUnit},
			{LinuxCgroup, id.Cgroup},
		} {
			if a.value != "" && options.has(a.key) {
				attributes = append(attributes, Attribute{a.key, cleanName([]byte(a.value))})
			}
		}
		return attributes, true
	}
}
