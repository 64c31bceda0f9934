package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/probes"
)

// event is a tracepoint, the probe that counts it and a load that makes it happen.
type event struct {
	name  string
	hook  string
	probe string
	load  string // the name of a part
	batch int    // events on each CPU between two readings, some milliseconds
}

var (
	switching = event{"context switch", "sched_switch", "scheduler", "switches", 300}
	executing = event{"exec", "sched_process_exec", "process", "executions", 10}
	forking   = event{"fork", "task_newtask", "process", "executions", 10}
	watching  = event{"fork", "task_newtask", "scheduler", "executions", 10}
	exiting   = event{"exit", "sched_process_exit", "process", "executions", 10}
)

// The load of a benchmark on "all" CPUs is on so many.
var contending = min(4, runtime.NumCPU())

// contender is something to attach for an event.
type contender struct {
	name   string
	attach func(event) (attached, error)
}

// attached is what a contender attached, and the processes whose programs they are.
type attached struct {
	io.Closer
	pids []int
}

var (
	nothing = contender{"nothing", func(event) (attached, error) { return attached{Closer: closers{}}, nil }}
	empty   = contender{"empty program", attachEmpty}
	ours    = contender{"ours", attachOurs}
)

type closers []io.Closer

func (all closers) Close() error {
	var errs []error
	for _, c := range all {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// attachEmpty attaches a program that does nothing.
func attachEmpty(e event) (a attached, err error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "empty",
		Type:         ebpf.Tracing,
		AttachType:   ebpf.AttachTraceRawTp,
		AttachTo:     e.hook,
		License:      "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return a, err
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		return a, errors.Join(err, program.Close())
	}
	return attached{closers{l, program}, []int{os.Getpid()}}, nil
}

// attachOurs loads the event's probe, as by default.
func attachOurs(e event) (a attached, err error) {
	options, err := defaultOptions()
	if err != nil {
		return a, err
	}
	options.Enabled = func(spec *probes.Spec) bool { return spec.Name == e.probe }
	set, err := openSet(options)
	return attached{set, []int{os.Getpid()}}, err
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
	programRounds = 15
	wallRounds    = 31 // other load shows more
	roundBatches  = 20
)

// figures are those of one contender, by round.
type figures []float64

// compare measures the contenders in turns, every round each of them. A figure is the least of a round's batches.
func compare(e event, cpus, rounds int, contenders []contender, measure meter) ([]figures, error) {
	all := make([]figures, len(contenders))
	for i := range all {
		all[i] = make(figures, rounds)
	}
	for round := range rounds {
		for turn := range contenders {
			i := (round + turn) % len(contenders)
			var err error
			if all[i][round], err = measureRound(e, cpus, contenders[i], measure); err != nil {
				return nil, fmt.Errorf("%s: %w", contenders[i].name, err)
			}
		}
	}
	return all, nil
}

func (f figures) median() float64 { return f.quantile(1, 2) }

// quantile is the figure that so large a part of them is below.
func (f figures) quantile(part, of int) float64 {
	return slices.Sorted(slices.Values(f))[len(f)*part/of]
}

// spread is the median, and how far the middle half of the figures is from it.
func (f figures) spread() string {
	return fmt.Sprintf("%.0f ± %.0f", f.median(), (f.quantile(3, 4)-f.quantile(1, 4))/2)
}

// with makes a figure of the two of each round, which knew the same machine.
func (f figures) with(others figures, combine func(figure, other float64) float64) figures {
	combined := make(figures, len(f))
	for round := range f {
		combined[round] = combine(f[round], others[round])
	}
	return combined
}

func above(figure, other float64) float64 { return figure - other }

func ratio(figure, other float64) float64 { return figure / other }

// meter runs a batch and returns the cost of an event in ns.
type meter func(e event, a attached, run func() (batch, error)) (float64, error)

// measureRound attaches the contender and starts the load anew: where both lie in memory makes a difference of some percent.
func measureRound(e event, cpus int, c contender, measure meter) (least float64, err error) {
	a, err := c.attach(e)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	l, err := startLoad(e.load, cpus)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.stop()) }()
	run := func() (batch, error) { return l.run(e.batch) }
	if _, err := run(); err != nil { // makes the series
		return 0, err
	}
	least = math.Inf(1)
	for range roundBatches {
		figure, err := measure(e, a, run)
		if err != nil {
			return 0, err
		}
		least = min(least, figure)
	}
	return least, nil
}

// byWall is the time of an event.
func byWall(_ event, _ attached, run func() (batch, error)) (float64, error) {
	b, err := run()
	return float64(b.Time) / float64(b.Events), err
}

