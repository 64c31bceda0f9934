package guest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// Suite is a test binary and the top-level tests it must report on.
type Suite struct {
	binary string
	tests  []string
}

// Outcome is what came of one guest.
type Outcome struct {
	Name    string
	Console Console
	Err     error // why the guest did not get through its test binaries
}

// Problems returns what is wrong with an outcome, nothing when every expected test has a result and none failed.
func (o Outcome) Problems(suites []Suite) []string {
	var found []string
	report := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if o.Err != nil {
		report("%v", o.Err)
	}
	for _, line := range o.Console.kernel {
		report("in the kernel's log: %s", line)
	}
	for _, s := range suites {
		r := o.Console.find(s.binary)
		if r == nil {
			report("%s: not run", s.binary)
			continue
		}
		failed := false
		for _, t := range r.tests {
			switch {
			case t.status == "FAIL":
				failed = true
				report("%s: %s failed\n%s", s.binary, t.name, strings.Join(t.log, "\n"))
			case t.status == "SKIP" && !kerneltest.LacksFeature(kerneltest.Reason(t.log)):
				report("%s: %s was skipped, and not for a feature that the kernel lacks: %s", s.binary, t.name, kerneltest.Reason(t.log))
			}
		}
		for _, name := range s.tests {
			if r.find(name) == nil {
				report("%s: %s has no result", s.binary, name)
			}
		}
		// Status 1 is that of failed tests. Else: a panic, a leak that TestMain found, a binary that never ended.
		if r.exit != "0" && (r.exit != "1" || !failed) {
			report("%s: exit status %s\n%s", s.binary, cmp.Or(r.exit, "unknown"), strings.Join(r.end(), "\n"))
		}
	}
	return found
}

// Output returns what the test binaries printed.
func (o Outcome) Output() string {
	var b strings.Builder
	for _, r := range o.Console.runs {
		fmt.Fprintln(&b, strings.Join(r.output, "\n"))
	}
	return b.String()
}

// counts tells how many tests and subtests passed, failed and were skipped.
func (c Console) counts() string {
	if len(c.runs) == 0 {
		return ""
	}
	of := map[string]int{}
	for _, r := range c.runs {
		for _, t := range r.tests {
			of[t.status]++
		}
	}
	return fmt.Sprintf("%d/%d/%d", of["PASS"], of["FAIL"], of["SKIP"])
}

// end returns the lines that tell best why a run ended: those from a panic on, else the last ones.
func (r *run) end() []string {
	const most = 30
	at := slices.IndexFunc(r.output, func(line string) bool {
		return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ")
	})
	if at < 0 {
		at = max(0, len(r.output)-most)
	}
	return r.output[at:min(at+most, len(r.output))]
}

// Table lays out tests by guests. Every expected test has a line; a subtest has one when it did not pass everywhere. "-"
// stands for no result.
func Table(outcomes []Outcome, suites []Suite) string {
	var (
		b     strings.Builder
		w     = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		notes []string
	)
	line := func(head string, cell func(Outcome) string) {
		fmt.Fprint(w, head)
		for _, o := range outcomes {
			fmt.Fprint(w, "\t", cmp.Or(cell(o), "-"))
		}
		fmt.Fprintln(w)
	}
	line("", func(o Outcome) string { return o.Name })
	for _, s := range suites {
		for _, name := range linesOf(s, outcomes) {
			line(strings.TrimSuffix(s.binary, "test")+name, func(o Outcome) string {
				t := o.Console.find(s.binary).find(name)
				if t == nil {
					return ""
				}
				if t.status != "SKIP" {
					return t.status
				}
				n := slices.Index(notes, kerneltest.Reason(t.log))
				if n < 0 {
					n = len(notes)
					notes = append(notes, kerneltest.Reason(t.log))
				}
				return fmt.Sprintf("SKIP[%d]", n+1)
			})
		}
	}
	line("passed/failed/skipped", func(o Outcome) string { return o.Console.counts() })
	line("release", func(o Outcome) string { return o.Console.Release })
	line("possible CPUs", func(o Outcome) string { return o.Console.Possible })
	line("boot, seconds", func(o Outcome) string { return o.Console.uptime })
	_ = w.Flush() // into memory
	for i, note := range notes {
		fmt.Fprintf(&b, "[%d] %s\n", i+1, note)
	}
	return b.String()
}

// linesOf returns the names of the tests of s that get a line in the table, each top-level test before its subtests.
func linesOf(s Suite, outcomes []Outcome) []string {
	names := slices.Clone(s.tests)
	for _, o := range outcomes {
		r := o.Console.find(s.binary)
		if r == nil {
			continue
		}
		for _, t := range r.tests {
			if t.status == "PASS" || slices.Contains(names, t.name) {
				continue
			}
			top, _, _ := strings.Cut(t.name, "/")
			at := slices.Index(names, top)
			for at++; at < len(names) && strings.HasPrefix(names[at], top+"/"); {
				at++
			}
			names = slices.Insert(names, at, t.name)
		}
	}
	return names
}
