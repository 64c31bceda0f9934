package guest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// Boot has a script boot a guest, with the option -l LOG before its other arguments, and reads the console that it leaves there.
func Boot(script, log string, args ...string) Outcome {
	var stderr bytes.Buffer
	cmd := exec.Command(script, append([]string{"-l", log}, args...)...)
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	failure := cmd.Run() // also of a test, which the console tells better

	f, err := os.Open(log)
	if err != nil {
		return Outcome{Err: fmt.Errorf("no boot: %w\n%s", failure, &stderr)}
	}
	defer f.Close()
	c, err := parseConsole(f)
	if err == nil && !c.done {
		err = fmt.Errorf("did not get through: %w\n%s", failure, &stderr)
	}
	return Outcome{Console: c, Err: err}
}

// Log returns the file for the console of a guest, in the user's cache.
func Log(t *testing.T, name string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	logs := filepath.Join(cache, "sidecar", "vm")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(logs, strings.ReplaceAll(name, "/", "-")+".log")
}

// Build compiles the test binary of each package with build tags, into a folder of its own, beside its testdata, and asks it for
// those of its tests whose names match a pattern. Packages are relative to root.
func Build(t *testing.T, root, tags, pattern string, packages ...string) (binaries []string, suites []Suite) {
	t.Helper()
	format := "{{.ImportPath}}\t{{.Dir}}\t{{with .Module}}{{.Path}}{{end}}"
	listed := Command(t, root, "go", append([]string{"list", "-tags", tags, "-f", format}, packages...)...)
	for line := range strings.Lines(listed) {
		parts := strings.Split(strings.TrimSpace(line), "\t")
		path, dir, module := parts[0], parts[1], parts[2]
		name := strings.ReplaceAll(strings.TrimPrefix(path, module+"/"), "/", "-") + ".test"
		folder := filepath.Join(t.TempDir(), name)
		binary := filepath.Join(folder, name)
		Command(t, root, "go", "test", "-c", "-tags", tags, "-o", binary, path)
		if _, err := os.Stat(binary); err != nil {
			t.Fatalf("%s has no tests", path)
		}
		data := filepath.Join(dir, "testdata")
		if _, err := os.Stat(data); err == nil {
			if err := os.CopyFS(filepath.Join(folder, "testdata"), os.DirFS(data)); err != nil {
				t.Fatal(err)
			}
		}
		tests := testName.FindAllString(Command(t, dir, binary, "-test.list", pattern), -1)
		if len(tests) == 0 {
			t.Fatalf("%s has no tests that match %s", path, pattern)
		}
		binaries = append(binaries, binary)
		suites = append(suites, Suite{binary: name, tests: tests})
	}
	return binaries, suites
}

var testName = regexp.MustCompile(`(?m)^(Test|Fuzz|Example)\w*$`)

// Command runs a command in a folder and returns its output.
func Command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the guest has no libc, or another
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}
