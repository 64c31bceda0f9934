package vm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// suite is a test binary and the top-level tests it must report on.
type suite struct {
	binary string
	tests  []string
}

// outcome is what came of one row of the matrix.
type outcome struct {
	row     string
	console console
	err     error // why the guest did not get through its test binaries
}

// problems returns what is wrong with an outcome, nothing when every expected test has a result and none failed.
func (o outcome) problems(suites []suite) []string {
	var found []string
	report := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if o.err != nil {
		report("%v", o.err)
	}
	for _, line := range o.console.kernel {
		report("in the kernel's log: %s", line)
	}
	for _, s := range suites {
		r := o.console.find(s.binary)
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

// counts tells how many tests and subtests passed, failed and were skipped.
func (c console) counts() string {
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

// table lays out tests by kernels. Every expected test has a line; a subtest has one when it did not pass everywhere. "-"
// stands for no result.
func table(outcomes []outcome, suites []suite) string {
	var (
		b     strings.Builder
		w     = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		notes []string
	)
	line := func(head string, cell func(outcome) string) {
		fmt.Fprint(w, head)
		for _, o := range outcomes {
			fmt.Fprint(w, "\t", cmp.Or(cell(o), "-"))
		}
		fmt.Fprintln(w)
	}
	line("", func(o outcome) string { return o.row })
	for _, s := range suites {
		for _, name := range linesOf(s, outcomes) {
			line(strings.TrimSuffix(s.binary, "test")+name, func(o outcome) string {
				t := o.console.find(s.binary).find(name)
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
	line("passed/failed/skipped", func(o outcome) string { return o.console.counts() })
	line("release", func(o outcome) string { return o.console.release })
	line("possible CPUs", func(o outcome) string { return o.console.possible })
	line("boot, seconds", func(o outcome) string { return o.console.uptime })
	_ = w.Flush() // into memory
	for i, note := range notes {
		fmt.Fprintf(&b, "[%d] %s\n", i+1, note)
	}
	return b.String()
}

// linesOf returns the names of the tests of s that get a line in the table, each top-level test before its subtests.
func linesOf(s suite, outcomes []outcome) []string {
	names := slices.Clone(s.tests)
	for _, o := range outcomes {
		r := o.console.find(s.binary)
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
