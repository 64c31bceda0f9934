// Command tally runs go test and counts what ran. It fails where go test does, and also if a test that a package has
// gave no result, or was skipped for another reason than a feature that the kernel lacks.
//
//	go run ./internal/tally [FLAG]... PACKAGE...
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
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
	listing, err := events(append([]string{"-list", "^(Test|Fuzz|Example)"}, args...))
	if err != nil {
		return fmt.Errorf("list the tests: %w", err)
	}
	results, failure := events(args)
	t := count(listed(listing), results)
	t.print(w)
	return errors.Join(failure, t.err())
}

// event is a line of go test -json (go doc test2json).
type event struct{ Action, Package, Test, Output string }

func events(args []string) ([]event, error) {
	command := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	command.Stderr = os.Stderr
	output, failure := command.Output()
	var all []event
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var e event
		switch err := decoder.Decode(&e); {
		case errors.Is(err, io.EOF):
			return all, failure
		case err != nil:
			return nil, errors.Join(failure, err)
		}
		all = append(all, e)
	}
}

// test is a test of a package; name/sub is a subtest.
type test struct{ pkg, name string }

// listed reads the tests that there are from what go test -list prints.
func listed(listing []event) []test {
	var tests []test
	for _, e := range listing {
		name := strings.TrimSpace(e.Output)
		if e.Action == "output" && (strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz") || strings.HasPrefix(name, "Example")) {
			tests = append(tests, test{e.Package, name})
		}
	}
	return tests
}

type tally struct {
	closing                 []string // of the packages
	passed, failed, skipped int      // tests and subtests
	problems                []string
}

// count goes through the results of a run and holds them against the tests that there are.
func count(tests []test, results []event) tally {
	var t tally
	output := map[test]string{}
	ended := map[test]bool{}
	for _, e := range results {
		at := test{e.Package, e.Test}
		if e.Action == "output" {
			output[at] += e.Output
			if e.Test == "" && !strings.HasPrefix(e.Output, "PASS") {
				t.closing = append(t.closing, e.Output)
			}
			continue
		}
		if e.Test == "" {
			continue
		}
		switch e.Action {
		case "pass":
			t.passed++
		case "fail":
			t.failed++
			t.problems = append(t.problems, fmt.Sprintf("%s %s failed:\n%s", e.Package, e.Test, output[at]))
		case "skip":
			t.skipped++
			if !kerneltest.LacksFeature(output[at]) {
				t.problems = append(t.problems, fmt.Sprintf("%s %s was skipped, and not for a feature that the kernel lacks:\n%s", e.Package, e.Test, output[at]))
			}
		default:
			continue
		}
		ended[at] = true
	}
	for _, at := range tests {
		if !ended[at] {
			t.problems = append(t.problems, fmt.Sprintf("%s %s has no result:\n%s", at.pkg, at.name, output[at]))
		}
	}
	if t.passed == 0 {
		t.problems = append(t.problems, "no test ran")
	}
	return t
}

func (t tally) print(w io.Writer) {
	for _, text := range slices.Concat(t.closing, t.problems) {
		fmt.Fprintln(w, strings.TrimRight(text, "\n"))
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
}

func (t tally) err() error {
	if len(t.problems) == 0 {
		return nil
	}
	return fmt.Errorf("%d problems", len(t.problems))
}
