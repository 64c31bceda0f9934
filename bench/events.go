package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/probes"
)

// event is something that a probe counts, a load that makes it happen, and what others count it with.
type event struct {
	name   string
	probe  string
	hooks  []string   // the tracepoints at which ours is measured
	load   string     // the name of a part
	cpus   int        // that the load is on
	batch  int        // events on each CPU between two readings, some milliseconds
	clock  bool       // whether it can be told apart on the clock
	script string     // for bpftrace
	tools  [][]string // commands of libbpf-tools, if one answers the question
}

// events are the table's rows. fork, exec and exit are parts of a process, so that the clock tells only the whole.
func events() []event {
	all := runtime.NumCPU()
	return slices.Concat([]event{
		{"context switch", "scheduler", []string{"sched_switch"}, "switches", 1, 300, true, scriptWaits, runqlat},
		{"context switch", "scheduler", []string{"sched_switch"}, "switches", all, 300, true, scriptWaits, runqlat},
		{"wake-up", "scheduler", []string{"sched_switch"}, "wakeups", all, 300, true, scriptWaits, runqlat},
		{"fork", "scheduler", []string{"task_newtask"}, "executions", 1, 10, false, scriptStates, nil},
		{"fork", "process", []string{"task_newtask"}, "executions", 1, 10, false, scriptForks, nil},
		{"exec", "process", []string{"sched_process_exec"}, "executions", 1, 10, false, scriptExecs, execsnoop},
		{"exit", "process", []string{"sched_process_exit"}, "executions", 1, 10, false, scriptExits, exitsnoop},
		{
			"fork, exec and exit", "process", []string{"task_newtask", "sched_process_exec", "sched_process_exit"},
			"executions", 1, 10, true, scriptForks + scriptExecs + scriptExits, append(execsnoop, exitsnoop...),
		},
	}, blockEvents(), tcpEvents(), dropEvents(), []event{reclaimEvent(), signalEvent(1), signalEvent(all)},
		faultEvents(), interruptEvents(), []event{syscallEvent(1), syscallEvent(all), lockEvent()})
}

// contender is something to attach.
type contender struct {
	name   string
	attach func() (attached, error)
}

// attached is what a contender attached, and whose programs it is: of the processes, at the tracepoints, or at all if none
// is named.
type attached struct {
	io.Closer
	pids  []int
	hooks []string
}

type closers []io.Closer

