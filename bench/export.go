package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/probes"
	"github.com/ebpf-sidecar/sidecar/telemetry"
)

// exportKind is what is exported: so many series of a source.
type exportKind struct {
	source string
	series int
	cycles int
}

var exportKinds = []exportKind{
	{"synthetic", 1_000, 20}, {"synthetic", 10_000, 10}, {"synthetic", 100_000, 5},
	{"real", 1_000, 20},
}

// exportTargets are those for 100,000 series.
const (
	exportSeries       = 100_000
	exportCPUTarget    = 150 * time.Millisecond
	exportMemoryTarget = uint64(60 << 20)
)

// exportProcesses is how many fresh processes measure each kind.
const exportProcesses = 3

// cycle is one export: the snapshot is asked for, was taken, and was acknowledged. All in ns; CPU is the process's time.
type cycle struct {
	Begin, Taken, End  int64
	CPUBegin, CPUEnd   int64
	Objects, Allocated uint64 // on the heap since the process's start, at the end
}

// exported is what a process that exports has to say. The first cycle is when every series is new.
type exported struct {
	Cycles   []cycle
	Points   int    // of the source, in each cycle
	Source   uint64 // resident bytes before the export starts
	Peak     uint64 // resident bytes at most since
	requests []request
}

// steady are all cycles but the first.
func (e *exported) steady() []cycle { return e.Cycles[1:] }

// stages are how long a cycle took until the snapshot was taken, until the first request came, and until the end.
func (e *exported) stages(c cycle) (snapshot, collect, send time.Duration, requests, bytes, points int) {
	sent := c.End
	for _, q := range e.requests {
		if q.Begin >= c.Begin && q.End <= c.End {
			sent = min(sent, q.Begin)
			requests++
			bytes += q.Bytes
			points += q.Points
		}
	}
	return time.Duration(c.Taken - c.Begin), time.Duration(sent - c.Taken), time.Duration(c.End - sent), requests, bytes, points
}

// measured are the processes of each kind, run when first asked for.
var measured = func() map[exportKind]func() ([]exported, error) {
	all := make(map[exportKind]func() ([]exported, error))
	for _, kind := range exportKinds {
		all[kind] = sync.OnceValues(func() (results []exported, err error) {
			for range exportProcesses {
				result, err := kind.measure()
				if err != nil {
					return nil, err
				}
				results = append(results, result)
			}
			return results, nil
		})
	}
	return all
}()

// measure exports in a process of its own to a receiver in another, and checks that every point came.
func (k exportKind) measure() (result exported, err error) {
	to, err := startPart("receive")
	if err != nil {
		return result, err
	}
	var url string
	if err := to.Decode(&url); err != nil {
		return result, errors.Join(err, to.stop())
	}
	collected := make(chan []request)
	go func() {
		var all []request
		for q := (request{}); to.Decode(&q) == nil; {
			all = append(all, q)
		}
		collected <- all
	}()
	result, err = once[exported]("export", k.source, strconv.Itoa(k.series), strconv.Itoa(k.cycles), url)
	to.input.Close()
	result.requests = <-collected
	if err = errors.Join(err, to.stop()); err != nil {
		return result, err
	}
	for _, c := range result.Cycles {
		if _, _, _, _, _, points := result.stages(c); points < result.Points {
			return result, fmt.Errorf("%d points of %d came", points, result.Points)
		}
	}
	return result, nil
}

// exportRows makes a row of each kind.
func exportRows(cells func(exportKind, []exported) []string) []row {
	var rows []row
	for _, kind := range exportKinds {
		rows = append(rows, row{fmt.Sprintf("%d, %s", kind.series, kind.source), func() ([]string, error) {
			results, err := measured[kind]()
			if err != nil {
				return nil, err
			}
			return cells(kind, results), nil
		}})
	}
	return rows
}

func exports() section {
	return section{
		title: "An export",
		about: fmt.Sprintf(`From the snapshot to the receiver's acknowledgement, over OTLP/gRPC on the loopback interface to another process,
which decodes the requests and counts the points. Synthetic series are half counters and half histograms of 40 buckets, with
the attributes of a container in Kubernetes; real ones are executions of so many programs, counted by the process probe.
"Collect" is from the snapshot to the first request's arrival, "send" from there to the acknowledgement of the last: later
requests are made in it. The target for 100,000 series is about what the SDK takes to collect them, before a byte is
encoded ("collect"). Times are the least of all cycles, after the first, of %d processes; CPU time and allocations are
the mean of a process's cycles, the least of the processes.`, exportProcesses),
		columns: []string{"Series", "Snapshot", "Collect", "Send", "All", "CPU time", "Target", "Allocations", "Requests", "First cycle, CPU time"},
		rows:    exportRows(exportCells),
	}
}

