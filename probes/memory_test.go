package probes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

var (
	_ = addHelper("memory-use", helpMemoryUse)
	_ = addHelper("memory-dying", helpMemoryDying)
	_ = addHelper("memory-read", helpMemoryRead)
	_ = addHelper("memory-fill", helpMemoryFill)
	_ = addHelper("memory-short", helpMemoryShort)
)

const (
	oomKills    = "linux.oom.kills"
	reclaim     = "linux.memory.reclaim.duration"
	memoryLimit = 24 << 20
	mebibyte    = 1 << 20
)

// memoryJoin makes the process join a cgroup of the first version, if one is named.
func memoryJoin(procs string) {
	if procs == "none" {
		return
	}
	if err := os.WriteFile(procs, []byte("0"), 0); err != nil {
		giveUp(err)
	}
}

// helpMemoryUse uses so many MiB of memory in a cgroup, with an oom_score_adj, and may wait for its input to end.
func helpMemoryUse(arguments []string) {
	memoryJoin(arguments[0])
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(arguments[1]), 0); err != nil {
		giveUp(err)
	}
	if err := memoryTouch(number(arguments, 2) * mebibyte); err != nil {
		giveUp(err)
	}
	if number(arguments, 3) != 0 {
		fmt.Println("ready")
		_, _ = os.Stdin.Read(make([]byte, 1))
	}
}

// helpMemoryDying holds a process in its exit, where it still has its memory, until its input ends.
func helpMemoryDying(arguments []string) {
	memoryJoin(arguments[0])
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"dying"}, &syscall.ProcAttr{
		Env:   []string{helperVariable + "=memory-use none 1000 8 0", "GODEBUG=asyncpreemptoff=1"},
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		giveUp(err)
	}
	options := unix.PTRACE_O_TRACEEXIT | unix.PTRACE_O_EXITKILL
	for {
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || !status.Stopped() {
			giveUp(fmt.Errorf("status %#x: %w", status, err))
		}
		if status.TrapCause() == unix.PTRACE_EVENT_EXIT {
			break
		}
		signal := status.StopSignal()
		if signal == syscall.SIGTRAP { // after its execution
			signal = 0
			if err := syscall.PtraceSetOptions(pid, options); err != nil {
				giveUp(err)
			}
		}
		if err := syscall.PtraceCont(pid, int(signal)); err != nil {
			giveUp(err)
		}
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// helpMemoryRead reads so many MiB of a file, so often.
func helpMemoryRead(arguments []string) {
	memoryJoin(arguments[0])
	file, err := os.Open(arguments[1])
	if err != nil {
		giveUp(err)
	}
	buffer := make([]byte, mebibyte)
	for range number(arguments, 3) {
		for i := range number(arguments, 2) {
			if _, err := file.ReadAt(buffer, int64(i)*mebibyte); err != nil {
				giveUp(err)
			}
		}
	}
}

// helpMemoryFill reads a file, or of it until no more than a 32nd of the memory is free.
func helpMemoryFill(arguments []string) {
	file, err := os.Open(arguments[0])
	if err != nil {
		giveUp(err)
	}
	var now unix.Sysinfo_t
	for buffer := make([]byte, mebibyte); ; {
		if err := unix.Sysinfo(&now); err != nil {
			giveUp(err)
		}
		if now.Freeram < now.Totalram/32 {
			return
		}
		if _, err := file.Read(buffer); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			giveUp(err)
		}
	}
}

// helpMemoryShort makes the kernel keep twice as much memory free as before, so often, and uses some each time, as kswapd, which
// frees half as much again as must be, has not yet done so.
func helpMemoryShort(arguments []string) {
	const path, least = "/proc/sys/vm/min_free_kbytes", 8 * mebibyte
	usual, err := os.ReadFile(path)
	for n := range number(arguments, 0) {
		if err == nil {
			err = os.WriteFile(path, fmt.Append(nil, least<<n/1024), 0)
		}
		if err == nil {
			err = memoryTouch(least)
		}
	}
	if err := errors.Join(err, os.WriteFile(path, usual, 0)); err != nil {
		giveUp(err)
	}
}

// memoryTouch uses so many bytes of memory.
func memoryTouch(size int) error {
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	return err
}

