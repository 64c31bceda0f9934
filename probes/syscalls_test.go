package probes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

const (
	syscallDuration   = "linux.syscall.duration"
	executionAttempts = "linux.process.execution.attempts"
)

var (
	_ = addHelper("syscalls", helpSyscalls)
	_ = addHelper("syscalls-execute", helpSyscallsExecute)
	_ = addHelper("syscalls-refused", helpSyscallsRefused)
	_ = addHelper("syscalls-storm", helpSyscallsStorm)
)

// syscallFailures are ways to open what cannot be, none of them the Go runtime's.
var syscallFailures = []struct {
	errno unix.Errno
	path  string
	flags int
}{
	{unix.ENOTDIR, "/proc/self/exe/x", unix.O_RDONLY},
	{unix.EISDIR, "/proc", unix.O_WRONLY},
	{unix.ELOOP, "/proc/self", unix.O_NOFOLLOW},
	{unix.ENAMETOOLONG, "/" + strings.Repeat("n", 256), unix.O_RDONLY},
	{unix.EINVAL, "/", unix.O_TMPFILE}, // which is for writing
}

// helpSyscalls makes calls that the Go runtime does not make: those of a number first.
func helpSyscalls(arguments []string) {
	for range number(arguments, 0) {
		_, _, _ = unix.RawSyscall(unix.SYS_GETPGID, 0, 0, 0)
	}
	for range number(arguments, 1) {
		_, _, _ = unix.RawSyscall(1000, 0, 0, 0) // nobody's
	}
	for i := range number(arguments, 2) {
		_, _, _ = unix.RawSyscall(1<<20+uintptr(i), 0, 0, 0)
	}
	for i, failure := range syscallFailures {
		for range number(arguments, 3+i) {
			if _, err := unix.Openat(unix.AT_FDCWD, failure.path, failure.flags, 0); !errors.Is(err, failure.errno) {
				giveUp(fmt.Errorf("open %s: %w, want %w", failure.path, err, failure.errno))
			}
		}
	}
}

// syscallCounts are how many calls there were by name and error, "getpgid" or "openat ENOENT".
func syscallCounts(t testing.TB, s *Snapshot, filter func(Point) bool) map[string]uint64 {
	t.Helper()
	counts := make(map[string]uint64)
	for _, p := range points(t, s, syscallDuration, filter) {
		counts[withError(fmt.Sprint(attribute(p, "linux.syscall.name")), p)] += p.Histogram.Count()
	}
	return counts
}

func withError(name string, p Point) string {
	if failure := attribute(p, "error.type"); failure != nil {
		return fmt.Sprint(name, " ", failure)
	}
	return name
}

// only are the counts of some names.
func only(counts map[string]uint64, names ...string) map[string]uint64 {
	some := make(map[string]uint64)
	for name, count := range counts {
		if slices.Contains(names, strings.Fields(name)[0]) {
			some[name] = count
		}
	}
	return some
}

