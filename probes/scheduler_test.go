package probes

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
	"github.com/ebpf-sidecar/sidecar/series"
)

const (
	contextSwitches = "linux.scheduler.context_switches"
	runQueue        = "linux.scheduler.run_queue.duration"
	preemptions     = "linux.scheduler.preemptions"
	switchType      = "process.context_switch.type"
)

// TestAgainstProcStat takes the kernel's own counts of what every task did before and after ours: they are a bracket.
func TestAgainstProcStat(t *testing.T) {
	options := loadOnly("", LinuxCgroup)
	options.Enabled = nil // all by default
	set := load(t, options)
	hidden, hiddenForks := kerneltest.HiddenSwitches(t), kerneltest.HiddenForks(t)
	closed := fields(t, "/proc/stat")
	// A fork is counted in the kernel, then goes on to the tracepoint; it may lose its CPU in between.
	time.Sleep(20 * time.Millisecond)
	quiesce(t)
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
		least := before["processes"] - opened["processes"]
		least -= min(hiddenForks, least)
		var switches, tasks uint64
		for deadline := time.Now().Add(5 * time.Second); ; {
			quiesce(t)
			snapshot := read(t, set)
			switches = total(t, snapshot, contextSwitches, nil)
			tasks = total(t, snapshot, created, nil) + total(t, snapshot, threadsNew, nil)
			// A fork that the kernel has counted may have lost its CPU before the tracepoint.
			if tasks >= least || time.Now().After(deadline) {
				break
			}
			time.Sleep(time.Millisecond)
		}
		after := fields(t, "/proc/stat")

		what := fmt.Sprintf("round %d: ", n)
		within(t, what+"switches", switches+kerneltest.HiddenSwitches(t)-hidden,
			before["ctxt"]-opened["ctxt"], after["ctxt"]-closed["ctxt"]+kerneltest.HiddenSwitches(t)-hidden)
		within(t, what+"processes and threads", tasks, least, after["processes"]-closed["processes"])
		if n >= 19 {
			t.Logf(what+"%d switches, %d tasks; the bracket is %d and %d wide", switches, tasks,
				after["ctxt"]-before["ctxt"]+opened["ctxt"]-closed["ctxt"],
				after["processes"]-before["processes"]+opened["processes"]-closed["processes"])
		}
	}
}

