package main

import (
	"slices"
	"strings"
	"testing"
)

func TestCount(t *testing.T) {
	tests := []test{{"p", "TestA"}, {"p", "TestB"}}
	ended := func(action, name string) event { return event{Action: action, Package: "p", Test: name} }
	logged := func(name, text string) event {
		return event{Action: "output", Package: "p", Test: name, Output: text + "\n"}
	}
	for name, c := range map[string]struct {
		results []event
		want    [3]int   // passed, failed, skipped
		problem []string // how each begins
	}{
		"all passed": {[]event{ended("pass", "TestA/sub"), ended("pass", "TestA"), ended("pass", "TestB")}, [3]int{3, 0, 0}, nil},
		"one failed": {[]event{ended("pass", "TestA"), logged("TestB", "bad"), ended("fail", "TestB")}, [3]int{1, 1, 0},
			[]string{"p TestB failed:\nbad"}},
		"a feature is missing": {[]event{ended("pass", "TestA"), logged("TestB", "    b_test.go:1: needs Linux 6.4: exact figures"), ended("skip", "TestB")},
			[3]int{1, 0, 1}, nil},
		"a tool is missing": {[]event{ended("pass", "TestA"), logged("TestB", "no stress-ng"), ended("skip", "TestB")}, [3]int{1, 0, 1},
			[]string{"p TestB was skipped"}},
		"one did not run":    {[]event{ended("pass", "TestA")}, [3]int{1, 0, 0}, []string{"p TestB has no result"}},
		"the binary ends it": {nil, [3]int{}, []string{"p TestA has no result", "p TestB has no result", "no test ran"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := count(tests, c.results)
			if counts := [3]int{got.passed, got.failed, got.skipped}; counts != c.want {
				t.Errorf("counted %v, want %v", counts, c.want)
			}
			if !slices.EqualFunc(got.problems, c.problem, strings.HasPrefix) {
				t.Errorf("problems %q, want %q", got.problems, c.problem)
			}
		})
	}
}

func TestListed(t *testing.T) {
	got := listed([]event{
		{Action: "start", Package: "p"},
		{Action: "output", Package: "p", Output: "TestA\n"},
		{Action: "output", Package: "p", Output: "FuzzB\n"},
		{Action: "output", Package: "p", Output: "ok  \tp\t0.1s\n"},
	})
	if want := []test{{"p", "TestA"}, {"p", "FuzzB"}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
