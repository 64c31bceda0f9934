package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
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
		"a feature is named before": {
			[]event{ended("pass", "TestA"), logged("TestB", "    b_test.go:1: needs Linux 6.4: x"), logged("TestB", "    b_test.go:2: no stress-ng"), ended("skip", "TestB")},
			[3]int{1, 0, 1}, []string{"p TestB was skipped"}},
		"one did not run":    {[]event{ended("pass", "TestA")}, [3]int{1, 0, 0}, []string{"p TestB has no result"}},
		"the binary ends it": {nil, [3]int{}, []string{"p TestA has no result", "p TestB has no result", "no test ran"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := newTally(io.Discard)
			for _, e := range c.results {
				got.add(e)
			}
			err := got.end(tests)
			if (err != nil) != (c.problem != nil) {
				t.Errorf("error %v", err)
			}
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
	var got []test
	for _, e := range []event{
		{Action: "start", Package: "p"},
		{Action: "output", Package: "p", Output: "TestA\n"},
		{Action: "output", Package: "p", Output: "FuzzB\n"},
		{Action: "output", Package: "p", Output: "ok  \tp\t0.1s\n"},
	} {
		got = append(got, listed(e)...)
	}
	if want := []test{{"p", "TestA"}, {"p", "FuzzB"}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// What go test prints of a package arrives, also where a package does not compile.
func TestRun(t *testing.T) {
	folder := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":        "module x\n",
		"a/a_test.go":   "package a\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) {}\n",
		"bad/b_test.go": "package bad\n\nvar nothing = unheardOf\n",
	} {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(folder)
	for _, c := range []struct {
		pkg, want string
		works     bool
	}{
		{"./a", "ok  \tx/a", true},
		{"./bad", "undefined: unheardOf", false},
	} {
		var out strings.Builder
		if err := run([]string{c.pkg}, &out); (err == nil) != c.works || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: %v, %q", c.pkg, err, &out)
		}
	}
}
