package probes

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// nobody is the user that owns nothing.
const nobody = 65534

// TestPrivileges loads the probes as a user who owns nothing, where no tracefs is mounted.
func TestPrivileges(t *testing.T) {
	kerneltest.NeedRoot(t)
	programs := newExecutables(t)
	for _, test := range []struct {
		name         string
		capabilities string
		want         string // in the output
	}{
		{"BPF and PERFMON", fmt.Sprintf("%d,%d", unix.CAP_BPF, unix.CAP_PERFMON), "counted"},
		{"none", "", "CAP_BPF and CAP_PERFMON"},
		{"BPF alone", strconv.Itoa(unix.CAP_BPF), "CAP_BPF and CAP_PERFMON"},
	} {
		t.Run(test.name, func(t *testing.T) {
			command := helper(t, nil, "unprobed", random(t, "executions", 5, 20), test.capabilities)
			command.Path = programs.named(t, fmt.Sprintf("unprivileged-%x", rand.Uint64()))
			command.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
			command.Stderr = nil
			output, err := command.CombinedOutput()
			t.Logf("%s", output)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(output), test.want) {
				t.Errorf("no %q in %q", test.want, output)
			}
		})
	}
}

var (
	_ = addHelper("unprobed", helpUnprobed)
	_ = addHelper("privileges", helpPrivileges)
)

// helpUnprobed unmounts what tracing programs could use besides the system call, in a mount namespace of its own, and goes on
// as nobody with some capabilities.
func helpUnprobed(arguments []string) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		giveUp(err)
	}
	for line := range strings.Lines(string(mounts)) {
		mount, fileSystem, _ := strings.Cut(line, " - ")
		switch name, _, _ := strings.Cut(fileSystem, " "); name {
		case "tracefs", "debugfs", "bpf":
			path := strings.Fields(mount)[4]
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				giveUp(fmt.Errorf("unmount %s: %w", path, err))
			}
		}
	}
	// Kernels before 5.11 charge maps to it. On others it makes no difference that root may lack CAP_SYS_RESOURCE.
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited)
	attributes := &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		Pdeathsig:  syscall.SIGKILL,
	}
	var wanted uint64
	if len(arguments) > 1 {
		for word := range strings.SplitSeq(arguments[1], ",") {
			capability, err := strconv.Atoi(word)
			if err != nil {
				giveUp(err)
			}
			attributes.AmbientCaps = append(attributes.AmbientCaps, uintptr(capability))
			wanted |= 1 << capability
		}
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"unprivileged"}, &syscall.ProcAttr{
		Env:   []string{fmt.Sprintf("%s=privileges %s %d", helperVariable, arguments[0], wanted)},
		Files: []uintptr{0, 1, 2},
		Sys:   attributes,
	})
	if err != nil {
		giveUp(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		giveUp(err)
	}
	os.Exit(status.ExitStatus())
}

// helpPrivileges checks that it has the capabilities of a set and no others, and counts executions of its own.
func helpPrivileges(arguments []string) {
	var effective uint64
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		giveUp(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			if effective, err = strconv.ParseUint(strings.TrimSpace(value), 16, 64); err != nil {
				giveUp(err)
			}
		}
	}
	if wanted := uint64(number(arguments, 1)); effective != wanted || os.Geteuid() != nobody {
		giveUp(fmt.Errorf("user %d has capabilities %#x, not %#x", os.Geteuid(), effective, wanted))
	}
	if _, err := os.Stat("/sys/kernel/tracing/events"); err == nil {
		giveUp(errors.New("tracefs is there"))
	}
	if err := countUnprivileged(number(arguments, 0)); err != nil {
		fmt.Println(err)
	}
}

func countUnprivileged(n int) (err error) {
	options := Options{Enabled: every, Attributes: []string{ExecutableName}, SeriesLimit: 1000, MemoryLimit: 64 << 20}
	kernel, err := RunningKernel()
	if err != nil {
		return err
	}
	plan, err := NewPlan(All(), options, kernel)
	if err != nil {
		return err
	}
	set, err := Load(plan)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	for i, status := range set.Status() {
		if status.State != Attached && kernel.Supports(All()[i]) {
			return fmt.Errorf("%s: %w", status.State, status.Err)
		}
	}
	if err := set.Open(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	helpForks([]string{strconv.Itoa(n)})
	snapshot, err := set.Snapshot()
	if err != nil {
		return err
	}
	var counted uint64
	for _, metric := range snapshot.Metrics {
		for _, point := range metric.Points {
			if metric.Instrument.Name == executions && attribute(point, ExecutableName) == filepath.Base(self) {
				counted += point.Value
			}
		}
	}
	if counted != uint64(n) {
		return fmt.Errorf("%d executions, want %d", counted, n)
	}
	fmt.Printf("counted %d\n", counted)
	return nil
}
