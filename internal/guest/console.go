// Package guest is what the tests in virtual machines share: it builds the test binaries of packages, has a script boot a guest
// that runs them, reads the guest's console and says what is wrong.
package guest

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// Console is what one boot told.
type Console struct {
	Release  string // uname -r
	Possible string // the list of possible CPUs
	uptime   string // seconds from the start of the kernel to the first test binary
	runs     []run
	kernel   []string // what the kernel's log tells of itself during the tests: a bug, a warning
	done     bool     // the guest got through all test binaries
}

// run is one test binary in the guest.
type run struct {
	binary string
	exit   string // its exit status, empty when it did not end
	tests  []test // subtests too, in the order of their results
	output []string
}

// test is one result of a run.
type test struct {
	name   string
	status string // PASS, FAIL or SKIP
	log    []string
}

var (
	// Not bound to the start of the line: a test may have written there without ending its line.
	resultLine = regexp.MustCompile(`--- (PASS|FAIL|SKIP): (\S+) \(\d+\.\d+s\)$`)
	// go test -v says whose lines follow. NAME and CONT come when the output of parallel tests mixes.
	turnLine = regexp.MustCompile(`^=== (?:RUN|PAUSE|CONT|NAME) +(\S+)$`)
)

// parseConsole reads a guest's console: the lines of init, and between them what go test -v prints.
func parseConsole(r io.Reader) (Console, error) {
	var (
		c       Console
		current *run // the binary that runs now
		turn    string
		logs    = map[string][]string{} // of the tests of the current run
	)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "SIDECAR-BOOT":
			c.Release, c.Possible, c.uptime = field(rest, "release"), field(rest, "possible"), field(rest, "uptime")
			continue
		case "SIDECAR-RUN":
			c.runs = append(c.runs, run{binary: rest})
			current, turn, logs = &c.runs[len(c.runs)-1], "", map[string][]string{}
			continue
		case "SIDECAR-RESULT":
			name, _, _ := strings.Cut(rest, " ")
			if current == nil || current.binary != name {
				return c, fmt.Errorf("a result of %s, which was not running", name)
			}
			current.exit = field(rest, "exit")
			current = nil
			continue
		case "SIDECAR-KERNEL":
			c.kernel = append(c.kernel, rest)
			continue
		case "SIDECAR-DONE":
			c.done = true
			continue
		}
		if current == nil {
			continue
		}
		current.output = append(current.output, line)
		if m := resultLine.FindStringSubmatch(line); m != nil {
			current.tests = append(current.tests, test{name: m[2], status: m[1], log: logs[m[2]]})
		} else if m := turnLine.FindStringSubmatch(line); m != nil {
			turn = m[1]
		} else {
			logs[turn] = append(logs[turn], line)
		}
	}
	return c, lines.Err()
}

// field returns the value of key in a line of key=value words.
func field(line, key string) string {
	for word := range strings.FieldsSeq(line) {
		if value, ok := strings.CutPrefix(word, key+"="); ok {
			return value
		}
	}
	return ""
}

// find returns the run of a binary, nil when it was not started.
func (c Console) find(binary string) *run {
	for i := range c.runs {
		if c.runs[i].binary == binary {
			return &c.runs[i]
		}
	}
	return nil
}

// find returns a test's result, nil when it has none. A nil run has none.
func (r *run) find(name string) *test {
	if r == nil {
		return nil
	}
	for i := range r.tests {
		if r.tests[i].name == name {
			return &r.tests[i]
		}
	}
	return nil
}
