package readings

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync"
	"time"
)

// Store takes points in and makes frames of them. Its methods are safe for concurrent use.
type Store struct {
	mu      sync.Mutex
	metrics map[metricKey]*Metric
	series  map[string]*state // by key
	key     []byte
	last    time.Time // of the frame before
	frames  uint64
}

type metricKey struct{ scope, name string }

// state is what is kept of a series.
type state struct {
	reading     Reading
	start       time.Time
	before, now Value  // in the frame before, and in the one that comes
	latest      uint64 // the frame that now is for
}

// NewStore returns a store without a series. The first frame is as long as the time since begin.
func NewStore(begin time.Time) *Store {
	return &Store{metrics: make(map[metricKey]*Metric), series: make(map[string]*state), last: begin, frames: 1}
}

// Add takes in a point, whose memory it keeps. Those of a metric are all of one kind.
func (s *Store) Add(m Metric, p Point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = appendText(appendText(s.key[:0], m.Scope), m.Name)
	for _, a := range p.Attributes {
		s.key = appendText(appendText(s.key, a.Key), a.Value)
	}
	known := s.series[string(s.key)]
	if known == nil {
		known = &state{start: p.Start, reading: Reading{Series: &Series{s.metric(m), p.Attributes}}}
		s.series[string(s.key)] = known
	}
	if !known.start.Equal(p.Start) {
		known.start, known.before = p.Start, Value{} // begun again
	}
	known.now, known.latest = p.Value, s.frames
}

// appendText appends a text so that no other follows it in the same way.
func appendText(key []byte, text string) []byte {
	return append(binary.AppendUvarint(key, uint64(len(text))), text...)
}

func (s *Store) metric(m Metric) *Metric {
	key := metricKey{m.Scope, m.Name}
	if s.metrics[key] == nil {
		s.metrics[key] = &m
	}
	return s.metrics[key]
}

// Frame ends a reading: it returns what the points since the frame before were. A series that had none is gone.
func (s *Store) Frame(now time.Time) *Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &Frame{Time: now, Length: now.Sub(s.last)}
	for key, known := range s.series {
		if known.latest != s.frames {
			delete(s.series, key)
			continue
		}
		known.reading.Total = known.now
		if known.reading.Kind != Level {
			known.reading.Added = known.now.less(known.before)
		}
		known.before = known.now
		f.Readings = append(f.Readings, known.reading)
	}
	slices.SortFunc(f.Readings, func(a, b Reading) int { return Compare(a.Series, b.Series) })
	s.last = now
	s.frames++
	return f
}

// Compare orders series by scope, metric and attributes.
func Compare(a, b *Series) int {
	if a.Metric != b.Metric {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Name, b.Name))
	}
	return slices.CompareFunc(a.Attributes, b.Attributes, func(a, b Attribute) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Value, b.Value))
	})
}
