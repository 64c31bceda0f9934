package top

import (
	"time"

	"github.com/ebpf-sidecar/sidecar/readings"
)

const (
	maxFrames = 300
	// maxMemory bounds what the history takes, in bytes, about. Frames of many busy series make it shorter.
	maxMemory = 32 << 20
)

// history is what was added in the latest frames.
type history struct {
	frames []past
	next   uint64 // the number of the next frame
	memory int
}

// past is what is kept of a frame: the series to which something was added.
type past struct {
	number uint64
	length time.Duration
	added  []change
	memory int
}

type change struct {
	series *readings.Series
	readings.Value
}

func (h *history) add(f *readings.Frame) {
	p := past{number: h.next, length: f.Length}
	for i := range f.Readings {
		r := &f.Readings[i]
		if r.Added.Number > 0 {
			p.added = append(p.added, change{r.Series, r.Added})
			p.memory += 32
			if r.Added.Histogram != nil {
				p.memory += 96 + 8*len(r.Added.Histogram.Counts)
			}
		}
	}
	h.frames = append(h.frames, p)
	h.memory += p.memory
	h.next++
	for len(h.frames) > maxFrames || h.memory > maxMemory && len(h.frames) > 1 {
		h.memory -= h.frames[0].memory
		h.frames[0] = past{}
		h.frames = h.frames[1:]
	}
}

// selection says which series are looked at.
type selection func(*readings.Series) bool

func everything(*readings.Series) bool { return true }

// curves are how much was added a second in each of the latest frames, a curve for every key that of has for some series.
func curves[K comparable](frames []past, latest int, of func(*readings.Series) (K, bool)) func(K) []float64 {
	frames = frames[max(0, len(frames)-latest):]
	all := make(map[K][]float64)
	for i, p := range frames {
		for _, c := range p.added {
			key, ok := of(c.series)
			if !ok {
				continue
			}
			if all[key] == nil {
				all[key] = make([]float64, len(frames))
			}
			all[key][i] += readings.PerSecond(c.Number, p.length)
		}
	}
	return func(key K) []float64 {
		if curve := all[key]; curve != nil {
			return curve
		}
		return make([]float64, len(frames))
	}
}

// distribution is that of all values added to the selected series.
func distribution(frames []past, selected selection) *readings.Histogram {
	all := new(readings.Histogram)
	for _, p := range frames {
		for _, c := range p.added {
			if c.Histogram != nil && selected(c.series) {
				all.Add(c.Histogram)
			}
		}
	}
	return all
}
