package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ebpf-sidecar/sidecar/probes"
)

const (
	runningTarget     = 250 * time.Millisecond
	firstExportTarget = 5 * time.Second
	memoryTarget      = uint64(25 << 20)
	sizeTarget        = uint64(20 << 20)

	starts   = 11
	idleTime = 5 * time.Minute
)

// binary is where make build puts the sidecar.
const binary = "bin/sidecar"

// running is a sidecar with a receiver in this process, and the time from its execution to what it did first.
type running struct {
	command  *exec.Cmd
	receiver *receiver
	requests chan request
	open     time.Duration // it said that the gate is open
	cpu      time.Duration // that it had used by then
	received time.Duration // the first request came
}

// runSidecar runs a sidecar of the default configuration, but for these variables, and returns after its first request.
func runSidecar(variables ...string) (r *running, err error) {
	r = &running{command: exec.Command(binary, "run", "--strict"), requests: make(chan request, 1000)}
	var url string
	if r.receiver, url, err = newReceiver(func(q request) { r.requests <- q }); err != nil {
		return nil, err
	}
	r.command.Env = append(append(environment(), "OTEL_EXPORTER_OTLP_ENDPOINT="+url), variables...)
	log, err := r.command.StderrPipe()
	if err != nil {
		return nil, err
	}
	begin := monotonic()
	if err := r.command.Start(); err != nil {
		return nil, err
	}
	for lines := bufio.NewScanner(log); r.open == 0 && lines.Scan(); {
		if strings.Contains(lines.Text(), "msg=running") {
			r.open = time.Duration(monotonic() - begin)
			r.cpu = r.cpuTime()
			break
		}
		fmt.Fprintln(os.Stderr, lines.Text())
	}
	go func() { _, _ = io.Copy(io.Discard, log) }()
	if r.open == 0 {
		return nil, errors.Join(errors.New("the sidecar does not run"), r.stop())
	}
	select {
	case first := <-r.requests:
		r.received = time.Duration(first.Begin - begin)
		return r, nil
	case <-time.After(time.Minute):
		return nil, errors.Join(errors.New("the sidecar exports nothing"), r.stop())
	}
}

// cpuTime is what the sidecar has used so far.
func (r *running) cpuTime() time.Duration {
	// CLOCK_PROCESS_CPUTIME_ID of another process: include/linux/posix-timers_types.h
	return time.Duration(clock(int32(^r.command.Process.Pid<<3 | 2)))
}

func (r *running) stop() error {
	err := terminate(r.command)
	r.receiver.server.Stop()
	return err
}

// startTimes are those of one start.
type startTimes struct{ version, open, cpu, received time.Duration }

var started = sync.OnceValues(func() ([]startTimes, error) {
	var all []startTimes
	for range starts {
		begin := monotonic()
		if err := exec.Command(binary, "version").Run(); err != nil {
			return nil, err
		}
		version := time.Duration(monotonic() - begin)
		r, err := runSidecar()
		if err != nil {
			return nil, err
		}
		all = append(all, startTimes{version, r.open, r.cpu, r.received})
		if err := r.stop(); err != nil {
			return nil, err
		}
	}
	return all, nil
})

// loadTimes are those of what a start does until the gate is open.
type loadTimes struct{ Kernel, Plan, Load, Open time.Duration }

// loadProbes is a part: it loads the default probes.
func loadProbes([]string) error {
	options, err := defaultOptions()
	if err != nil {
		return err
	}
	var times loadTimes
	begin := monotonic()
	lap := func(into *time.Duration) {
		now := monotonic()
		*into, begin = time.Duration(now-begin), now
	}
	kernel, err := probes.RunningKernel()
	if err != nil {
		return err
	}
	lap(&times.Kernel)
	plan, err := probes.NewPlan(probes.All(), options, kernel)
	if err != nil {
		return err
	}
	lap(&times.Plan)
	set, err := probes.Load(plan)
	if err != nil {
		return err
	}
	lap(&times.Load)
	if err := set.Open(); err != nil {
		return err
	}
	lap(&times.Open)
	return errors.Join(set.Close(), answer(times))
}

var loaded = sync.OnceValues(func() (all []loadTimes, err error) {
	for range starts {
		times, err := once[loadTimes]("load")
		if err != nil {
			return nil, err
		}
		all = append(all, times)
	}
	return all, nil
})

// spreadRow tells the least and the median of a figure, and whether the median meets a target, if there is one.
func spreadRow[T any](name string, measure func() ([]T, error), figure func(T) time.Duration, target time.Duration) row {
	return row{name, func() ([]string, error) {
		all, err := measure()
		if err != nil {
			return nil, err
		}
		var figures []time.Duration
		for _, one := range all {
			figures = append(figures, figure(one))
		}
		slices.Sort(figures)
		median, met := figures[len(figures)/2], "none"
		if target != 0 {
			met = verdict(median, target, milliseconds)
		}
		return []string{milliseconds(figures[0]), milliseconds(median), met}, nil
	}}
}

func start() section {
	return section{
		title:   "A start",
		about:   fmt.Sprintf("From the execution of `sidecar run`, with the default configuration; of %d. The first export is made a second after\nthe gate is open.", starts),
		columns: []string{"To", "Least", "Median", "Target"},
		rows: []row{
			spreadRow("all probes attached and counting", started, func(t startTimes) time.Duration { return t.open }, runningTarget),
			spreadRow("CPU time until then", started, func(t startTimes) time.Duration { return t.cpu }, 0),
			spreadRow("the first request at the receiver", started, func(t startTimes) time.Duration { return t.received }, firstExportTarget),
		},
	}
}