func (all closers) Close() error {
	var errs []error
	for _, c := range all {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// The first contenders of every event. The others are peers.
const (
	nothing = iota
	empty
	ours
	peers
)

func (e event) contenders() []contender {
	all := []contender{
		{"nothing", func() (attached, error) { return attached{Closer: closers{}}, nil }},
		{"empty program", e.attachEmpty},
		{"ours", e.attachOurs},
		{"bpftrace", func() (attached, error) { return startTools([]string{"bpftrace", "-e", e.script}) }},
	}
	if e.tools != nil {
		all = append(all, contender{"libbpf-tools", func() (attached, error) { return startTools(e.tools...) }})
	}
	return all
}

// attachEmpty attaches a program that does nothing to each hook.
func (e event) attachEmpty() (a attached, err error) {
	var all closers
	defer func() {
		if err != nil {
			err = errors.Join(err, all.Close())
		}
	}()
	for _, hook := range e.hooks {
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name:         "empty",
			Type:         ebpf.Tracing,
			AttachType:   ebpf.AttachTraceRawTp,
			AttachTo:     hook,
			License:      "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		if err != nil {
			return a, err
		}
		all = append(all, program)
		l, err := link.AttachTracing(link.TracingOptions{Program: program})
		if err != nil {
			return a, err
		}
		all = append(all, l)
	}
	return attached{all, []int{os.Getpid()}, e.hooks}, nil
}

// attachOurs loads the event's probe, as by default.
func (e event) attachOurs() (a attached, err error) {
	options, err := defaultOptions()
	if err != nil {
		return a, err
	}
	options.Enabled = func(spec *probes.Spec) bool { return spec.Name == e.probe }
	set, err := openSet(options)
	return attached{set, []int{os.Getpid()}, e.hooks}, err
}

// defaultOptions are those of a sidecar without a configuration.
func defaultOptions() (probes.Options, error) {
	c, err := config.Load("", func(string) (string, bool) { return "", false }, config.Catalogue{})
	if err != nil {
		return probes.Options{}, err
	}
	return probes.Options{
		Attributes:  c.Attributes,
		SeriesLimit: c.SeriesLimit,
		MemoryLimit: uint64(c.MemoryLimit),
	}, nil
}

// openSet loads probes, all of which must be, and opens the gate.
func openSet(options probes.Options) (*probes.Set, error) {
	kernel, err := probes.RunningKernel()
	if err != nil {
		return nil, err
	}
	plan, err := probes.NewPlan(probes.All(), options, kernel)
	if err != nil {
		return nil, err
	}
	set, err := probes.Load(plan)
	if err != nil {
		return nil, err
	}
	err = set.Open()
	for _, status := range set.Status() {
		err = errors.Join(err, status.Err)
	}
	if err != nil {
		return nil, errors.Join(err, set.Close())
	}
	return set, nil
}

const (
	eventRounds  = 7
	roundBatches = 20
)

// cost is that of an event, the least of a round's batches.
type cost struct {
	clock    float64 // ns, as who causes the event sees it
	programs float64 // ns in the attached programs, by the kernel's statistics
	runs     float64 // of those programs
}

// costs are those of one contender, by round.
type costs []cost

func (c costs) figures(of func(cost) float64) figures {
	f := make(figures, len(c))
	for round := range c {
		f[round] = of(c[round])
	}
	return f
}

func (c costs) clock() figures { return c.figures(func(c cost) float64 { return c.clock }) }

func (c costs) programs() figures { return c.figures(func(c cost) float64 { return c.programs }) }

// perRun is what a run of the programs takes.
func (c costs) perRun() figures {
	return c.figures(func(c cost) float64 { return c.programs / c.runs })
}

// aboveRuns is what the programs take beyond what empty ones take for as many runs.
func (c costs) aboveRuns(empty costs) figures {
	runs := c.figures(func(c cost) float64 { return c.runs })
	return c.programs().with(runs.with(empty.perRun(), product), difference)
}

// measure has the contenders take turns, every round each of them.
func (e event) measure() ([]costs, error) {
	contenders := e.contenders()
	all := make([]costs, len(contenders))
	for i := range all {
		all[i] = make(costs, eventRounds)
	}
	for round := range eventRounds {
		for turn := range contenders {
			i := (round + turn) % len(contenders)
			var err error
			if all[i][round], err = e.measureRound(contenders[i]); err != nil {
				return nil, fmt.Errorf("%s: %w", contenders[i].name, err)
			}
		}
	}
	return all, nil
}

// measureRound attaches the contender and starts the load anew: where both lie in memory makes a difference of some percent.
func (e event) measureRound(c contender) (least cost, err error) {
	a, err := c.attach()
	if err != nil {
		return cost{}, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	l, err := startLoad(e.load, e.cpus)
	if err != nil {
		return cost{}, err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	run := func() (batch, error) { return l.run(e.batch) }
	if _, err := run(); err != nil { // makes the series
		return cost{}, err
	}
	if least.clock, err = onClock(run); err != nil || len(a.pids) == 0 {
		return least, err
	}
	least.programs, least.runs, err = a.inPrograms(run)
	return least, err
}

// onClock is the least time in ns that an event of a batch took.
func onClock(run func() (batch, error)) (ns float64, err error) {
	ns = math.Inf(1)
	for range roundBatches {
		b, err := run()
		if err != nil {
			return 0, err
		}
		ns = min(ns, float64(b.Time)/float64(b.Events))
	}
	return ns, nil
}

// inPrograms is the least time in ns that the programs took for an event of a batch, and how often they ran for one.
func (a attached) inPrograms(run func() (batch, error)) (ns, runs float64, err error) {
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	ns = math.Inf(1)
	for range roundBatches {
		before, err := a.stats()
		if err != nil {
			return 0, 0, err
		}
		b, err := run()
		if err != nil {
			return 0, 0, err
		}
		after, err := a.stats()
		if err != nil {
			return 0, 0, err
		}
		if after.runs == before.runs {
			return 0, 0, errors.New("the load has made no program run")
		}
		if one := float64(after.time-before.time) / float64(b.Events); one < ns {
			ns, runs = one, float64(after.runs-before.runs)/float64(b.Events)
		}
	}
	return ns, runs, nil
}

// eventCosts is the table of events.
func eventCosts() section {
	s := section{
		title: "An event",
		about: fmt.Sprintf(`What one event costs, in ns, by two measures. "Programs" is what all programs of a contender take together at an event,
by the kernel's run-time statistics (BPF_STATS_RUN_TIME); what it does in user space and what the kernel does to call a
program is not in it. "Clock" is the time from one event to the next as their cause sees it, system calls and all, with the
statistics off; fork, exec and exit are parts of one process, whose time it tells as a whole.

- *Nothing attached* and *Empty program* are the time of the event itself; an empty program is of the same kind and at the
  same hooks as ours (tp_btf).
- *Above empty*, by programs, is without what an empty program takes for as many runs, which is little but reading the clock.
- Ours is a probe as by default.
- The bpftrace scripts are in bench/peers.go and beside the loads, in bench/PROBE.go. They answer the question that our program at the hook does: waits for a CPU; a
  state of each task from its creation to its exit (the kernel frees ours, in no program's time); processes and threads
  created, executions by name, and exits by status with lifetimes, all by cgroup.
- Of libbpf-tools it is runqlat for the scheduler, execsnoop for exec, exitsnoop for exit and both for the whole. No tool is
  about fork.

The load: two threads on a CPU that wait for each other by pipes (context switch), the same with the other thread on the next
CPU (wake-up), or processes one after the other that execute `+"`true`"+` and exit, and find the caches cold. It is pinned, on one
CPU or on each of them; then all count in one series. A figure is the median of %d rounds, each the least of %d batches, ± half
of what the middle half of the rounds spans; differences are made within a round. The target, half of what the cheaper peer
takes by programs, is met or not when the middle half of our rounds is on one side of it.`, eventRounds, roundBatches),
		columns: []string{
			"Event (probe)", "By", "CPUs", "Nothing attached", "Empty program", "Ours above empty",
			"bpftrace above empty", "libbpf-tools above empty", "Ours to the cheaper", "Target",
		},
	}
	for _, e := range events() {
		s.rows = append(s.rows, e.rows()...)
	}
	return s
}

// rows are what an event costs by each measure. It is measured when the first is asked for.
func (e event) rows() []row {
	name, measured := fmt.Sprintf("%s (%s)", e.name, e.probe), sync.OnceValues(e.measure)
	rows := []row{{name, func() ([]string, error) {
		all, err := measured()
		if err != nil {
			return nil, err
		}
		above := func(c costs) figures { return c.aboveRuns(all[empty]) }
		return append(e.cells("programs", "none", all[empty].programs(), all, above), e.compared(all, above)...), nil
	}}}
	if !e.clock {
		return rows
	}
	return append(rows, row{name, func() ([]string, error) {
		all, err := measured()
		if err != nil {
			return nil, err
		}
		above := func(c costs) figures { return c.clock().with(all[empty].clock(), difference) }
		return append(e.cells("clock", all[nothing].clock().spread(0), all[empty].clock(), all, above), "none", "none"), nil
	}})
}

// cells are those of all contenders by a measure. above is what one takes beyond an empty program.
func (e event) cells(by, nothing string, empty figures, all []costs, above func(costs) figures) []string {
	cells := []string{by, strconv.Itoa(e.cpus), nothing, empty.spread(0)}
	for _, c := range all[ours:] {
		cells = append(cells, above(c).spread(0))
	}
	if e.tools == nil {
		cells = append(cells, "none")
	}
	return cells
}

// compared is ours beside the cheaper peer.
func (e event) compared(all []costs, above func(costs) figures) []string {
	cheaper := math.Inf(1)
	for _, peer := range all[peers:] {
		cheaper = min(cheaper, above(peer).median())
	}
	us := above(all[ours])
	return []string{fmt.Sprintf("%.2f", us.median()/cheaper), us.verdict(cheaper/2, nanoseconds)}
}
