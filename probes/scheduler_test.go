package probes

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/series"
)

const (
	contextSwitches = "linux.scheduler.context_switches"
	runQueue        = "linux.scheduler.run_queue.duration"
	switchType      = "process.context_switch.type"
)

// hidesManager tells whether this machine lets no BPF program run in the context of the threads of process 1. Some sandboxes
// hide the process that manages them so. Its switches are then the one thing that the kernel counts and we do not.
var hidesManager = sync.OnceValues(func() (bool, error) {
	if inMatrix {
		return false, nil // process 1 is ours
	}
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return false, err
	}
	defer seen.Close()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sched_switch", License: "GPL",
		Instructions: asm.Instructions{
			asm.FnGetCurrentPidTgid.Call(),
			asm.RSh.Imm(asm.R0, 32),
			asm.JNE.Imm(asm.R0, 1, "exit"),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, seen.FD()),
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
		return false, err
	}
	defer program.Close()
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		return false, err
	}
	defer attached.Close()
	before, err := countTasks(1)
	if err != nil {
		return false, err
	}
	for range 300 {
		now, err := countTasks(1)
		if err != nil {
			return false, err
		}
		time.Sleep(10 * time.Millisecond) // what the kernel has counted goes on to the program
		var n uint64
		if err := seen.Lookup(uint32(0), &n); err != nil {
			return false, err
		}
		if n > 0 || now.switches() > before.switches() {
			return n == 0, nil
		}
	}
	return true, nil // nothing to see: it may be so, and makes little difference
})

// hiddenSwitches is how many switches the machine hides, since its start; 0 almost everywhere.
func hiddenSwitches(t testing.TB) uint64 {
	t.Helper()
	hides, err := hidesManager()
	if err != nil {
		t.Fatal(err)
	}
	if !hides {
		return 0
	}
	counts, err := countTasks(1)
	if err != nil {
		t.Fatal(err)
	}
	return counts.switches()
}

// TestAgainstProcStat takes the kernel's own counts of what every task did before and after ours: they are a bracket.
func TestAgainstProcStat(t *testing.T) {
	options := loadOnly("", LinuxCgroup)
	options.Enabled = nil // all by default
	set := load(t, options)
	hidden := hiddenSwitches(t)
	var hiddenForks uint64
	if hidden > 0 {
		t.Log("process 1 is hidden: its switches are left out, and up to 50 processes that it starts")
		hiddenForks = 50
	}
	closed := fields(t, "/proc/stat")
	settle(t)
	if err := set.Open(); err != nil {
		t.Fatal(err)
	}
	opened := fields(t, "/proc/stat")
	endLoad := runLoad(t)
	begin, round := time.Now(), time.Duration(scaled(10, 4))*time.Second/20
	for n := range 21 {
		if n == 20 { // at rest the bracket is narrow
			endLoad()
		}
		time.Sleep(time.Until(begin.Add(time.Duration(n+1) * round)))
		before := fields(t, "/proc/stat")
		settle(t)
		snapshot := read(t, set)
		after := fields(t, "/proc/stat")

		switches := total(t, snapshot, contextSwitches, nil)
		tasks := total(t, snapshot, created, nil) + total(t, snapshot, threadsNew, nil)
		what := fmt.Sprintf("round %d: ", n)
		within(t, what+"switches", switches+hiddenSwitches(t)-hidden,
			before["ctxt"]-opened["ctxt"], after["ctxt"]-closed["ctxt"]+hiddenSwitches(t)-hidden)
		least := before["processes"] - opened["processes"]
		within(t, what+"processes and threads", tasks, least-min(hiddenForks, least), after["processes"]-closed["processes"])
		if n >= 19 {
			t.Logf(what+"%d switches, %d tasks; the bracket is %d and %d wide", switches, tasks,
				after["ctxt"]-before["ctxt"]+opened["ctxt"]-closed["ctxt"],
				after["processes"]-before["processes"]+opened["processes"]-closed["processes"])
		}
	}
}

// settle waits until all that the kernel has counted has reached our programs.
func settle(t testing.TB) {
	t.Helper()
	// A fork is counted in the kernel, then goes on to the tracepoint; it may lose its CPU in between.
	time.Sleep(20 * time.Millisecond)
	// A switch does not.
	if err := series.Quiesce(); err != nil {
		t.Fatal(err)
	}
}

// runLoad keeps the machine busy with forks and switches until its end is called, or the test's.
func runLoad(t testing.TB) (end func()) {
	t.Helper()
	if inMatrix {
		p := start(t, helper(t, nil, "load"))
		return func() { _ = p.Process.Kill() }
	}
	command := exec.Command("stress-ng", "--quiet", "--fork", "2", "--switch", "2", "--io-uring", "1",
		"--keep-files", // its io_uring asks for the status of its file, by name
		"--temp-path", t.TempDir())
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		t.Fatalf("%v (apt-get install stress-ng)", err)
	}
	end = sync.OnceFunc(func() {
		_ = command.Process.Signal(unix.SIGTERM)
		_ = command.Wait() // it tells that it was ended
	})
	t.Cleanup(end)
	return end
}

