package main

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// question is one that a probe answers, and that others answer too.
type question struct {
	event
	cpus   int
	script string     // for bpftrace
	tools  [][]string // commands of libbpf-tools
}

var (
	waking    = event{"wake-up", "sched_switch", "scheduler", "wakeups", 300}
	processes = event{"process", "sched_process_exec", "process", "executions", 10}
)

const (
	waits = `tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @queued[args->pid] = nsecs; }
tracepoint:sched:sched_switch {
	if (args->prev_state == 0) { @queued[args->prev_pid] = nsecs; }
	if (@queued[args->next_pid]) { @wait = hist(nsecs - @queued[args->next_pid]); delete(@queued[args->next_pid]); }
}`
	lives = `tracepoint:sched:sched_process_fork { @created[cgroup] = count(); }
tracepoint:sched:sched_process_exec { @executions[cgroup, str(args->filename)] = count(); }
tracepoint:sched:sched_process_exit {
	@exits[cgroup, curtask->exit_code] = count();
	@lifetime[cgroup] = hist(nsecs - curtask->start_time);
}`
)

var questions = []question{
	{switching, 1, waits, [][]string{{"runqlat", "3600"}}},
	{waking, contending, waits, [][]string{{"runqlat", "3600"}}},
	{processes, 1, lives, [][]string{{"execsnoop"}, {"exitsnoop"}}},
}

const peerRounds = 5

// besideOthers is what the programs cost that others would answer the same question with.
func besideOthers() section {
	s := section{
		title: "An event, beside others",
		about: `What all programs of a tool take together for an event, in ns by the kernel's run-time statistics, less what an empty
program takes for each of their runs. What a tool does in user space is not in it. The bpftrace scripts are in
bench/peers.go: one measures waits for a CPU, the other counts processes created, executions by name and exits by code, and
measures lifetimes, all by cgroup. Of libbpf-tools, runqlat is beside the scheduler probe, execsnoop and exitsnoop together
are beside the process probe. The scheduler probe also counts both kinds of context switches, and all of it by workload. A
wake-up is a context switch that another CPU caused; a process is created, executes ` + "`true`" + ` and exits. ` + statistic(peerRounds) +
			"The target is half of the cheaper other's.",
		columns: []string{"Event (probe)", "CPUs", "Empty, a run", "Ours", "bpftrace", "libbpf-tools", "Ours to the cheaper", "Target"},
	}
	for _, q := range questions {
		s.rows = append(s.rows, row{fmt.Sprintf("%s (%s)", q.name, q.probe), q.measure})
	}
	return s
}

func (q question) measure() ([]string, error) {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return nil, err
	}
	defer stats.Close()
	run, err := compare(q.event, q.cpus, peerRounds, []contender{empty}, byKernel)
	if err != nil {
		return nil, err
	}
	contenders := []contender{
		ours,
		{"bpftrace", func(event) (attached, error) { return startTools([]string{"bpftrace", "-e", q.script}) }},
		{"libbpf-tools", func(event) (attached, error) { return startTools(q.tools...) }},
	}
	ns, err := compare(q.event, q.cpus, peerRounds, contenders, byTool(run[0].median()))
	if err != nil {
		return nil, err
	}
	cheaper := min(ns[1].median(), ns[2].median())
	return []string{
		strconv.Itoa(q.cpus), nanoseconds(run[0].median()), ns[0].spread(), ns[1].spread(), ns[2].spread(),
		fmt.Sprintf("%.2f", ns[0].median()/cheaper),
		verdict(int64(ns[0].median()), int64(cheaper/2), func(ns int64) string { return nanoseconds(float64(ns)) }),
	}, nil
}

// byTool is the time of an event that all programs of the processes took, beyond that of an empty program's runs.
func byTool(empty float64) meter {
	return func(_ event, a attached, run func() (batch, error)) (float64, error) {
		before, err := programStats(a.pids)
		if err != nil {
			return 0, err
		}
		b, err := run()
		if err != nil {
			return 0, err
		}
		after, err := programStats(a.pids)
		if err != nil {
			return 0, err
		}
		if after.runs == before.runs {
			return 0, errors.New("the load has made no program run")
		}
		return (float64(after.time-before.time) - empty*float64(after.runs-before.runs)) / float64(b.Events), nil
	}
}

// runStats are those of some programs together.
type runStats struct {
	programs   int
	time, runs uint64 // ns, and how often
}

// programStats sums over the programs that the processes hold.
func programStats(pids []int) (all runStats, err error) {
	seen := make(map[string]bool)
	for _, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
		if err != nil {
			return all, err
		}
		for _, file := range files {
			info, err := readFields(file)
			if err != nil || info["run_cnt"] == "" || seen[info["prog_id"]] {
				continue // gone, no program, or one that was counted
			}
			seen[info["prog_id"]] = true
			ns, timeErr := strconv.ParseUint(info["run_time_ns"], 10, 64)
			runs, runsErr := strconv.ParseUint(info["run_cnt"], 10, 64)
			if err := errors.Join(timeErr, runsErr); err != nil {
				return all, err
			}
			all.programs++
			all.time += ns
			all.runs += runs
		}
	}
	return all, nil
}

// tool is a process of others.
type tool struct{ *exec.Cmd }

// Close ends it.
func (t tool) Close() error {
	if err := t.Process.Kill(); err != nil {
		return err
	}
	_ = t.Wait() // says that it was killed
	return nil
}

// startTools runs commands until they are closed, and returns when they have attached their programs.
func startTools(commands ...[]string) (a attached, err error) {
	var tools closers
	a.Closer = &tools
	defer func() {
		if err != nil {
			err = errors.Join(err, tools.Close())
		}
	}()
	for _, words := range commands {
		t := tool{exec.Command(words[0], words[1:]...)}
		var messages strings.Builder
		t.Stderr = &messages
		if err := t.Start(); err != nil {
			return a, err
		}
		tools = append(tools, t)
		pids := []int{t.Process.Pid}
		a.pids = append(a.pids, pids...)
		if err := awaitPrograms(pids); err != nil {
			return a, fmt.Errorf("%s: %w\n%s", words[0], err, messages.String())
		}
	}
	return a, nil
}

// awaitPrograms waits until processes have as many programs as they will.
func awaitPrograms(pids []int) error {
	const steady = 10 // looks that find no more
	var before runStats
	same := 0
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		now, err := programStats(pids)
		if err != nil {
			return err
		}
		if same++; now.programs != before.programs {
			same = 0
		}
		if before = now; now.programs > 0 && same == steady {
			return nil
		}
	}
	return fmt.Errorf("no program was loaded, or their number changes all the time (%d now)", before.programs)
}
