package guest

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

var suites = []Suite{{binary: "probes.test", tests: []string{"TestA", "TestB"}}}

// with returns the outcome of a boot in which probes.test ended with a status and these tests.
func with(exit string, tests ...test) Outcome {
	r := run{binary: "probes.test", exit: exit, tests: tests, output: []string{"the end"}}
	return Outcome{Name: "6.1", Console: Console{Release: "6.1.0-56", Possible: "0-1", uptime: "3.37", runs: []run{r}, done: true}}
}

func TestProblems(t *testing.T) {
	passA, passB := test{name: "TestA", status: "PASS"}, test{name: "TestB", status: "PASS"}
	skipB := test{name: "TestB", status: "SKIP", log: []string{"    b_test.go:7: needs Linux 5.19: contention_begin"}}
	failB := test{name: "TestB", status: "FAIL", log: []string{"    b_test.go:7: bad"}}
	failSub := test{name: "TestB/x", status: "FAIL"}
	complaint := with("0", passA, passB)
	complaint.Console.kernel = []string{"[   20.31] BUG: scheduling while atomic"}
	for name, c := range map[string]struct {
		outcome Outcome
		want    []string // what each problem begins with
	}{
		"all passed":  {with("0", passA, passB), nil},
		"one skipped": {with("0", passA, skipB), nil},
		"tool missing": {
			with("0", passA, test{name: "TestB", status: "SKIP", log: []string{"    b_test.go:7: no runqlat"}}),
			[]string{"probes.test: TestB was skipped"},
		},
		"the kernel complains": {complaint, []string{"in the kernel's log: [   20.31] BUG: scheduling while atomic"}},
		"one failed":           {with("1", passA, failB), []string{"probes.test: TestB failed\n    b_test.go:7: bad"}},
		"a subtest failed":     {with("1", passA, failB, failSub), []string{"probes.test: TestB failed", "probes.test: TestB/x failed"}},
		"one without result":   {with("0", passA), []string{"probes.test: TestB has no result"}},
		"leak after passing":   {with("1", passA, passB), []string{"probes.test: exit status 1\nthe end"}},
		"panic":                {with("2", passA, failB), []string{"probes.test: TestB failed", "probes.test: exit status 2"}},
		"hang": {
			with("", passA),
			[]string{"probes.test: TestB has no result", "probes.test: exit status unknown"},
		},
		"no boot": {
			Outcome{Name: "6.1", Err: errors.New("not done within 600 seconds")},
			[]string{"not done within 600 seconds", "probes.test: not run"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := c.outcome.Problems(suites)
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestEnd(t *testing.T) {
	long := strings.Split(strings.Repeat("line\n", 100), "\n")
	for name, c := range map[string]struct {
		output []string
		first  string
		lines  int
	}{
		"nothing": {nil, "", 0},
		"short":   {[]string{"one", "two"}, "one", 2},
		"long":    {append([]string{"one"}, long...), "line", 30},
		"panic":   {append([]string{"one", "panic: test timed out after 8m0s"}, long...), "panic: test timed out after 8m0s", 30},
	} {
		t.Run(name, func(t *testing.T) {
			got := (&run{output: c.output}).end()
			if len(got) != c.lines || c.lines > 0 && got[0] != c.first {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestTable(t *testing.T) {
	skip := func(name string) test {
		return test{name: name, status: "SKIP", log: []string{"    b_test.go:7: needs Linux 5.19: contention_begin"}}
	}
	outcomes := []Outcome{
		with("0", test{name: "TestA", status: "PASS"}, test{name: "TestA/x", status: "PASS"}, skip("TestA/y"), skip("TestB")),
		with("1", test{name: "TestA", status: "FAIL"}, test{name: "TestA/x", status: "FAIL"}, test{name: "TestA/z", status: "PASS"}),
		{Name: "newest", Err: errors.New("no boot")},
	}
	outcomes[0].Name = "5.10"
	want := `
                       5.10      6.1       newest
probes.TestA           PASS      FAIL      -
probes.TestA/y         SKIP[1]   -         -
probes.TestA/x         PASS      FAIL      -
probes.TestB           SKIP[1]   -         -
passed/failed/skipped  2/0/2     1/2/0     -
release                6.1.0-56  6.1.0-56  -
possible CPUs          0-1       0-1       -
boot, seconds          3.37      3.37      -
[1] needs Linux 5.19: contention_begin
`
	got := "\n" + Table(outcomes, suites)
	if got != want {
		t.Errorf("got:%swant:%s", got, want)
	}
}
