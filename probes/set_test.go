package probes

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/bpf"
	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// broken is the process probe under another name, with one program instead of its own.
func broken(name, tracepoint string, program asm.Instructions) *Spec {
	spec := process()
	spec.Name = name
	spec.Load = func() (*ebpf.CollectionSpec, error) {
		collection, err := bpf.LoadProcess()
		if err != nil {
			return nil, err
		}
		collection.Programs = map[string]*ebpf.ProgramSpec{"broken": {
			Name:         "broken",
			Type:         ebpf.Tracing,
			AttachType:   ebpf.AttachTraceRawTp,
			AttachTo:     tracepoint,
			Instructions: program,
			License:      "GPL",
		}}
		return collection, nil
	}
	return spec
}

// TestProbesThatCannotBe loads probes that cannot be beside those that can.
func TestProbesThatCannotBe(t *testing.T) {
	nothing := asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
	unreadable := process()
	unreadable.Name = "unreadable"
	unreadable.Load = func() (*ebpf.CollectionSpec, error) { return nil, errors.New("unreadable object") }
	bad := []struct {
		spec  *Spec
		state State
		cause string
	}{
		{broken("missing", "no_such_tracepoint", nothing), Unsupported, "no_such_tracepoint"},
		{broken("refused", "sched_switch", asm.Instructions{asm.Return()}), Failed, "R0 !read_ok"},
		{unreadable, Failed, "unreadable object"},
	}
	specs := All()
	for _, probe := range bad {
		specs = append([]*Spec{probe.spec}, specs...)
	}
	options := loadOnly("", LinuxCgroup)
	options.Enabled = every
	set := loadSpecs(t, specs, options)
	if err := set.Open(); err != nil {
		t.Fatal(err)
	}
	group := kerneltest.NewCgroup(t, "")
	n := random(t, "processes", 5, 20)
	for range n {
		mustRun(t, helper(t, group, "exit", 0))
	}
	snapshot := read(t, set)
	states := make(map[string]Status)
	for _, status := range snapshot.Probes {
		states[status.Probe] = status
	}
	if len(states) != len(specs) {
		t.Errorf("the states of %d probes, want %d", len(states), len(specs))
	}
	for _, probe := range bad {
		status := states[probe.spec.Name]
		if status.State != probe.state || status.Err == nil || !strings.Contains(status.Err.Error(), probe.cause) {
			t.Errorf("%s: %s, %v; want %s and %q", probe.spec.Name, status.State, status.Err, probe.state, probe.cause)
		}
		t.Log(status.Err)
	}
	for _, spec := range All() {
		if status := states[spec.Name]; set.plan.kernel.Supports(spec) && (status.State != Attached || status.Err != nil) {
			t.Errorf("%s: %+v", spec.Name, status)
		}
	}
	for _, metric := range snapshot.Metrics {
		if states[metric.Probe].State != Attached {
			t.Errorf("%s of probe %s, which is not attached", metric.Instrument.Name, metric.Probe)
		}
	}
	same(t, "executions", total(t, snapshot, executions, in(group)), uint64(n))
	if total(t, snapshot, contextSwitches, in(group)) == 0 {
		t.Error("no context switches")
	}
}