// quiesce waits until the switches that the kernel has counted have reached our programs.
func quiesce(t testing.TB) {
	t.Helper()
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
	command := exec.Command("stress-ng", "--quiet", "--fork", "2", "--switch", "2", "--io-uring", "1", "--timeout", "60",
		"--keep-files", // its io_uring asks for the status of its file, by name
		"--temp-path", t.TempDir())
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
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

// stop stops a process, and reads its tasks' counts when nothing changes them any more.
func stop(t testing.TB, pid int) kerneltest.TaskCounts {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var before kerneltest.TaskCounts
	for range 500 {
		counts, err := kerneltest.CountTasks(pid)
		if err != nil {
			t.Fatal(err)
		}
		if counts.Stopped && counts == before {
			return counts
		}
		before = counts
		time.Sleep(30 * time.Millisecond)
	}
	t.Fatalf("process %d does not stop", pid)
	return kerneltest.TaskCounts{}
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
	cpus := allowedCPUs(t)
	for _, test := range []struct {
		name string
		cpus []int
	}{
		{"on one CPU", cpus[:1]},
		{"moved between CPUs", cpus[:min(len(cpus), 2)]},
	} {
		t.Run(test.name, func(t *testing.T) {
			others, group := kerneltest.NewCgroup(t, ""), kerneltest.NewCgroup(t, "")
			for _, cpu := range test.cpus {
				start(t, helper(t, others, "spin"), cpu)
			}
			hidden := kerneltest.HiddenSwitches(t)
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
						// A signal that comes while it goes to sleep (see was_preempted in bpf/scheduler.bpf.c).
						if err := unix.Tgkill(p.Process.Pid, tid, unix.SIGURG); err != nil {
							t.Fatal(err)
						}
					}
				}
				want := stop(t, p.Process.Pid)
				snapshot := read(t, set)
				if after, err := kerneltest.CountTasks(p.Process.Pid); err != nil || after != want {
					t.Fatalf("it moved while it was stopped: %+v, then %+v, %v", want, after, err)
				}
				t.Logf("%+v", want)

				count, ns := durations(t, snapshot, runQueue, in(group))
				if lost := kerneltest.HiddenSwitches(t) - hidden; lost > 0 {
					// Some were to the process: waits that are part of its next one, if one came.
					t.Logf("%d switches of process 1 are hidden", lost)
					within(t, "waits", count, want.Slices-lost, want.Slices)
					within(t, "ns waited", ns, 0, want.Delay)
				} else {
					same(t, "waits", count, want.Slices)
					same(t, "ns waited", ns, want.Delay)
				}
				if ns == want.Delay {
					exact++
				}
				switches := by(t, snapshot, contextSwitches, switchType, in(group))
				same(t, "switches", switches["voluntary"]+switches["involuntary"], want.Switches())
				lost := kerneltest.HiddenSwitches(t) - hidden // each hides what comes after it
				within(t, "voluntary switches", switches["voluntary"], want.Voluntary-min(lost, want.Voluntary), want.Voluntary+lost)
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

// TestSchedulerPreemptions has a process compete with two others, each in a cgroup of its own: who took its CPU adds up to what
// the kernel counts of it.
func TestSchedulerPreemptions(t *testing.T) {
	options := loadOnly("scheduler", LinuxCgroup)
	options.Metric = func(_, metric string) bool { return metric == preemptions }
	set := open(t, options)
	hidden := kerneltest.HiddenSwitches(t)
	cpu := allowedCPUs(t)[0]
	victims, spinners, starvers := kerneltest.NewCgroup(t, ""), kerneltest.NewCgroup(t, ""), kerneltest.NewCgroup(t, "")
	victim := start(t, helper(t, victims, "spin"), cpu)
	spinner := start(t, helper(t, spinners, "spin"), cpu)
	starver := start(t, helper(t, starvers, "starve"), cpu)
	time.Sleep(time.Duration(random(t, "ms", 500, 1500)) * time.Millisecond)
	// The others first, so that none of them takes a CPU when it is counted.
	counts := map[*kerneltest.Cgroup]kerneltest.TaskCounts{
		spinners: stop(t, spinner.Process.Pid), starvers: stop(t, starver.Process.Pid), victims: stop(t, victim.Process.Pid),
	}
	snapshot := read(t, set)
	lost := kerneltest.HiddenSwitches(t) - hidden
	for group, want := range counts {
		got := total(t, snapshot, preemptions, in(group))
		within(t, "preemptions of "+group.Name, got, want.Involuntary-min(lost, want.Involuntary), want.Involuntary)
		t.Logf("%s: %v", group.Name, by(t, snapshot, preemptions, CulpritPrefix+LinuxCgroup, in(group)))
	}
	for culprit, did := range counts {
		taken := func(p Point) bool {
			path, _ := attribute(p, CulpritPrefix+LinuxCgroup).(string)
			return strings.HasSuffix(path, culprit.Name)
		}
		// The threads of a program take the CPU from each other, too.
		within(t, "preemptions by "+culprit.Name, total(t, snapshot, preemptions, taken), 1, did.Slices)
		if culprit != victims {
			ofVictim := func(p Point) bool { return in(victims)(p) && taken(p) }
			within(t, "of the victim's by "+culprit.Name, total(t, snapshot, preemptions, ofVictim), 1, counts[victims].Involuntary)
		}
	}
	same(t, "context switches, which are off", uint64(len(snapshot.Metrics)), 1)
}
