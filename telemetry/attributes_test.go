package telemetry

import (
	"testing"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// TestAttributeSets checks that a set is made once, and forgotten when its series is gone.
func TestAttributeSets(t *testing.T) {
	s := newAttributeSets()
	a, b, again := attrs("x", "a"), attrs("x", "b"), attrs("x", "a")
	cycle := func(lists ...*probes.Attributes) []*series {
		s.begin()
		var p positions
		var found []*series
		for i, l := range lists {
			found = append(found, s.of(l, &p, i))
		}
		s.end()
		return found
	}
	check := func(handles, series int) {
		t.Helper()
		if len(s.handles) != handles || len(s.series) != series {
			t.Errorf("%d handles, %d series, want %d, %d", len(s.handles), len(s.series), handles, series)
		}
	}
	first := cycle(a, b)
	check(2, 2)
	if second := cycle(b, a, a); second[0] != first[1] || second[1] != first[0] || second[2] != first[0] {
		t.Error("the sets were made again")
	}
	if both := cycle(a, again); both[0] != both[1] {
		t.Error("two sets of the same attributes")
	}
	check(2, 1)
	cycle(again)
	check(1, 1)
	cycle()
	check(0, 0)

	// A metric without points in a cycle leaves its positions as they are.
	var kept positions
	for range 2 {
		s.begin()
		s.of(a, &kept, 0)
		s.end()
		check(1, 1)
		cycle()
		check(0, 0)
	}
}