func exportCells(kind exportKind, results []exported) []string {
	least := func(figure func(*exported, cycle) time.Duration) time.Duration {
		shortest := time.Hour
		for i := range results {
			for _, c := range results[i].steady() {
				shortest = min(shortest, figure(&results[i], c))
			}
		}
		return shortest
	}
	cpu, first := time.Hour, time.Hour
	objects, allocated := ^uint64(0), ^uint64(0)
	for _, r := range results {
		// From end to end, so that what is done between the cycles counts too.
		before, after := r.Cycles[0], r.Cycles[len(r.Cycles)-1]
		n := len(r.steady())
		cpu = min(cpu, time.Duration(after.CPUEnd-before.CPUEnd)/time.Duration(n))
		first = min(first, time.Duration(before.CPUEnd-before.CPUBegin))
		objects = min(objects, (after.Objects-before.Objects)/uint64(n))
		allocated = min(allocated, (after.Allocated-before.Allocated)/uint64(n))
	}
	_, _, _, requests, size, _ := results[0].stages(results[0].Cycles[1])
	target := "none"
	if kind.series == exportSeries {
		target = verdict(cpu, exportCPUTarget, milliseconds)
	}
	return []string{
		milliseconds(least(func(e *exported, c cycle) time.Duration { s, _, _, _, _, _ := e.stages(c); return s })),
		milliseconds(least(func(e *exported, c cycle) time.Duration { _, s, _, _, _, _ := e.stages(c); return s })),
		milliseconds(least(func(e *exported, c cycle) time.Duration { _, _, s, _, _, _ := e.stages(c); return s })),
		milliseconds(least(func(_ *exported, c cycle) time.Duration { return time.Duration(c.End - c.Begin) })),
		milliseconds(cpu), target,
		fmt.Sprintf("%d, %s", objects, bytes(allocated)),
		fmt.Sprintf("%d, %s", requests, bytes(uint64(size))),
		milliseconds(first),
	}
}

func exportMemory() section {
	return section{
		title: "The memory of an export",
		about: fmt.Sprintf(`Resident memory of those processes, each fresh: the most of %d. "Before" is with the source and its attributes, and
for real series with the kernel's maps, which count as resident where they are mapped.`, exportProcesses),
		columns: []string{"Series", "Before", "Peak", "Target"},
		rows: exportRows(func(kind exportKind, results []exported) []string {
			var source, peak uint64
			for _, r := range results {
				source, peak = max(source, r.Source), max(peak, r.Peak)
			}
			target := "none"
			if kind.series == exportSeries {
				target = verdict(peak, exportMemoryTarget, bytes)
			}
			return []string{bytes(source), bytes(peak), target}
		}),
	}
}

// timed is a source that notes the cycles.
type timed struct {
	telemetry.Source
	cycles []cycle
	points int
	acked  chan struct{}
}

func (t *timed) Snapshot() (*probes.Snapshot, error) {
	c := cycle{Begin: monotonic(), CPUBegin: clock(unix.CLOCK_PROCESS_CPUTIME_ID)}
	snapshot, err := t.Source.Snapshot()
	c.Taken = monotonic()
	t.cycles = append(t.cycles, c)
	t.points = 0
	if err == nil {
		for _, m := range snapshot.Metrics {
			t.points += len(m.Points)
		}
	}
	return snapshot, err
}

func (t *timed) Acknowledge(snapshot *probes.Snapshot) {
	t.Source.Acknowledge(snapshot)
	c := &t.cycles[len(t.cycles)-1]
	c.End, c.CPUEnd = monotonic(), clock(unix.CLOCK_PROCESS_CPUTIME_ID)
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	c.Objects, c.Allocated = memory.Mallocs, memory.TotalAlloc
	t.acked <- struct{}{}
}

// sources make a source of so many series.
var sources = map[string]func(series int) (telemetry.Source, []telemetry.Instrument, io.Closer, error){
	"synthetic": syntheticSource,
	"real":      realSource,
}

// export is a part: it exports the series of a source so many times.
func export(arguments []string) error {
	var series, cycles int
	if err := numbers(arguments[1:], &series, &cycles); err != nil {
		return err
	}
	source, instruments, closer, err := sources[arguments[0]](series)
	if err != nil {
		return err
	}
	t := &timed{Source: source, acked: make(chan struct{}, 1)}
	debug.FreeOSMemory()
	const resetPeak = "5" // proc_pid_clear_refs(5)
	if err := os.WriteFile("/proc/self/clear_refs", []byte(resetPeak), 0); err != nil {
		return err
	}
	before, err := memoryOf(os.Getpid())
	if err != nil {
		return err
	}
	pipeline, err := telemetry.Start(context.Background(), telemetry.Options{
		Instruments: instruments,
		Interval:    time.Hour, // cycles are asked for
		OTLP:        &telemetry.OTLP{Endpoint: arguments[3]},
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	}, t)
	if err != nil {
		return err
	}
	<-t.acked // the first export, which the pipeline makes by itself
	for range cycles {
		if err := pipeline.Flush(context.Background()); err != nil {
			return err
		}
		<-t.acked
	}
	after, err := memoryOf(os.Getpid())
	if err != nil {
		return err
	}
	result := exported{
		Cycles: t.cycles[:len(t.cycles):len(t.cycles)], Points: t.points,
		Source: before["VmRSS"], Peak: after["VmHWM"],
	}
	if err := closer.Close(); err != nil {
		return err
	}
	return answer(result) // the process ends with the pipeline as it is
}