// taskCounts are what the kernel keeps of the tasks of a process.
type taskCounts struct {
	voluntary, involuntary uint64 // switches
	delay                  uint64 // ns
	slices                 uint64
	stopped                bool // all of them
}

func (c taskCounts) switches() uint64 { return c.voluntary + c.involuntary }

// stop stops a process, and reads its tasks' counts when nothing changes them any more.
func stop(t testing.TB, pid int) taskCounts {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var before taskCounts
	for range 500 {
		counts, err := countTasks(pid)
		if err != nil {
			t.Fatal(err)
		}
		if counts.stopped && counts == before {
			return counts
		}
		before = counts
		time.Sleep(30 * time.Millisecond)
	}
	t.Fatalf("process %d does not stop", pid)
	return taskCounts{}
}

// countTasks sums over the threads of a process; the Go runtime's never end.
func countTasks(pid int) (taskCounts, error) {
	sum := taskCounts{stopped: true}
	tids, err := threads(pid)
	for _, tid := range tids {
		task := fmt.Sprintf("/proc/%d/task/%d/", pid, tid)
		status, statusErr := os.ReadFile(task + "status")
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			n, _ := strconv.ParseUint(value, 10, 64)
			switch name {
			case "State":
				sum.stopped = sum.stopped && strings.HasPrefix(value, "T")
			case "voluntary_ctxt_switches":
				sum.voluntary += n
			case "nonvoluntary_ctxt_switches":
				sum.involuntary += n
			}
		}
		schedstat, schedstatErr := os.ReadFile(task + "schedstat")
		var ran, delay, slices uint64
		_, scanErr := fmt.Sscan(string(schedstat), &ran, &delay, &slices)
		sum.delay += delay
		sum.slices += slices
		err = errors.Join(err, statusErr, schedstatErr, scanErr)
	}
	return sum, err
}

// allowedCPUs are those that the test may use.
func allowedCPUs(t testing.TB) (cpus []int) {
	t.Helper()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

// TestSchedulerAgainstProc compares the counts of a process that is alone in its cgroup, from its first moment on, with
// what /proc tells of it. It competes for every CPU with others, so that it waits each time.
func TestSchedulerAgainstProc(t *testing.T) {
	set := open(t, loadOnly("scheduler", LinuxCgroup))
	kernel, err := RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	cpus := allowedCPUs(t)
	for _, test := range []struct {
		name string
		cpus []int
	}{
		{"on one CPU", cpus[:1]},
		{"moved between CPUs", cpus[:min(len(cpus), 2)]},
	} {
		t.Run(test.name, func(t *testing.T) {
			others, group := newCgroup(t, ""), newCgroup(t, "")
			for _, cpu := range test.cpus {
				start(t, helper(t, others, "spin"), cpu)
			}
			hidden := hiddenSwitches(t)
			p := start(t, helper(t, group, "starve"), test.cpus...)
			exact := 0
			for range random(t, "rounds", 2, 4) {
				end := time.Now().Add(time.Duration(300+rand.IntN(300)) * time.Millisecond)
				for time.Now().Before(end) {
					time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
					tids, err := threads(p.Process.Pid)
					if err != nil {
						t.Fatal(err)
					}
					for _, tid := range tids {
						setAffinity(t, tid, test.cpus[rand.IntN(len(test.cpus))])
					}
				}
				want := stop(t, p.Process.Pid)
				snapshot := read(t, set)
				if after, err := countTasks(p.Process.Pid); err != nil || after != want {
					t.Fatalf("it moved while it was stopped: %+v, then %+v, %v", want, after, err)
				}
				t.Logf("%+v", want)

				count, ns := durations(t, snapshot, runQueue, in(group))
				if lost := hiddenSwitches(t) - hidden; lost > 0 {
					// Some were to the process: waits that are part of its next one, if one came.
					t.Logf("%d switches of process 1 are hidden", lost)
					within(t, "waits", count, want.slices-lost, want.slices)
					within(t, "ns waited", ns, 0, want.delay)
				} else {
					same(t, "waits", count, want.slices)
					same(t, "ns waited", ns, want.delay)
				}
				if ns == want.delay {
					exact++
				}
				switches := by(t, snapshot, contextSwitches, switchType, in(group))
				same(t, "switches", switches["voluntary"]+switches["involuntary"], want.switches())
				if kernel.prevState() {
					same(t, "voluntary switches", switches["voluntary"], want.voluntary)
				}
				if err := unix.Kill(p.Process.Pid, unix.SIGCONT); err != nil {
					t.Fatal(err)
				}
			}
			if exact == 0 {
				t.Error("the ns waited are right in no round")
			}
		})
	}
}