// memoryGroup is a cgroup with a limit on its memory, on whichever hierarchy has the controller.
type memoryGroup struct {
	*kerneltest.Cgroup
	procs string // where processes must join the cgroup of the first version besides; else none
	path  string // of its files
}

func newMemoryGroup(t testing.TB) memoryGroup {
	t.Helper()
	g := memoryGroup{Cgroup: kerneltest.NewCgroup(t, "")}
	g.path, g.procs = g.LimitMemory(t, memoryLimit)
	return g
}

// isFirst tells whether the memory controller is on a hierarchy of the first version.
func (g memoryGroup) isFirst() bool { return g.procs != "none" }

func memorySet(t testing.TB, path string, value any) {
	t.Helper()
	if err := os.WriteFile(path, fmt.Append(nil, value), 0); err != nil {
		t.Fatal(err)
	}
}

// child makes a cgroup in the group, which shares its limit.
func (g memoryGroup) child(t testing.TB, name string) *kerneltest.Cgroup {
	t.Helper()
	child, err := g.Child(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, child) })
	return child
}

// memoryKilled runs a helper that the kernel must kill.
func memoryKilled(t testing.TB, command *exec.Cmd) {
	t.Helper()
	if status := run(t, command); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("%q was not killed: status %#x", command.Env, status)
	}
}

// memoryLog is a descriptor of the kernel's log from now on.
type memoryLog int

func newMemoryLog(t testing.TB) memoryLog {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		t.Fatal(err)
	}
	return memoryLog(fd)
}

// kills reads how many kills the kernel has logged.
func (l memoryLog) kills(t testing.TB) (kills uint64) {
	t.Helper()
	for record := make([]byte, 8192); ; {
		n, err := unix.Read(int(l), record)
		if errors.Is(err, unix.EAGAIN) {
			return kills
		}
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(record[:n], []byte(": Killed process ")) {
			kills++
		}
	}
}

// memoryCheck compares all kills since the gate was opened with the kernel's count, which has those that its log shows twice, too.
func memoryCheck(t testing.TB, set *Set, closed, opened, doubles uint64) {
	t.Helper()
	before := fields(t, "/proc/vmstat")["oom_kill"]
	got := total(t, read(t, set), oomKills, nil) + doubles
	after := fields(t, "/proc/vmstat")["oom_kill"]
	t.Logf("%d kills, the kernel's %d to %d", got, before-opened, after-closed)
	within(t, "kills", got, before-opened, after-closed)
}

