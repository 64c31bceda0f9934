package probes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

const (
	pagingFaults = "system.paging.faults"
	faultType    = "system.paging.fault.type"
)

var _ = addHelper("faults", helpFaults)

// helpFaults touches so many pages that nobody has touched, and each page of a file that is no longer in memory. It stays then.
func helpFaults(arguments []string) {
	page := os.Getpagesize()
	var sum byte
	touch := func(memory []byte) {
		for i := 0; i < len(memory); i += page {
			sum += memory[i]
		}
	}
	fresh, err := unix.Mmap(-1, 0, number(arguments, 0)*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		giveUp(err)
	}
	if err := unix.Madvise(fresh, unix.MADV_NOHUGEPAGE); err != nil {
		giveUp(err)
	}
	touch(fresh)
	file, err := os.Open(arguments[1])
	if err != nil {
		giveUp(err)
	}
	info, err := file.Stat()
	if err != nil {
		giveUp(err)
	}
	mapped, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		giveUp(err)
	}
	if err := unix.Madvise(mapped, unix.MADV_RANDOM); err != nil { // no page but that which is asked for
		giveUp(err)
	}
	touch(mapped)
	if sum != 0 {
		giveUp(errors.New("what is there is not zero"))
	}
	kerneltest.Wait()
}

// TestFaults compares the faults of processes with those that the kernel counts of them, while they are there (/proc/PID/stat) and
// after they have exited (wait4).
func TestFaults(t *testing.T) {
	set := open(t, loadOnly("faults", LinuxCgroup))
	file := filepath.Join(t.TempDir(), "file")
	exact := 0
	const rounds = 3
	for range rounds {
		const pages = 200
		forget(t, file, pages)
		group := kerneltest.NewCgroup(t, "")
		n := random(t, "pages", 1000, 3000)
		command := helper(t, group, "faults", n, file)
		p := start(t, command)
		stop(t, p.Process.Pid)
		minor, major := faultsOf(t, p.Process.Pid)
		living := by(t, read(t, set), pagingFaults, faultType, in(group))
		if err := unix.Kill(p.Process.Pid, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		p.finish(t)
		usage := command.ProcessState.SysUsage().(*syscall.Rusage)
		snapshot := read(t, set)
		exited := by(t, snapshot, pagingFaults, faultType, in(group))
		t.Logf("the kernel's %d and %d, ours %v; after the exit %d and %d, %v", minor, major, living, usage.Minflt, usage.Majflt, exited)
		if minor < uint64(n) || !inMatrix && major < pages/2 { // a virtual machine's files are always in memory
			t.Errorf("%d minor faults for %d pages, %d major ones for %d", minor, n, major, pages)
		}
		want := []uint64{minor, major, uint64(usage.Minflt), uint64(usage.Majflt)}
		got := []uint64{living["minor"], living["major"], exited["minor"], exited["major"]}
		if slices.Equal(got, want) {
			exact++
		}
		for i, least := range want {
			if kerneltest.HiddenSwitches(t) > 0 && missed(t, snapshot, "faults", MissedUnmatched) > 0 {
				least = 0 // a switch from a hidden task hides the faults of the next
			}
			within(t, "faults", got[i], least, want[i])
		}
	}
	if kerneltest.HiddenSwitches(t) == 0 {
		same(t, "switches from a task that was not seen to begin", missed(t, read(t, set), "faults", MissedUnmatched), 0)
	}
	if exact == 0 {
		t.Errorf("the faults are right in no round of %d", rounds)
	}
}

// forget writes a file of so many pages and has the kernel drop them from memory.
func forget(t testing.TB, path string, pages int) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(make([]byte, pages*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if err := file.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// faultsOf is what the kernel counts of a process, proc_pid_stat(5).
func faultsOf(t testing.TB, pid int) (minor, major uint64) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, fields, _ := strings.Cut(string(stat), ") ")
	var state string
	var skipped int
	if _, err := fmt.Sscan(fields, &state, &skipped, &skipped, &skipped, &skipped, &skipped, &skipped, &minor, &skipped, &major); err != nil {
		t.Fatal(err)
	}
	return minor, major
}