// memoryOf reads the sizes in bytes of /proc/PID/status.
func memoryOf(pid int) (map[string]uint64, error) {
	fields, err := readFields(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	sizes := make(map[string]uint64)
	for key, value := range fields {
		if number, ok := strings.CutSuffix(value, " kB"); ok {
			n, err := strconv.ParseUint(number, 10, 64)
			if err != nil {
				return nil, err
			}
			sizes[key] = n << 10
		}
	}
	return sizes, nil
}

// synthetic is a source whose snapshots are all the same.
type synthetic struct{ snapshot *probes.Snapshot }

func (s synthetic) Snapshot() (*probes.Snapshot, error) {
	s.snapshot.Time = time.Now()
	return s.snapshot, nil
}

func (synthetic) Acknowledge(*probes.Snapshot) {}

// syntheticSource is of series like those of a large machine in Kubernetes. As in a Set, the points of a container share
// its attributes, and no others do; the histograms' buckets are shared too, so that the memory is that of the export.
func syntheticSource(series int) (telemetry.Source, []telemetry.Instrument, io.Closer, error) {
	const (
		buckets  = 40 // in use, of the scheduler's 208
		programs = 10 // a container
	)
	scope := probes.Scope{Name: "bench", Version: "1"}
	counter := &probes.Instrument{
		Name: "linux.process.executions", Unit: "{execution}", Description: "Programs executed successfully",
	}
	histogram := &probes.Instrument{
		Name: "linux.scheduler.run_queue.duration", Unit: "s", Description: "How long tasks waited for a CPU",
		Kind: probes.Histogram, Range: probes.Range{Scale: 3, Min: -20, Max: 6},
	}
	container := func(i int) []probes.Attribute {
		return []probes.Attribute{
			{Key: probes.ContainerID, Value: fmt.Sprintf("%064x", i*0x9e3779b1)},
			{Key: probes.PodUID, Value: fmt.Sprintf("%08x-aaaa-4bbb-8ccc-%012x", i, i*7919)},
		}
	}
	counts := make([][]uint64, 64)
	for i := range counts {
		counts[i] = make([]uint64, buckets)
		for j := range counts[i] {
			counts[i][j] = 1 << (20 - (j-buckets/2)*(j-buckets/2)/20) * uint64(i+1)
		}
	}
	var shared []probes.Attribute // of the programs of one container
	began := time.Now().Add(-time.Hour)
	counters, histograms := make([]probes.Point, series/2), make([]probes.Point, series/2)
	for i := range series / 2 {
		program := probes.Attribute{Key: probes.ExecutableName, Value: fmt.Sprintf("program-%d", i%programs)}
		if i%programs == 0 {
			shared = container(i / programs)
		}
		counters[i] = probes.Point{
			Attributes: &probes.Attributes{List: append(slices.Clip(shared), program)},
			Start:      began.Add(time.Duration(i)), Value: uint64(i),
		}
		histograms[i] = probes.Point{
			Attributes: &probes.Attributes{List: container(i)},
			Start:      began.Add(time.Duration(i)),
			Histogram:  probes.HistogramData{Scale: 3, Offset: -140, Sum: float64(i), Counts: counts[i%len(counts)]},
		}
	}
	return synthetic{&probes.Snapshot{Metrics: []probes.Metric{
			{Probe: "process", Scope: scope, Instrument: counter, Points: counters},
			{Probe: "scheduler", Scope: scope, Instrument: histogram, Points: histograms},
		}}}, []telemetry.Instrument{{Scope: scope, Instrument: counter}, {Scope: scope, Instrument: histogram}},
		closers{}, nil
}

// realSource is the process probe after so many programs of different names were executed.
func realSource(series int) (telemetry.Source, []telemetry.Instrument, io.Closer, error) {
	options, err := defaultOptions()
	if err != nil {
		return nil, nil, nil, err
	}
	options.SeriesLimit = series + 2000
	options.MemoryLimit = 1 << 30
	var instruments []telemetry.Instrument
	options.Enabled = func(spec *probes.Spec) bool { return spec.Name == "process" }
	for _, spec := range probes.All() {
		for in := range spec.Instruments() {
			instruments = append(instruments, telemetry.Instrument{Scope: spec.Scope(), Instrument: in})
		}
	}
	set, err := openSet(options)
	if err != nil {
		return nil, nil, nil, err
	}
	return set, instruments, set, executeNames(series)
}

// executeNames executes so many programs that differ only in their names.
func executeNames(n int) (err error) {
	directory, err := os.MkdirTemp("", "sidecar-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		return err
	}
	original := filepath.Join(directory, "program")
	if err := os.WriteFile(original, program, 0o755); err != nil {
		return err
	}
	for i := range n {
		name := fmt.Sprintf("%s-%d", original, i)
		if err := os.Link(original, name); err != nil {
			return err
		}
		if err := execute(name); err != nil {
			return err
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}
