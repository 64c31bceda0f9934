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
	*series
	cycle uint64 // the last one that it was seen in
}

// series is one attribute set. Two lists have the same one when they differ only in bytes that are not UTF-8, or when
// a series was given up and came back.
type series struct {
	set     attribute.Set
	observe []metric.ObserveOption // the set as ObserveInt64 takes it, without an allocation
	size    int                    // of the encoded set, at most
	handles int

	visit uint64 // of the metric whose point number index has this set
	index int
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

// of returns the set of a.
func (s *attributeSets) of(a *probes.Attributes) *series {
	h := s.handles[a]
	if h == nil {
		h = &handle{series: s.intern(newSet(a.List))}
		s.handles[a] = h
	}
	if h.cycle != s.cycle {
		h.cycle = s.cycle
		s.used++
	}
	return h.series
}

func (s *attributeSets) intern(set attribute.Set) *series {
	e := s.series[set.Equivalent()]
	if e == nil {
		e = &series{
			set:     set,
			observe: []metric.ObserveOption{metric.WithAttributeSet(set)},
			size:    setSize(&set),
		}
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
		if h.handles--; h.handles == 0 {
			delete(s.series, h.set.Equivalent())
		}
	}
}

// size returns an upper bound of the encoded size of set.
func (s *attributeSets) size(set *attribute.Set) int {
	if e := s.series[set.Equivalent()]; e != nil {
		return e.size
	}
	return setSize(set)
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
