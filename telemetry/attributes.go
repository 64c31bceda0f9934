package telemetry

import (
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// attributeSets keeps the SDK's form of every attribute list that is in a snapshot, so that it is made once a series
// and not once a cycle. It belongs to the reader's goroutine.
type attributeSets struct {
	cycle   uint64
	used    int // handles seen in this cycle
	handles map[*probes.Attributes]*handle
	series  map[attribute.Distinct]*series
}

// handle is one list of the probes.
type handle struct {
	list *probes.Attributes // nil when it is forgotten
	*series
	cycle uint64 // the last one that it was seen in
}

// series is one attribute set. Two lists have the same one when they differ only in bytes that are not UTF-8, or when
// a series was given up and came back.
type series struct {
	set     attribute.Set
	observe []metric.ObserveOption // the set as Observe takes it, made by option
	handles int
	starts  []seriesStart

	visit uint64 // of the metric whose point number index has this set
	index int
}

// seriesStart is when the values of one counter with this set began, in nanoseconds since 1970.
type seriesStart struct {
	counter *counter
	time    int64
	cycle   uint64 // that it was observed in
}

// positions remembers which handle each point of a metric had. The order of points hardly changes from cycle to cycle,
// and a look at the neighbours costs less than one at a large map.
type positions []*handle

// cut forgets the positions from n on.
func (p *positions) cut(n int) {
	clear((*p)[n:])
	*p = (*p)[:n]
}

func newAttributeSets() *attributeSets {
	return &attributeSets{
		handles: make(map[*probes.Attributes]*handle),
		series:  make(map[attribute.Distinct]*series),
	}
}

// begin starts a cycle.
func (s *attributeSets) begin() {
	s.cycle++
	s.used = 0
}

// of returns the set of a, which belongs to point i of the metric whose positions p are.
func (s *attributeSets) of(a *probes.Attributes, p *positions, i int) *series {
	var h *handle
	if i < len(*p) {
		h = (*p)[i]
	} else {
		*p = append(*p, nil)
	}
	if h == nil || h.list != a {
		if h = s.handles[a]; h == nil {
			h = &handle{list: a, series: s.intern(newSet(a.List))}
			s.handles[a] = h
		}
		(*p)[i] = h
	}
	if h.cycle != s.cycle {
		h.cycle = s.cycle
		s.used++
	}
	return h.series
}

// start notes when the values of c with this set began. A set that is observed twice in a cycle is added up by the SDK;
// the sum began with the first.
func (e *series) start(c *counter, cycle uint64, t int64) {
	for i := range e.starts {
		if s := &e.starts[i]; s.counter == c {
			if s.cycle == cycle {
				t = min(t, s.time)
			}
			s.time, s.cycle = t, cycle
			return
		}
	}
	e.starts = append(e.starts, seriesStart{c, t, cycle})
}

// startOf returns what start noted.
func (e *series) startOf(c *counter) int64 {
	for i := range e.starts {
		if e.starts[i].counter == c {
			return e.starts[i].time
		}
	}
	return 0
}

// option returns the set as Observe takes it. Histograms do without.
func (e *series) option() []metric.ObserveOption {
	if e.observe == nil {
		e.observe = []metric.ObserveOption{metric.WithAttributeSet(e.set)}
	}
	return e.observe
}

func (s *attributeSets) intern(set attribute.Set) *series {
	e := s.series[set.Equivalent()]
	if e == nil {
		e = &series{set: set}
		s.series[set.Equivalent()] = e
	}
	e.handles++
	return e
}

// end forgets what was not seen since begin.
func (s *attributeSets) end() {
	if s.used == len(s.handles) {
		return
	}
	for a, h := range s.handles {
		if h.cycle == s.cycle {
			continue
		}
		delete(s.handles, a)
		h.list = nil // positions of a metric without points in this cycle still have it
		if h.handles--; h.handles == 0 {
			delete(s.series, h.set.Equivalent())
		}
	}
}

func newSet(list []probes.Attribute) attribute.Set {
	kvs := make([]attribute.KeyValue, len(list))
	for i, a := range list {
		kvs[i] = keyValue(a)
	}
	return attribute.NewSet(kvs...)
}

func keyValue(a probes.Attribute) attribute.KeyValue {
	switch v := a.Value.(type) {
	case int64:
		return attribute.Int64(a.Key, v)
	case bool:
		return attribute.Bool(a.Key, v)
	case string:
		// One byte that is not UTF-8 would make protobuf refuse the whole request.
		return attribute.String(a.Key, strings.ToValidUTF8(v, "\uFFFD"))
	default:
		return attribute.String(a.Key, strings.ToValidUTF8(fmt.Sprint(v), "\uFFFD"))
	}
}
