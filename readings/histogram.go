package readings

import "math"

// Histogram counts values by bucket. The buckets are exponential ones, as OpenTelemetry defines them, or those of Bounds.
type Histogram struct {
	Scale  int32
	Offset int32     // the index of Counts[0]
	Bounds []float64 // the upper ones of explicit buckets, but for the last, which has none; or nil
	Zero   uint64    // values of exactly 0, which no exponential bucket holds
	Counts []uint64
	Sum    float64
}

// Count is how many values there are.
func (h *Histogram) Count() uint64 {
	n := h.Zero
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// Bound is the upper bound of an exponential bucket of a scale; its lower one is that of the index before.
func Bound(scale, index int32) float64 {
	return math.Exp2(float64(index+1) * math.Exp2(-float64(scale)))
}

// upper is the upper bound of Counts[i].
func (h *Histogram) upper(i int) float64 {
	if h.Bounds == nil {
		return Bound(h.Scale, h.Offset+int32(i))
	}
	if i < len(h.Bounds) {
		return h.Bounds[i]
	}
	return math.Inf(1)
}

// Quantile returns the upper bound of the bucket that holds the least value that the part q of all values, 0 to 1, does
// not exceed. It is NaN without a value.
func (h *Histogram) Quantile(q float64) float64 {
	n := h.Count()
	if n == 0 {
		return math.NaN()
	}
	rank := max(1, min(n, uint64(math.Ceil(q*float64(n)))))
	sum := h.Zero
	if rank <= sum {
		return 0
	}
	for i, c := range h.Counts {
		if sum += c; sum >= rank {
			return h.upper(i)
		}
	}
	return math.Inf(1)
}

// Add adds the values of other. Exponential ones of a finer scale than h's make h no finer; those of a coarser one make it
// as coarse.
func (h *Histogram) Add(other *Histogram) {
	h.combine(other, func(a, b uint64) uint64 { return a + b })
	h.Sum += other.Sum
}

// Less returns what h has more than other, which is h of an earlier time.
func (h *Histogram) Less(other *Histogram) *Histogram {
	less := *h
	less.Counts = append([]uint64(nil), h.Counts...)
	less.combine(other, func(a, b uint64) uint64 { return a - min(a, b) })
	less.Sum -= other.Sum
	return &less
}

func (h *Histogram) combine(other *Histogram, f func(a, b uint64) uint64) {
	if h.Counts == nil && h.Zero == 0 {
		h.Scale, h.Bounds, h.Offset = other.Scale, other.Bounds, other.Offset
	}
	h.Zero = f(h.Zero, other.Zero)
	if other.Scale < h.Scale {
		h.Coarsen(other.Scale)
	}
	shift := other.Scale - h.Scale
	for i, c := range other.Counts {
		if c != 0 {
			at := h.at((other.Offset + int32(i)) >> shift)
			*at = f(*at, c)
		}
	}
}

// In is the count of a bucket.
func (h *Histogram) In(index int32) uint64 {
	if i := int(index - h.Offset); i >= 0 && i < len(h.Counts) {
		return h.Counts[i]
	}
	return 0
}

// Coarsen makes the buckets those of a lower scale: each takes in 2 to the difference of the finer ones.
func (h *Histogram) Coarsen(scale int32) {
	fine := *h
	h.Scale, h.Offset, h.Counts = scale, fine.Offset>>(fine.Scale-scale), nil
	for i, c := range fine.Counts {
		if c != 0 {
			*h.at((fine.Offset + int32(i)) >> (fine.Scale - scale)) += c
		}
	}
}

// at is the count of a bucket, which is made if need be.
func (h *Histogram) at(index int32) *uint64 {
	if len(h.Counts) == 0 {
		h.Offset = index
	}
	if before := int(h.Offset - index); before > 0 {
		h.Counts = append(make([]uint64, before, before+len(h.Counts)), h.Counts...)
		h.Offset = index
	}
	if after := int(index-h.Offset) - len(h.Counts) + 1; after > 0 {
		h.Counts = append(h.Counts, make([]uint64, after)...)
	}
	return &h.Counts[index-h.Offset]
}
