package guest

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParseConsole(t *testing.T) {
	const boot = "[    3.36] Run /init as init process\r\nSIDECAR-BOOT release=6.1.0-56 possible=0-127 uptime=3.37\r\n"
	for name, c := range map[string]struct {
		console string
		want    []run // without output
		kernel  []string
		done    bool
	}{
		"boot that hangs": {console: "[    0.00] Linux version 6.1.0-56\r\n"},
		"passed and skipped": {
			console: boot + `SIDECAR-RUN probes.test
=== RUN   TestA
    a_test.go:9: one
        line more
--- PASS: TestA (0.01s)
=== RUN   TestB
    b_test.go:7: before
    b_test.go:8: needs
        5.19
--- SKIP: TestB (0.00s)
PASS

SIDECAR-RESULT probes.test exit=0
SIDECAR-DONE
`,
			want: []run{{binary: "probes.test", exit: "0", tests: []test{
				{"TestA", "PASS", []string{"    a_test.go:9: one", "        line more"}},
				{"TestB", "SKIP", []string{"    b_test.go:7: before", "    b_test.go:8: needs", "        5.19"}},
			}}},
			done: true,
		},
		"subtests": {
			console: boot + `SIDECAR-RUN probes.test
=== RUN   TestA
=== RUN   TestA/x#01
    a_test.go:9: bad
=== RUN   TestA/y
--- FAIL: TestA (0.10s)
    --- FAIL: TestA/x#01 (0.05s)
    --- PASS: TestA/y (0.05s)
FAIL

SIDECAR-RESULT probes.test exit=1
SIDECAR-DONE
`,
			want: []run{{binary: "probes.test", exit: "1", tests: []test{
				{"TestA", "FAIL", nil},
				{"TestA/x#01", "FAIL", []string{"    a_test.go:9: bad"}},
				{"TestA/y", "PASS", nil},
			}}},
			done: true,
		},
		"parallel tests": {
			console: boot + `SIDECAR-RUN probes.test
=== RUN   TestA
=== PAUSE TestA
=== RUN   TestB
=== PAUSE TestB
=== CONT  TestA
=== CONT  TestB
    b_test.go:1: of B
=== NAME  TestA
    a_test.go:1: of A
--- PASS: TestA (0.01s)
--- PASS: TestB (0.01s)
SIDECAR-RESULT probes.test exit=0
`,
			want: []run{{binary: "probes.test", exit: "0", tests: []test{
				{"TestA", "PASS", []string{"    a_test.go:1: of A"}},
				{"TestB", "PASS", []string{"    b_test.go:1: of B"}},
			}}},
		},
		"result behind an unfinished line": {
			console: boot + `SIDECAR-RUN probes.test
=== RUN   TestA
progress: 100%--- PASS: TestA (0.01s)
SIDECAR-RESULT probes.test exit=0
`,
			want: []run{{binary: "probes.test", exit: "0", tests: []test{{"TestA", "PASS", nil}}}},
		},
		"the kernel complains": {
			console: boot + `SIDECAR-RUN probes.test
PASS

SIDECAR-RESULT probes.test exit=0
SIDECAR-KERNEL [   20.31] WARNING: CPU: 0 PID: 1 at kernel/bpf/x.c:9 x+0x1/0x2
SIDECAR-DONE
`,
			want:   []run{{binary: "probes.test", exit: "0"}},
			kernel: []string{"[   20.31] WARNING: CPU: 0 PID: 1 at kernel/bpf/x.c:9 x+0x1/0x2"},
			done:   true,
		},
		"the same name in two binaries, the second hangs": {
			console: boot + `SIDECAR-RUN bpf.test
=== RUN   TestA
--- PASS: TestA (0.01s)
SIDECAR-RESULT bpf.test exit=0
SIDECAR-RUN probes.test
=== RUN   TestA
    a_test.go:9: half
`,
			want: []run{
				{binary: "bpf.test", exit: "0", tests: []test{{"TestA", "PASS", nil}}},
				{binary: "probes.test"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseConsole(strings.NewReader(c.console))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(c.console, boot) && (got.Release != "6.1.0-56" || got.Possible != "0-127" || got.uptime != "3.37") {
				t.Errorf("boot: %q, %q, %q", got.Release, got.Possible, got.uptime)
			}
			for i := range got.runs {
				got.runs[i].output = nil
			}
			if !reflect.DeepEqual(got.runs, c.want) {
				t.Errorf("got  %q\nwant %q", got.runs, c.want)
			}
			if !slices.Equal(got.kernel, c.kernel) {
				t.Errorf("kernel: %q, want %q", got.kernel, c.kernel)
			}
			if got.done != c.done {
				t.Errorf("done: %v, want %v", got.done, c.done)
			}
		})
	}
}

func TestParseConsoleRefusesStrayResult(t *testing.T) {
	_, err := parseConsole(strings.NewReader("SIDECAR-RUN a.test\nSIDECAR-RESULT b.test exit=0\n"))
	if err == nil {
		t.Error("a result of a binary that was not running went unnoticed")
	}
}