// memoryMarks counts the victims that the kernel marks, those included that it need not kill.
func memoryMarks(t testing.TB) (count func() uint64) {
	t.Helper()
	marks, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { marks.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "mark_victim", License: "GPL",
		Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, marks.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "exit"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("exit"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { attached.Close() })
	return func() (n uint64) {
		if err := marks.Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

func TestMemoryKills(t *testing.T) {
	set := load(t, loadOnly("memory", ExecutableName, LinuxCgroup))
	closed := fields(t, "/proc/vmstat")["oom_kill"]
	if err := set.Open(); err != nil {
		t.Fatal(err)
	}
	opened := fields(t, "/proc/vmstat")["oom_kill"]
	programs := newExecutables(t)
	use := func(cgroup *kerneltest.Cgroup, g memoryGroup, name string, adjustment, mebibytes, wait int) *exec.Cmd {
		command := helper(t, cgroup, "memory-use", g.procs, adjustment, mebibytes, wait)
		command.Path = programs.named(t, name)
		return command
	}
	const tooMuch = 2 * memoryLimit / mebibyte

	t.Run("who asks for too much", func(t *testing.T) {
		g := newMemoryGroup(t)
		want := make(map[any]uint64)
		for _, name := range []string{fmt.Sprintf("greedy-%x", rand.Uint64()), strings.Repeat("n", 255), "\x1b[31mred", "\xff\xfe"} {
			n := random(t, fmt.Sprintf("kills of %.20q", name), 1, scaled(8, 3))
			for range n {
				memoryKilled(t, use(g.Cgroup, g, name, 0, tooMuch, 0))
			}
			want[cleanName([]byte(name))] = uint64(n)
		}
		equal(t, "kills", by(t, read(t, set), oomKills, ExecutableName, in(g.Cgroup)), want)
		memoryCheck(t, set, closed, opened, 0)
	})

	t.Run("who another asked for too much", func(t *testing.T) {
		g := newMemoryGroup(t)
		victims, killers := g.child(t, "/victims"), g.child(t, "/killers")
		n := random(t, "rounds", 1, scaled(8, 3))
		for range n {
			p := start(t, use(victims, g, "victim", 1000, 2, 1))
			memoryKilled(t, use(killers, g, "killer", 0, tooMuch, 0)) // in the end it is all that is left to kill
			if err := p.Wait(); err == nil || p.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the victim was not killed: %v", err)
			}
		}
		snapshot := read(t, set)
		equal(t, "victims", by(t, snapshot, oomKills, ExecutableName, in(victims)), map[any]uint64{"victim": uint64(n)})
		equal(t, "killers", by(t, snapshot, oomKills, ExecutableName, in(killers)), map[any]uint64{"killer": uint64(n)})
		memoryCheck(t, set, closed, opened, 0)
	})

	t.Run("who is dying already", func(t *testing.T) {
		marks := memoryMarks(t)
		g := newMemoryGroup(t)
		dying, killers := g.child(t, "/dying"), g.child(t, "/killers")
		n := random(t, "rounds", 1, 2) // the kernel waits two seconds before it takes the memory of who is dying
		for range n {
			p := start(t, helper(t, dying, "memory-dying", g.procs))
			memoryKilled(t, use(killers, g, "killer", 0, tooMuch, 0))
			p.finish(t)
		}
		snapshot := read(t, set)
		same(t, "kills of who is dying", total(t, snapshot, oomKills, in(dying)), 0)
		same(t, "kills", total(t, snapshot, oomKills, in(killers)), uint64(n))
		if got := marks(); got < uint64(2*n) {
			t.Errorf("%d were marked, want %d", got, 2*n)
		}
		memoryCheck(t, set, closed, opened, 0)
	})

	t.Run("a group", func(t *testing.T) {
		g := newMemoryGroup(t)
		if g.isFirst() {
			return // it has no memory.oom.group
		}
		memorySet(t, g.path+"/memory.oom.group", 1)
		memorySet(t, g.path+"/memory.max", 4*memoryLimit)
		log := newMemoryLog(t)
		n := random(t, "processes", 2, 5)
		var group []*testProcess
		for range n {
			group = append(group, start(t, use(g.Cgroup, g, "member", 0, 1, 1)))
		}
		memoryKilled(t, use(g.Cgroup, g, "killer", 0, 4*tooMuch, 0))
		for _, p := range group {
			_ = p.Wait() // says that it was killed
		}
		got := by(t, read(t, set), oomKills, ExecutableName, in(g.Cgroup))
		equal(t, "kills", got, map[any]uint64{"member": uint64(n), "killer": 1})
		kills := log.kills(t)
		t.Logf("the kernel killed %d processes in %d kills", n+1, kills)
		memoryCheck(t, set, closed, opened, kills-uint64(n+1))
	})
}

// memoryDevice is a block device whose contents the kernel can read again at any time. Only what is read of it takes memory.
func memoryDevice(t testing.TB, size int64) string {
	t.Helper()
	if inMatrix {
		if output, err := exec.Command("modprobe", "loop").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
	}
	fd, err := unix.MemfdCreate("device", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		device, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { device.Close() })
		if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, fd); errors.Is(err, unix.EBUSY) {
			continue // another was faster
		} else if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
				t.Error(err)
			}
		})
		return path
	}
}