func TestSyscalls(t *testing.T) {
	set := open(t, loadOnly("syscalls", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	n, nobodys, madeUp := random(t, "getpgid", 1, 100_000), random(t, "nobody's", 1, 100), random(t, "made up", 1, 100)
	want := map[string]uint64{"getpgid": uint64(n), "syscall_1000 ENOSYS": uint64(nobodys), "_OTHER ENOSYS": uint64(madeUp)}
	words := []any{"syscalls", n, nobodys, madeUp}
	for _, failure := range syscallFailures {
		name := "openat " + unix.ErrnoName(failure.errno)
		fails := random(t, name, 1, 1000)
		words = append(words, fails)
		want[name] = uint64(fails)
	}
	mustRun(t, helper(t, group, words...))

	got := syscallCounts(t, read(t, set), in(group))
	failures := only(got, "getpgid", "syscall_1000", "_OTHER")
	for name, count := range only(got, "openat") {
		if want[name] != 0 {
			failures[name] = count
		}
	}
	equal(t, "calls", failures, want)
}

// A call is counted when it ends, and lasts as long as it was blocked.
func TestSyscallBlocked(t *testing.T) {
	set := open(t, loadOnly("syscalls", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	const call = "pselect6"
	selects := func(p Point) bool { return in(group)(p) && attribute(p, "linux.syscall.name") == call }
	before := time.Now()
	p := start(t, helper(t, group, "syscalls-select"))
	time.Sleep(200 * time.Millisecond) // it said that it is ready a moment before the call
	began := time.Now()
	time.Sleep(time.Duration(random(t, "ms", 500, 2000)) * time.Millisecond)
	if count, _ := durations(t, read(t, set), syscallDuration, selects); count != 0 {
		t.Errorf("%d calls that are not over", count)
	}
	low := time.Since(began)
	p.finish(t)
	high := time.Since(before)
	count, ns := durations(t, read(t, set), syscallDuration, selects)
	same(t, call, count, 1)
	within(t, "ns", ns, uint64(low), uint64(high))
}

var _ = addHelper("syscalls-select", helpSyscallsSelect)

// helpSyscallsSelect waits for the end of its input, in one call.
func helpSyscallsSelect([]string) {
	var fds unix.FdSet
	fds.Set(0)
	fmt.Println("ready")
	if _, err := unix.Pselect(1, &fds, nil, nil, nil, nil); err != nil {
		giveUp(err)
	}
}

// missedUnmatched is how many ends of calls there were without a beginning.
func missedUnmatched(t testing.TB, set *Set) uint64 {
	t.Helper()
	snapshot, err := set.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, status := range snapshot.Probes {
		for _, missed := range status.Missed {
			if missed.Reason == MissedUnmatched {
				sum += missed.Count
			} else if missed.Count != 0 {
				t.Errorf("%+v", missed)
			}
		}
	}
	return sum
}

// refuse has seccomp refuse calls of the calling thread, by number.
func refuse(action uint32, calls ...uint32) error {
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the number (struct seccomp_data)
	for _, call := range calls {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// helpSyscallsRefused makes calls that seccomp refuses, each right after one that it does not, and then one that it kills for.
func helpSyscallsRefused(arguments []string) {
	runtime.LockOSThread()
	if err := refuse(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM), unix.SYS_GETSID, unix.SYS_EXECVE); err != nil {
		giveUp(err)
	}
	if err := refuse(unix.SECCOMP_RET_KILL_PROCESS, unix.SYS_SETHOSTNAME); err != nil {
		giveUp(err)
	}
	for range number(arguments, 0) {
		_, _, _ = unix.RawSyscall(unix.SYS_GETPGID, 0, 0, 0)
		if _, _, errno := unix.RawSyscall(unix.SYS_GETSID, 0, 0, 0); errno != unix.EPERM {
			giveUp(errno)
		}
	}
	for range number(arguments, 1) {
		if _, _, errno := unix.RawSyscall(unix.SYS_EXECVE, 0, 0, 0); errno != unix.EPERM {
			giveUp(errno)
		}
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SETHOSTNAME, 0, 0, 0)
}

// What seccomp refuses ends without a beginning, and takes nobody else's.
func TestSyscallRefused(t *testing.T) {
	set := open(t, loadOnly("syscalls", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	n, executed := random(t, "refused", 1, 1000), random(t, "refused executions", 1, 100)
	unmatched := missedUnmatched(t, set)
	if status := run(t, helper(t, group, "syscalls-refused", n, executed)); status.Signal() != unix.SIGSYS {
		t.Fatalf("status %#x", status)
	}
	// What seccomp kills for ends, too, from 5.17 on (495ac3069a66).
	within(t, "unmatched", missedUnmatched(t, set)-unmatched, uint64(n+executed), uint64(n+executed)+1)
	snapshot, err := set.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "calls", only(syscallCounts(t, snapshot, in(group)), "getpgid", "getsid", "sethostname", "execve"),
		map[string]uint64{"getpgid": uint64(n), "execve": 1})
	equal(t, "attempts", by(t, snapshot, executionAttempts, "error.type", in(group)),
		map[any]uint64{nil: 1, "EPERM": uint64(executed)})
}

// helpSyscallsExecute fails to execute a path, n times each.
func helpSyscallsExecute(arguments []string) {
	for ; len(arguments) > 0; arguments = arguments[2:] {
		path, err := unix.BytePtrFromString(arguments[0])
		if err != nil {
			giveUp(err)
		}
		argv := []*byte{path, nil}
		if strings.HasSuffix(arguments[0], "/E2BIG") {
			const most = 128 << 10 // MAX_ARG_STRLEN
			argv[0] = &[]byte(strings.Repeat("x", most) + "\x00")[0]
		}
		for i := range number(arguments, 1) {
			var errno unix.Errno
			if i%2 == 0 {
				_, _, errno = unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&argv[0])), 0)
			} else {
				_, _, errno = unix.RawSyscall6(unix.SYS_EXECVEAT, ^uintptr(0), uintptr(unsafe.Pointer(path)),
					uintptr(unsafe.Pointer(&argv[0])), 0, 0, 0)
			}
			if name := unix.ErrnoName(errno); name != filepath.Base(arguments[0]) {
				giveUp(fmt.Errorf("execute %s: %s", arguments[0], name))
			}
		}
	}
}

func TestExecutionAttempts(t *testing.T) {
	folder := t.TempDir()
	for name, mode := range map[string]os.FileMode{"ENOEXEC": 0o755, "EACCES": 0o644, "E2BIG": 0o755} {
		content := []byte("what is this?")
		if name == "E2BIG" {
			content = []byte("#!/proc/self/exe\n")
		}
		if err := os.WriteFile(filepath.Join(folder, name), content, mode); err != nil {
			t.Fatal(err)
		}
	}
	for what, off := range map[string]string{"with durations": "", "alone": syscallDuration} {
		t.Run(what, func(t *testing.T) {
			options := loadOnly("", LinuxCgroup)
			options.Enabled = func(spec *Spec) bool { return spec.Name == "syscalls" || spec.Name == "process" }
			options.Metric = func(_, metric string) bool { return metric != off }
			set := open(t, options)
			if runs := set.probes[slices.IndexFunc(set.probes, func(p *loaded) bool {
				return p.Spec.Name == "syscalls"
			})].coll.Programs["syscall_entered"] != nil; runs != (off == "") {
				t.Errorf("beginnings are seen: %v", runs)
			}
			group := kerneltest.NewCgroup(t, "")
			want := make(map[any]uint64)
			words := []any{"syscalls-execute"}
			for _, name := range []string{"ENOENT", "ENOEXEC", "EACCES", "E2BIG"} {
				n := random(t, name, 1, 50)
				words = append(words, filepath.Join(folder, name), n)
				want[name] = uint64(n)
			}
			mustRun(t, helper(t, group, words...))
			n := random(t, "processes", 1, 10)
			mustRun(t, helper(t, group, "forks", n))
			chains := random(t, "executions in one process", 2, 9) // as a rule by a thread that is not the leader
			mustRun(t, helper(t, group, "chain", chains, 0))
			want[nil] = 1 + 1 + uint64(n) + 1 + uint64(chains)

			snapshot := read(t, set)
			equal(t, "attempts", by(t, snapshot, executionAttempts, "error.type", in(group)), want)
			same(t, "executions", total(t, snapshot, executions, in(group)), want[nil])
			if off == "" {
				var executed uint64
				for _, count := range only(syscallCounts(t, snapshot, in(group)), "execve", "execveat") {
					executed += count
				}
				same(t, "calls", executed, total(t, snapshot, executionAttempts, in(group)))
			}
		})
	}
}

// helpSyscallsStorm has threads that wait in a call that only the end of the process ends.
func helpSyscallsStorm(arguments []string) {
	kerneltest.StartThreads(number(arguments, 0))
	fmt.Println("ready")
	var fds unix.FdSet
	_, _ = unix.Pselect(0, &fds, nil, nil, nil, nil)
}

// Tasks that die in a call, as by exit, leave nothing behind.
func TestSyscallStates(t *testing.T) {
	set := open(t, loadOnly("syscalls", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	for range random(t, "processes", 10, 20) {
		p := start(t, helper(t, group, "syscalls-storm", 50))
		if err := p.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
	}
	states := set.probes[slices.IndexFunc(set.probes, func(p *loaded) bool {
		return p.Spec.Name == "syscalls"
	})].coll.Maps["syscall_task_by_address"]
	read(t, set)
	var n, tasks int
	for range 100 { // a task goes some time after it died
		var address, state []byte
		n = 0
		for entries := states.Iterate(); entries.Next(&address, &state); {
			n++
		}
		all, err := filepath.Glob("/proc/[0-9]*/task/*")
		if err != nil {
			t.Fatal(err)
		}
		if tasks = len(all); n <= tasks {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("the states of %d tasks of %d", n, tasks)
	if n > tasks {
		t.Errorf("the states of %d tasks, and there are %d", n, tasks)
	}
}

func TestSyscallNames(t *testing.T) {
	for _, test := range []struct {
		architecture string
		number       uint32
		want         string
	}{
		{"amd64", 0, "read"},
		{"amd64", 471, "rseq_slice_yield"},
		{"386", 3, "read"},
		{"386", 11, "execve"},
		{"arm64", 221, "execve"},
		{"arm64", 79, "newfstatat"},
		{"arm", 11, "execve"},
		{"wasm", 0, ""},
		{"", 0, ""},
	} {
		if got := parseSyscalls(test.architecture)[test.number]; got != test.want {
			t.Errorf("%s %d: %q, want %q", test.architecture, test.number, got, test.want)
		}
	}
	for errno, want := range map[unix.Errno]string{unix.ENOENT: "ENOENT", 512: "ERESTARTSYS", 524: "errno_524"} {
		if got := errnoName(errno); got != want {
			t.Errorf("error %d: %q, want %q", errno, got, want)
		}
	}
}
