//go:build matrix

package vm

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rows are the kernels, one of them with one CPU, where the kernel takes short cuts (membarrier), and one with many: per-CPU
// maps have a value for each possible CPU, used or not.
var rows = []struct {
	name     string
	kernel   string
	options  []string // of run.sh
	possible string
}{
	{name: "5.10", kernel: "5.10", possible: "0-1"},
	{name: "6.1", kernel: "6.1", possible: "0-1"},
	{name: "6.12", kernel: "6.12", possible: "0-1"},
	{name: "newest", kernel: "newest", possible: "0-1"},
	{name: "6.1/1cpu", kernel: "6.1", options: []string{"-s", "1"}, possible: "0"},
	{name: "6.12/128cpu", kernel: "6.12", options: []string{"-s", "2,maxcpus=128", "-q", vmware}, possible: "0-127"},
}

// vmware lets the guest take QEMU for VMware. From 6.9 on, a CPU that could be plugged in counts as possible only under a
// hypervisor the kernel knows (acpi_is_processor_usable, arch/x86/kernel/acpi/boot.c), and this is the one QEMU can pass for
// without KVM: vmware_platform looks at the serial number and asks at an I/O port. The other way, 128 CPUs that are present
// and two started (-smp 128, maxcpus=2), costs four times as much.
const vmware = "-machine vmport=on -cpu qemu64,-hypervisor -smbios type=1,serial=VMware"

// root is the module's, seen from this folder, where go test runs.
const root = "../.."

// atOnce is how many guests run at a time. QEMU emulates one on one CPU.
const atOnce = 2

func TestMatrix(t *testing.T) {
	seconds := cmp.Or(os.Getenv("SIDECAR_VM_TIMEOUT"), "600")
	limit, err := strconv.Atoi(seconds)
	if err != nil {
		t.Fatalf("SIDECAR_VM_TIMEOUT: %v (a number of seconds)", err)
	}
	longest := time.Duration((len(rows)+atOnce-1)/atOnce*limit) * time.Second
	if deadline, ok := t.Deadline(); ok && time.Until(deadline) < longest {
		t.Fatalf("may take %v: give go test a longer -timeout", longest)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	logs := filepath.Join(cache, "sidecar", "vm")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}

	binaries, suites := build(t)
	outcomes := make([]outcome, len(rows))
	t.Cleanup(func() {
		// Of a -run TestMatrix/5.10 only that row.
		var ran []outcome
		for _, o := range outcomes {
			if o.row != "" {
				ran = append(ran, o)
			}
		}
		t.Logf("the matrix:\n%s", table(ran, suites))
	})
	slots := make(chan struct{}, atOnce)
	for i, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()

			log := filepath.Join(logs, strings.ReplaceAll(row.name, "/", "-")+".log")
			args := append([]string{"-n", row.name, "-l", log, "-t", seconds}, row.options...)
			o := boot(log, append(append(args, row.kernel), binaries...)...)
			o.row = row.name
			outcomes[i] = o
			for _, problem := range o.problems(suites) {
				t.Errorf("%s\n(console: %s)", problem, log)
			}
			if o.err == nil && o.console.possible != row.possible {
				t.Errorf("possible CPUs are %s, want %s", o.console.possible, row.possible)
			}
		})
	}
}

// boot runs run.sh and reads the console it leaves.
func boot(log string, args ...string) outcome {
	var stderr bytes.Buffer
	cmd := exec.Command("./run.sh", args...)
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	failure := cmd.Run() // also of a test, which the console tells better

	f, err := os.Open(log)
	if err != nil {
		return outcome{err: fmt.Errorf("no boot: %w\n%s", failure, &stderr)}
	}
	defer f.Close()
	c, err := parseConsole(f)
	if err == nil && !c.done {
		err = fmt.Errorf("did not get through: %w\n%s", failure, &stderr)
	}
	return outcome{console: c, err: err}
}

// build compiles the test binary of each package into a folder of its own, beside its testdata, and asks it for its tests.
func build(t *testing.T) (binaries []string, suites []suite) {
	t.Helper()
	packages := strings.Fields(cmp.Or(os.Getenv("SIDECAR_VM_PACKAGES"), "./bpf ./series ./workload ./probes"))
	format := "{{.ImportPath}}\t{{.Dir}}\t{{with .Module}}{{.Path}}{{end}}"
	listed := command(t, root, "go", append([]string{"list", "-f", format}, packages...)...)
	for line := range strings.Lines(listed) {
		parts := strings.Split(strings.TrimSpace(line), "\t")
		path, dir, module := parts[0], parts[1], parts[2]
		name := strings.ReplaceAll(strings.TrimPrefix(path, module+"/"), "/", "-") + ".test"
		folder := filepath.Join(t.TempDir(), name)
		binary := filepath.Join(folder, name)
		command(t, root, "go", "test", "-c", "-tags", "matrix", "-o", binary, path)
		if _, err := os.Stat(binary); err != nil {
			t.Fatalf("%s has no tests: take it out of SIDECAR_VM_PACKAGES", path)
		}
		data := filepath.Join(dir, "testdata")
		if _, err := os.Stat(data); err == nil {
			if err := os.CopyFS(filepath.Join(folder, "testdata"), os.DirFS(data)); err != nil {
				t.Fatal(err)
			}
		}
		tests := testName.FindAllString(command(t, dir, binary, "-test.list", "^(Test|Fuzz|Example)"), -1)
		if len(tests) == 0 {
			t.Fatalf("%s has no tests: take it out of SIDECAR_VM_PACKAGES", path)
		}
		binaries = append(binaries, binary)
		suites = append(suites, suite{binary: name, tests: tests})
	}
	return binaries, suites
}

var testName = regexp.MustCompile(`(?m)^(Test|Fuzz|Example)\w*$`)

func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the guest has no libc
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}