func startParts() section {
	return section{
		title:   "Where a start's time goes",
		about:   fmt.Sprintf("In processes of their own; of %d.", starts),
		columns: []string{"Part", "Least", "Median", "Target"},
		rows: []row{
			spreadRow("`sidecar version`: the process and its packages", started, func(t startTimes) time.Duration { return t.version }, 0),
			spreadRow("read the kernel's BTF", loaded, func(t loadTimes) time.Duration { return t.Kernel }, 0),
			spreadRow("read the collections and plan the tables", loaded, func(t loadTimes) time.Duration { return t.Plan }, 0),
			spreadRow("load and attach", loaded, func(t loadTimes) time.Duration { return t.Load }, 0),
			spreadRow("open the gate", loaded, func(t loadTimes) time.Duration { return t.Open }, 0),
		},
	}
}

// idleUse is what a sidecar uses that has nothing to do but export.
type idleUse struct {
	before map[string]uint64 // the memory in bytes, after the first export
	memory map[string]uint64 // and at the end
	points int               // in the last export
	cpu    time.Duration
	took   time.Duration
}

var idled = sync.OnceValues(func() (use idleUse, err error) {
	r, err := runSidecar()
	if err != nil {
		return use, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	if use.before, err = memoryOf(r.command.Process.Pid); err != nil {
		return use, err
	}
	fmt.Fprintf(os.Stderr, "The sidecar idles for %.0f minutes.\n", idleTime.Minutes())
	cpu, begin := r.cpuTime(), monotonic()
	time.Sleep(idleTime)
	use.cpu, use.took = r.cpuTime()-cpu, time.Duration(monotonic()-begin)
	for len(r.requests) > 0 {
		use.points = (<-r.requests).Points
	}
	if use.memory, err = memoryOf(r.command.Process.Pid); err != nil {
		return use, err
	}
	if use.memory[mapped], err = mappedMaps(r.command.Process.Pid); err != nil {
		return use, err
	}
	use.memory[planned], err = plannedMemory()
	return use, err
})

// Keys of idleUse.memory besides those of /proc/PID/status.
const (
	mapped  = "mapped maps"
	planned = "maps"
)

// plannedMemory is what the default probes' maps take in the kernel, in bytes.
func plannedMemory() (uint64, error) {
	options, err := defaultOptions()
	if err != nil {
		return 0, err
	}
	kernel, err := probes.RunningKernel()
	if err != nil {
		return 0, err
	}
	plan, err := probes.NewPlan(probes.All(), options, kernel)
	if err != nil {
		return 0, err
	}
	return plan.Memory, nil
}

// mappedMaps is how much of a process's resident memory is BPF maps, in bytes.
func mappedMaps(pid int) (total uint64, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines, inside := bufio.NewScanner(f), false
	for lines.Scan() {
		line := lines.Text()
		var resident uint64
		if n, _ := fmt.Sscanf(line, "Rss: %d kB", &resident); n == 1 && inside {
			total += resident << 10
		} else if first, _, _ := strings.Cut(line, " "); strings.Contains(first, "-") {
			inside = strings.HasSuffix(line, "bpf-map")
		}
	}
	return total, lines.Err()
}

func idle() section {
	memory := func(name, key, target string) row {
		return row{name, func() ([]string, error) {
			use, err := idled()
			if err != nil {
				return nil, err
			}
			if target == "" {
				target = verdict(use.memory[key], memoryTarget, bytes)
			}
			return []string{bytes(use.memory[key]), target}, nil
		}}
	}
	return section{
		title: "Idle",
		about: fmt.Sprintf("`sidecar run` with the default configuration and a receiver, %.0f minutes after its first export, "+
			"exporting every 10 s.\nOther programs of the machine make events and series too.", idleTime.Minutes()),
		columns: []string{"What", "Figure", "Target"},
		rows: []row{
			{"resident memory after the first export", func() ([]string, error) {
				use, err := idled()
				return []string{bytes(use.before["VmRSS"]), "none"}, err
			}},
			memory("resident memory at the end (VmRSS)", "VmRSS", ""),
			memory("of that, its own (RssAnon)", "RssAnon", "none"),
			memory("of that, files and the kernel's maps (RssFile)", "RssFile", "none"),
			memory("of that, the kernel's maps", mapped, "none"),
			memory("of that, shared (RssShmem)", "RssShmem", "none"),
			memory("at most since the start (VmHWM)", "VmHWM", "none"),
			memory("in the kernel, all maps by their formula", planned, "none"),
			{"points in the last export", func() ([]string, error) {
				use, err := idled()
				return []string{strconv.Itoa(use.points), "none"}, err
			}},
			{"CPU time, of one CPU", func() ([]string, error) {
				use, err := idled()
				return []string{fmt.Sprintf("%.2f %%", 100*float64(use.cpu)/float64(use.took)), "none"}, err
			}},
		},
	}
}

func binarySize() section {
	return section{
		title:   "The binary",
		about:   "Built by `make build`.",
		columns: []string{"What", "Figure", "Target"},
		rows: []row{{"size", func() ([]string, error) {
			file, err := os.Stat(binary)
			if err != nil {
				return nil, err
			}
			size := uint64(file.Size())
			return []string{bytes(size), verdict(size, sizeTarget, bytes)}, nil
		}}},
	}
}