func TestPlan(t *testing.T) {
	kernel, err := RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	for _, cpus := range []int{1, 2, 8, 128} {
		kernel.PossibleCPUs = cpus
		options := Options{Attributes: []string{LinuxCgroup, ExecutableName}, SeriesLimit: 100_000}
		if _, err := NewPlan(All(), options, kernel); err == nil || !strings.Contains(err.Error(), "memory_limit") {
			t.Errorf("%d CPUs, no memory: %v", cpus, err)
		}
		for _, limit := range []uint64{8 << 20, 64 << 20, 1 << 30} {
			if cpus > 8 && limit < 16<<20 {
				continue // Linux 5.10 needs more for the states of tasks, as many as a machine of that size may have
			}
			options.MemoryLimit = limit
			plan, err := NewPlan(All(), options, kernel)
			if err != nil {
				t.Errorf("%d CPUs, %d bytes: %v", cpus, limit, err)
				continue
			}
			t.Logf("%d CPUs, %d MiB: %d series, %d bytes", cpus, limit>>20, plan.SeriesLimit, plan.Memory)
			if plan.Memory > limit || plan.SeriesLimit > options.SeriesLimit || plan.SeriesLimit < 1 {
				t.Errorf("%d CPUs, %d bytes: %d series, %d bytes", cpus, limit, plan.SeriesLimit, plan.Memory)
			}
			series, memory := plan.SeriesLimit, plan.Memory
			if plan.layOut(series + 1); series < options.SeriesLimit && plan.Memory <= limit {
				t.Errorf("%d CPUs, %d bytes: %d series fit, not just %d", cpus, limit, series+1, series)
			}
			// As much as it says it needs is enough.
			options := options
			options.SeriesLimit, options.MemoryLimit = series, memory
			if _, err := NewPlan(All(), options, kernel); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestPlanAgainstKernel compares what a plan says that the maps take with the kernel's own account.
func TestPlanAgainstKernel(t *testing.T) {
	kerneltest.NeedRoot(t)
	kerneltest.NeedLinux(t, 6, 4, "before, it did not know what maps take (90a5527d7686)")
	for _, test := range []struct {
		series     int
		attributes []string
	}{
		{1, []string{LinuxCgroup, ExecutableName}},
		{64, []string{LinuxCgroup, ExecutableName}},
		{2000, []string{LinuxCgroup, ExecutableName}},
		{2000, nil},
		{20_000, []string{ContainerID}},
	} {
		if inMatrix && test.series > 2000 {
			continue // giving the kernel that many free slots takes a while
		}
		t.Run(fmt.Sprint(test.series, test.attributes), func(t *testing.T) {
			set := load(t, Options{Enabled: every, Attributes: test.attributes, SeriesLimit: test.series, MemoryLimit: 1 << 30})
			if set.plan.SeriesLimit != test.series {
				t.Errorf("%d series, not %d", set.plan.SeriesLimit, test.series)
			}
			memory := make(map[ebpf.MapID]uint64)
			var maps string
			collections := []*ebpf.Collection{set.shared.Collection}
			for _, probe := range set.probes {
				if probe.coll != nil { // else this kernel is too old for it
					collections = append(collections, probe.coll.Collection)
				}
			}
			for _, collection := range collections {
				for name, m := range collection.Maps {
					info, err := m.Info()
					if err != nil {
						t.Fatal(err)
					}
					id, ok := info.ID()
					if !ok {
						t.Fatal("a map without an id")
					}
					n := fields(t, fmt.Sprintf("/proc/self/fdinfo/%d", m.FD()))["memlock"]
					memory[id] = n
					maps += fmt.Sprintf("%8d %s\n", n, name)
				}
			}
			var sum uint64
			for _, n := range memory {
				sum += n
			}
			t.Logf("%d bytes, planned %d", sum, set.plan.Memory)
			// Something for each map is more than it takes, however many series there are.
			within(t, "bytes", sum, set.plan.Memory-uint64(len(memory))*4<<10, set.plan.Memory)
			if t.Failed() {
				t.Log(maps)
			}
		})
	}
}

func TestMetricSwitches(t *testing.T) {
	const off = lifetime
	options := loadOnly("", LinuxCgroup)
	options.Enabled = every
	options.Metric = func(_, metric string) bool { return metric != off && metric != threadsNew && metric != runQueue }
	set := open(t, options)
	group := kerneltest.NewCgroup(t, "")
	n := random(t, "processes", 5, 20)
	for range n {
		mustRun(t, helper(t, group, "exit", 0))
	}
	snapshot := read(t, set)
	got := make(map[string]bool)
	for _, metric := range snapshot.Metrics {
		got[metric.Instrument.Name] = true
	}
	for _, spec := range All() {
		for instrument := range spec.Instruments() {
			want := options.Metric(spec.Name, instrument.Name) && set.plan.kernel.Supports(spec)
			if got[instrument.Name] != want {
				t.Errorf("%s is there: %v, want %v", instrument.Name, got[instrument.Name], want)
			}
		}
	}
	same(t, "processes created", total(t, snapshot, created, in(group)), uint64(n))
	same(t, "exits", total(t, snapshot, exits, in(group)), uint64(n))
	if status := statusOf(t, snapshot, "lifetimes"); status.Limit != 0 || status.Series != 0 || status.Overflow != 0 {
		t.Errorf("the table of what is switched off: %+v", status)
	}
	if total(t, snapshot, contextSwitches, in(group)) == 0 {
		t.Error("no context switches")
	}
	for _, probe := range set.probes {
		if probe.coll == nil { // this kernel is too old for it
			continue
		}
		for name := range probe.coll.Programs {
			if strings.HasPrefix(name, "scheduler_task_") {
				t.Errorf("%s runs, though waits are not measured", name)
			}
		}
	}

	all := options
	all.Metric = nil
	kernel, err := RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := NewPlan(All(), all, kernel)
	if err != nil {
		t.Fatal(err)
	}
	if set.plan.Memory >= plan.Memory {
		t.Errorf("%d bytes, with all metrics %d", set.plan.Memory, plan.Memory)
	}
}

func TestProbeSwitches(t *testing.T) {
	set := open(t, loadOnly("scheduler", LinuxCgroup))
	snapshot := read(t, set)
	for _, metric := range snapshot.Metrics {
		if metric.Probe != "scheduler" {
			t.Errorf("%s of a probe that is off", metric.Instrument.Name)
		}
	}
	for _, status := range snapshot.Probes {
		want := Disabled
		if status.Probe == "scheduler" {
			want = Attached
		}
		if status.State != want {
			t.Errorf("%s is %s, want %s", status.Probe, status.State, want)
		}
	}
}

// Without the attributes there is a single series of each instrument, whatever happens.
func TestNoAttributes(t *testing.T) {
	options := loadOnly("")
	options.Enabled = every
	set := open(t, options)
	programs := newExecutables(t)
	n := random(t, "processes", 5, 20)
	for i := range n {
		command := helper(t, kerneltest.NewCgroup(t, ""), "exit", 0)
		command.Path = programs.named(t, strconv.Itoa(i))
		mustRun(t, command)
	}
	snapshot := read(t, set)
	for _, metric := range snapshot.Metrics {
		own := make(map[string]bool) // the attributes of the instrument's own
		for _, value := range metric.Instrument.Values {
			for _, a := range value.Attributes {
				own[a.Key] = true
			}
		}
		for _, key := range metric.Instrument.Attributes {
			own[key] = key != ExecutableName
		}
		seen := make(map[string]bool)
		for _, p := range metric.Points {
			for _, a := range p.Attributes.List {
				if !own[a.Key] {
					t.Errorf("%s has %v", metric.Instrument.Name, p.Attributes.List)
				}
			}
			seen[attributesKey(p.Attributes.List)] = true
		}
		if len(own) == 0 && len(metric.Points) > 1 {
			t.Errorf("%s has %d points, want 1 at most", metric.Instrument.Name, len(metric.Points))
		}
		if len(seen) != len(metric.Points) {
			t.Errorf("%s has %d points of %d attribute sets", metric.Instrument.Name, len(metric.Points), len(seen))
		}
	}
	for _, metric := range []string{created, executions, exits} {
		if got := total(t, snapshot, metric, nil); got < uint64(n) {
			t.Errorf("%s: %d, want %d at least", metric, got, n)
		}
	}
	if limit := statusOf(t, snapshot, cgroupsTable).Limit; limit != 0 {
		t.Errorf("room for %d cgroups, want none", limit)
	}
}

// Nothing is counted before the gate opens, and all of a set's series begin with it or after.
func TestGate(t *testing.T) {
	options := loadOnly("", LinuxCgroup)
	options.Enabled = every
	set := load(t, options)
	group := kerneltest.NewCgroup(t, "")
	mustRun(t, helper(t, group, "exit", 0))
	for _, metric := range read(t, set).Metrics {
		if len(metric.Points) != 0 {
			t.Errorf("%s before the gate is open: %v", metric.Instrument.Name, metric.Points)
		}
	}
	opened := time.Now().Add(-time.Millisecond) // the two clocks are not read at once
	if err := set.Open(); err != nil {
		t.Fatal(err)
	}
	mustRun(t, helper(t, group, "exit", 0))
	snapshot := read(t, set)
	same(t, "executions", total(t, snapshot, executions, in(group)), 1)
	for _, metric := range snapshot.Metrics {
		for _, p := range metric.Points {
			if p.Start.Before(opened) {
				t.Errorf("%s begins at %v, before the gate opened at %v", metric.Instrument.Name, p.Start, opened)
			}
		}
	}
}

// What the kernel refuses is told with what to do about it.
func TestExplain(t *testing.T) {
	kernel := &Kernel{Release: "6.1.0"}
	for _, test := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("map create: %w (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", unix.EPERM),
			"map create: operation not permitted (run as root, or with CAP_BPF and CAP_PERFMON; before Linux 5.11 with LimitMEMLOCK=infinity, too)"},
		{unix.ENOMEM, "cannot allocate memory (lower memory_limit, or raise the limit on the memory of the process)"},
		{errors.New("dup: too many open files"),
			"dup: too many open files (raise the limit on open files: LimitNOFILE=1024 in a unit, or ulimit -n 1024)"},
		{errors.New("x"), "x (it needs Linux 6.4; this is 6.1.0)"},
	} {
		if got := kernel.explain(test.err, "Linux 6.4"); got.Error() != test.want || !errors.Is(got, test.err) {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// The programs' run time is told while the kernel measures it, and is within what they can have taken.
func TestRunTime(t *testing.T) {
	set := load(t, loadOnly("process", LinuxCgroup))
	if err := set.Open(); err != nil {
		t.Fatal(err)
	}
	group := kerneltest.NewCgroup(t, "")
	cpuTime := func() (total time.Duration) {
		mustRun(t, helper(t, group, "forks", 100))
		for _, status := range read(t, set).Probes {
			total += status.CPUTime
		}
		return total
	}
	before := cpuTime() // 0, unless another measures
	statistics, err := MeasureRunTime()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	measured := cpuTime() - before
	if limit := time.Since(start) * time.Duration(runtime.NumCPU()); measured < 100*100*time.Nanosecond || measured > limit {
		t.Errorf("100 processes took the programs %v", measured)
	}
	if err := statistics.Close(); err != nil {
		t.Fatal(err)
	}
}

// A snapshot that fails loses nothing: the next one has it all.
func TestSnapshotFails(t *testing.T) {
	set := open(t, loadOnly("process", ExecutableName, LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	mustRun(t, helper(t, group, "exit", 0))

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 0, Max: limit.Max} // so that no map can be made, as Quiesce does
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, failure := set.Snapshot()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if failure == nil {
		t.Fatal("a snapshot without a file descriptor")
	}
	t.Log(failure)

	mustRun(t, helper(t, group, "exit", 0))
	first := read(t, set)
	for _, metric := range []string{executions, created, exits} {
		same(t, metric, total(t, first, metric, in(group)), 2)
	}
	start := points(t, first, executions, in(group))[0].Start
	if again := points(t, read(t, set), executions, in(group))[0].Start; again != start {
		t.Errorf("began at %v, then at %v", start, again)
	}
}

// A set leaves nothing behind.
func TestClose(t *testing.T) {
	kerneltest.NeedRoot(t)
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	mappings := func() int {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(maps), "anon_inode:bpf-map")
	}
	options := loadOnly("", LinuxCgroup)
	options.Enabled, options.SeriesLimit = nil, 10
	once := func() {
		kernel, err := RunningKernel()
		if err != nil {
			t.Fatal(err)
		}
		plan, err := NewPlan(All(), options, kernel)
		if err != nil {
			t.Fatal(err)
		}
		set, err := Load(plan)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(set.Open(), set.Close()); err != nil {
			t.Fatal(err)
		}
	}
	once() // what libraries open once and keep
	before := descriptors()
	once()
	if after := descriptors(); after != before {
		t.Errorf("%d descriptors, then %d", before, after)
	}
	left := 1
	for range 100 { // what the library maps goes with the garbage
		runtime.GC()
		if left = mappings(); left == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if left != 0 {
		t.Errorf("%d maps are left in memory", left)
	}
}
