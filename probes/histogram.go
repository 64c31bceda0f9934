package probes

// The ranges of the histogram types in bpf/histogram.bpf.h.
var (
	latencyRange  = Range{Scale: 3, Min: -20, Max: 6}
	lifetimeRange = Range{Scale: 2, Min: -20, Max: 17}
)

// The words of a histogram in a cell.
const (
	histogramSum = iota
	histogramZero
	histogramBuckets
)

// words is the size of a histogram in a cell, in 64-bit words.
func (r Range) words() int { return histogramBuckets + r.Buckets() }

// decode makes a histogram of the words of a cell. The counts stay in the words' memory.
func (r Range) decode(words []uint64) HistogramData {
	counts := words[histogramBuckets:]
	first := 0
	for first < len(counts) && counts[first] == 0 {
		first++
	}
	last := len(counts)
	for last > first && counts[last-1] == 0 {
		last--
	}
	return HistogramData{
		Scale:     int32(r.Scale),
		ZeroCount: words[histogramZero],
		Sum:       float64(words[histogramSum]) / 1e9,
		Offset:    int32(r.Min<<r.Scale + first),
		Counts:    counts[first:last],
	}
}