// byKernel is the time of an event that this process's programs took, by the kernel's statistics.
func byKernel(e event, _ attached, run func() (batch, error)) (float64, error) {
	programs, err := programsAt(e.hook)
	if err != nil {
		return 0, err
	}
	total := 0.0
	var before []*ebpf.ProgramStats
	for _, p := range programs {
		defer p.Close()
		stats, err := p.Stats()
		if err != nil {
			return 0, err
		}
		before = append(before, stats)
	}
	if _, err := run(); err != nil {
		return 0, err
	}
	for i, p := range programs {
		stats, err := p.Stats()
		if err != nil {
			return 0, err
		}
		runs := stats.RunCount - before[i].RunCount
		if runs == 0 {
			return 0, fmt.Errorf("the load has not made the program at %s run", e.hook)
		}
		total += float64(stats.Runtime-before[i].Runtime) / float64(runs)
	}
	return total, nil
}

// programsAt are the programs that this process has attached to a tracepoint.
func programsAt(hook string) ([]*ebpf.Program, error) {
	files, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		return nil, err
	}
	var programs []*ebpf.Program
	for _, file := range files {
		link, err := readFields(file)
		if err != nil || link["tp_name"] != hook {
			continue // gone, or not a link
		}
		id, err := strconv.ParseUint(link["prog_id"], 10, 32)
		if err != nil {
			return nil, err
		}
		program, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if err != nil {
			return nil, err
		}
		programs = append(programs, program)
	}
	if len(programs) == 0 {
		return nil, fmt.Errorf("no program at %s", hook)
	}
	return programs, nil
}

// readFields reads a file of /proc with a "key: value" a line.
func readFields(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fields := make(map[string]string)
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		key, value, _ := strings.Cut(scanner.Text(), ":")
		fields[key] = strings.TrimSpace(value)
	}
	return fields, scanner.Err()
}

// inProgram is the cost of events by the kernel's own count.
func inProgram() section {
	return section{
		title: "An event, in the programs",
		about: `What the programs at the hook take, in ns an event, by the kernel's run-time statistics (BPF_STATS_RUN_TIME). Reading
the clock twice is in the figure of the empty program too, so that the difference is what ours do. fork, exec and exit are
those of ` + "`true`" + `, one after the other, and find the caches cold. ` + statistic(programRounds) + contention,
		columns: []string{"Event (probe)", "CPUs", "Empty", "Ours", "Ours above empty"},
		rows: []row{
			inProgramRow(switching, 1), inProgramRow(switching, contending),
			inProgramRow(executing, 1), inProgramRow(executing, contending),
			inProgramRow(forking, 1), inProgramRow(watching, 1),
			inProgramRow(exiting, 1),
		},
	}
}

// statistic says what a figure of compare is.
func statistic(rounds int) string {
	return fmt.Sprintf(`A figure is the median of %d rounds, of
each the least of %d batches; what is above or to another is the median of the rounds' own, ± half of what the middle half
of them spans. `, rounds, roundBatches)
}

var contention = fmt.Sprintf(`With the load on %d CPUs (at most 4; the
machine has %d), all of them count in one series.`, contending, runtime.NumCPU())

func inProgramRow(e event, cpus int) row {
	return row{fmt.Sprintf("%s (%s)", e.name, e.probe), func() ([]string, error) {
		stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
		if err != nil {
			return nil, err
		}
		defer stats.Close()
		ns, err := compare(e, cpus, programRounds, []contender{empty, ours}, byKernel)
		if err != nil {
			return nil, err
		}
		return []string{
			strconv.Itoa(cpus), nanoseconds(ns[0].median()), nanoseconds(ns[1].median()),
			ns[1].with(ns[0], above).spread(),
		}, nil
	}}
}

// wallTime is the cost of events as who causes them sees it.
func wallTime() section {
	return section{
		title: "A context switch, on the clock",
		about: `Two threads on one CPU wait for each other by two pipes; ns a switch, with the system calls that cause it. ` +
			statistic(wallRounds) + contention,
		columns: []string{"Event (probe)", "CPUs", "Nothing attached", "Empty", "Ours", "Ours above empty", "Ours to nothing"},
		rows:    []row{wallTimeRow(switching, 1), wallTimeRow(switching, contending)},
	}
}

func wallTimeRow(e event, cpus int) row {
	return row{fmt.Sprintf("%s (%s)", e.name, e.probe), func() ([]string, error) {
		ns, err := compare(e, cpus, wallRounds, []contender{nothing, empty, ours}, byWall)
		if err != nil {
			return nil, err
		}
		return []string{
			strconv.Itoa(cpus), nanoseconds(ns[0].median()), nanoseconds(ns[1].median()), nanoseconds(ns[2].median()),
			ns[2].with(ns[1], above).spread(),
			fmt.Sprintf("%.3f", ns[2].with(ns[0], ratio).median()),
		}, nil
	}}
}