// memoryNull is a disk in a virtual machine that may be larger than its memory: up to 5.17 a memoryDevice takes as much again as
// is read of it (mm/shmem.c, shmem_file_read_iter).
func memoryNull(t testing.TB, mebibytes uint64) string {
	t.Helper()
	if output, err := exec.Command("modprobe", "null_blk", "nr_devices=0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	mount := t.TempDir()
	if err := unix.Mount("configfs", mount, "configfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	const name = "memory"
	folder := mount + "/nullb/" + name
	t.Cleanup(func() {
		if err := errors.Join(os.Remove(folder), unix.Unmount(mount, 0)); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	memorySet(t, folder+"/size", mebibytes)
	memorySet(t, folder+"/power", 1)
	path := "/dev/" + name
	if _, err := os.Stat(path); err != nil { // it has no name of its own before 6.1
		index, err := os.ReadFile(folder + "/index")
		if err != nil {
			t.Fatal(err)
		}
		path = "/dev/nullb" + strings.TrimSpace(string(index))
	}
	device, err := os.Open(path) // what was read of it is let go when nobody has it open
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	return path
}

// ofReclaim lets the points of a cgroup and a type of reclaim through.
func ofReclaim(kind string, group *kerneltest.Cgroup) func(Point) bool {
	return func(p Point) bool { return attribute(p, ReclaimType) == kind && (group == nil || in(group)(p)) }
}

// At the limit of a cgroup every reclaim follows one of the events that it counts (mm/memcontrol.c).
func TestMemoryReclaimOfCgroups(t *testing.T) {
	set := open(t, loadOnly("memory", LinuxCgroup))
	device := memoryDevice(t, 64*mebibyte)
	for _, limit := range []string{"memory.max", "memory.high"} {
		t.Run(limit, func(t *testing.T) {
			g := newMemoryGroup(t)
			if g.isFirst() && limit == "memory.high" {
				return // there is only one limit
			}
			if limit == "memory.high" {
				memorySet(t, g.path+"/memory.high", memoryLimit/2)
			}
			begin := time.Now()
			mustRun(t, helper(t, g.Cgroup, "memory-read", g.procs, device, 64, random(t, "rounds", 2, scaled(20, 4))))
			elapsed := time.Since(begin)
			count, ns := durations(t, read(t, set), reclaim, ofReclaim("memcg", g.Cgroup))
			t.Logf("%d reclaims, %d us", count, ns/1000)
			if count == 0 || ns == 0 || ns > uint64(elapsed) {
				t.Errorf("%d reclaims took %d ns of %d", count, ns, elapsed)
			}
			if !g.isFirst() {
				events := fields(t, g.path+"/memory.events")
				same(t, "reclaims", count, events["max"]+events["high"])
			}
			direct, _ := durations(t, read(t, set), reclaim, ofReclaim("direct", g.Cgroup))
			same(t, "direct reclaims", direct, 0)
		})
	}
}

// TestMemoryReclaimAgainstVmstat takes the kernel's own counts of direct reclaims before and after ours: they are a bracket.
func TestMemoryReclaimAgainstVmstat(t *testing.T) {
	set := load(t, loadOnly("memory", LinuxCgroup))
	closed := memoryStalls(t)
	if err := set.Open(); err != nil {
		t.Fatal(err)
	}
	opened := memoryStalls(t)
	group := kerneltest.NewCgroup(t, "")
	if inMatrix { // elsewhere the machine's memory is not for a test to fill
		device := memoryNull(t, fields(t, "/proc/meminfo")["MemTotal"]/1024)
		for range 10 { // kswapd may be faster
			mustRun(t,
				helper(t, nil, "memory-fill", device),
				helper(t, group, "memory-short", random(t, "steps", 5, 6)))
			if memoryStalls(t) > opened {
				break
			}
		}
	}
	before := memoryStalls(t)
	snapshot := read(t, set)
	after := memoryStalls(t)
	count, ns := durations(t, snapshot, reclaim, ofReclaim("direct", nil))
	mine, _ := durations(t, snapshot, reclaim, ofReclaim("direct", group))
	t.Logf("%d direct reclaims, %d of them the test's, %d us; the kernel's %d to %d", count, mine, ns/1000, before-opened, after-closed)
	within(t, "direct reclaims", count, before-opened, after-closed)
	if inMatrix && mine == 0 {
		t.Error("the test has made no direct reclaim")
	}
}

// memoryStalls is how many direct reclaims the kernel has counted.
func memoryStalls(t testing.TB) (n uint64) {
	t.Helper()
	for name, value := range fields(t, "/proc/vmstat") {
		if strings.HasPrefix(name, "allocstall_") {
			n += value
		}
	}
	return n
}
