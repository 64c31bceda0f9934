package probes

import (
	"slices"
	"testing"
)

func TestRangeDecode(t *testing.T) {
	r := Range{Scale: 1, Min: -2, Max: 2} // 8 buckets, the first of index -4
	for _, test := range []struct {
		name  string
		words []uint64
		want  HistogramData
		count uint64
	}{
		{"nothing", []uint64{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, HistogramData{Scale: 1, Offset: 4}, 0},
		{"zeros", []uint64{0, 7, 0, 0, 0, 0, 0, 0, 0, 0}, HistogramData{Scale: 1, Offset: 4, ZeroCount: 7}, 7},
		{"the first", []uint64{250e6, 0, 1, 0, 0, 0, 0, 0, 0, 0},
			HistogramData{Scale: 1, Offset: -4, Sum: .25, Counts: []uint64{1}}, 1},
		{"the last", []uint64{4e9, 0, 0, 0, 0, 0, 0, 0, 0, 2},
			HistogramData{Scale: 1, Offset: 3, Sum: 4, Counts: []uint64{2}}, 2},
		{"with a gap", []uint64{1, 3, 0, 5, 0, 0, 6, 0, 0, 0},
			HistogramData{Scale: 1, Offset: -3, Sum: 1e-9, ZeroCount: 3, Counts: []uint64{5, 0, 0, 6}}, 14},
		{"all", []uint64{8e9, 1, 1, 1, 1, 1, 1, 1, 1, 1},
			HistogramData{Scale: 1, Offset: -4, Sum: 8, ZeroCount: 1, Counts: []uint64{1, 1, 1, 1, 1, 1, 1, 1}}, 9},
	} {
		t.Run(test.name, func(t *testing.T) {
			if len(test.words) != r.words() {
				t.Fatalf("%d words, want %d", len(test.words), r.words())
			}
			got := r.decode(test.words)
			if got.Scale != test.want.Scale || got.ZeroCount != test.want.ZeroCount || got.Sum != test.want.Sum ||
				!slices.Equal(got.Counts, test.want.Counts) || got.Count() != test.count {
				t.Errorf("%+v of %d, want %+v of %d", got, got.Count(), test.want, test.count)
			}
			if len(got.Counts) > 0 && got.Offset != test.want.Offset {
				t.Errorf("offset %d, want %d", got.Offset, test.want.Offset)
			}
		})
	}
}
