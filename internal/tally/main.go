// Command tally runs go test and counts what ran. It fails where go test does, and also if a test that a package has
// gave no result, or was skipped for another reason than a feature that the kernel lacks.
//
//	go run ./internal/tally [FLAG]... PACKAGE...
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "tally: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, w io.Writer) error {
	var tests []test
	list := func(e event) { tests = append(tests, listed(e)...) }
	if err := goTest(append([]string{"-list", "^(Test|Fuzz|Example)"}, args...), w, list); err != nil {
		return fmt.Errorf("list the tests: %w", err)
	}
	t := newTally(w)
	failure := goTest(args, w, t.add)
	return errors.Join(failure, t.end(tests))
}

// event is a line of go test -json (go doc test2json, go help buildjson).
type event struct{ Action, Package, Test, Output string }

// goTest runs go test and hands on its events as they come. What the compiler says is printed.
func goTest(args []string, w io.Writer, handle func(event)) error {
	command := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	command.Stderr = os.Stderr
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	for decoder := json.NewDecoder(output); ; {
		var e event
		if err := decoder.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			_, _ = io.Copy(io.Discard, output) // for go test to end
			return errors.Join(err, command.Wait())
		}
		if e.Action == "build-output" {
			fmt.Fprint(w, e.Output)
		}
		handle(e)
	}
}

// test is a test of a package; name/sub is a subtest.
type test struct{ pkg, name string }

// listed reads the test that there is from a line that go test -list prints.
func listed(e event) []test {
	name := strings.TrimSpace(e.Output)
	if e.Action == "output" && (strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz") || strings.HasPrefix(name, "Example")) {
		return []test{{e.Package, name}}
	}
	return nil
}

// tally counts the results of a run.
type tally struct {
	w                       io.Writer
	passed, failed, skipped int // tests and subtests
	problems                []string
	output                  map[test]string
	ended                   map[test]bool
}

func newTally(w io.Writer) *tally {
	return &tally{w: w, output: map[test]string{}, ended: map[test]bool{}}
}

// add takes in an event. The line that closes a package is printed at once.
func (t *tally) add(e event) {
	at := test{e.Package, e.Test}
	if e.Action == "output" {
		t.output[at] += e.Output
		if e.Test == "" && !strings.HasPrefix(e.Output, "PASS") {
			fmt.Fprint(t.w, e.Output)
		}
		return
	}
	if e.Test == "" {
		return
	}
	switch e.Action {
	case "pass":
		t.passed++
	case "fail":
		t.failed++
		t.problem("%s %s failed:\n%s", e.Package, e.Test, t.output[at])
	case "skip":
		t.skipped++
		if !kerneltest.LacksFeature(kerneltest.Reason(strings.Split(t.output[at], "\n"))) {
			t.problem("%s %s was skipped, and not for a feature that the kernel lacks:\n%s", e.Package, e.Test, t.output[at])
		}
	default:
		return
	}
	t.ended[at] = true
}

func (t *tally) problem(format string, args ...any) {
	t.problems = append(t.problems, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
}

// end holds the results against the tests that there are, and prints what came of them.
func (t *tally) end(tests []test) error {
	for _, at := range tests {
		if !t.ended[at] {
			t.problem("%s %s has no result:\n%s", at.pkg, at.name, t.output[at])
		}
	}
	if t.passed == 0 {
		t.problem("no test ran")
	}
	for _, text := range t.problems {
		fmt.Fprintln(t.w, text)
	}
	fmt.Fprintf(t.w, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	if len(t.problems) == 0 {
		return nil
	}
	return fmt.Errorf("%d problems", len(t.problems))
}
