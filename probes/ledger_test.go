package probes

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// TestSeriesLimit executes many more programs than there is room for series.
func TestSeriesLimit(t *testing.T) {
	limit := scaled(64, 10)
	reference := open(t, loadOnly("process", LinuxCgroup)) // of what others execute meanwhile
	options := loadOnly("process", ExecutableName, LinuxCgroup)
	options.SeriesLimit = limit
	set := open(t, options)
	group := kerneltest.NewCgroup(t, "")
	programs := newExecutables(t)

	want := make(map[any]uint64)
	var commands []*exec.Cmd
	for n := range scaled(1000, 30) {
		name := fmt.Sprintf("program-%d", n)
		for range 1 + rand.IntN(5)/4 { // every fifth twice
			command := helper(t, group, "exit", 0)
			command.Path = programs.named(t, name)
			commands = append(commands, command)
			want[name]++
		}
	}
	t.Logf("%d programs, %d executions", len(want), len(commands))
	half := len(commands) / 2
	runAll(t, commands[:half])
	read(t, set)
	runAll(t, commands[half:])

	snapshot := read(t, set)
	everything := read(t, reference)
	others := total(t, everything, executions, nil) - total(t, everything, executions, in(group))
	within(t, "executions", total(t, snapshot, executions, nil), uint64(len(commands)), uint64(len(commands))+others)
	own := by(t, snapshot, executions, ExecutableName, in(group))
	var counted uint64
	for name, n := range own {
		counted += n
		if n != want[name] {
			t.Errorf("executions of %s: %d, want %d", name, n, want[name])
		}
	}
	if len(own) == 0 {
		t.Error("no program has a series of its own")
	}
	over := points(t, snapshot, executions, isOverflow)
	if len(over) != 1 {
		t.Fatalf("%d overflow series, want 1", len(over))
	}
	if missing := uint64(len(commands)) - counted; over[0].Value < missing {
		t.Errorf("%d executions in the overflow series, want %d at least", over[0].Value, missing)
	}
	status := statusOf(t, snapshot, "executions")
	if want := (TableStatus{"process", "executions", limit, limit, over[0].Value}); status != want {
		t.Errorf("status %+v, want %+v", status, want)
	}
}

func statusOf(t testing.TB, s *Snapshot, table string) TableStatus {
	t.Helper()
	for _, status := range s.Tables {
		if status.Table == table {
			return status
		}
	}
	t.Fatalf("there is no table %s", table)
	return TableStatus{}
}

// A receiver keeps the last value of every series that it was ever told of.
type receiver struct {
	values map[string]uint64
	groups map[string]string // the cgroup of each series
}

// receive takes in a snapshot, and checks that no series falls.
func (r *receiver) receive(t testing.TB, s *Snapshot) {
	t.Helper()
	for _, metric := range s.Metrics {
		for _, p := range metric.Points {
			series := fmt.Sprint(metric.Instrument.Name, p.Attributes.List, p.Start.UnixNano())
			value := p.Value
			if metric.Instrument.Kind == Histogram {
				value = p.Histogram.Count()
			}
			if value < r.values[series] {
				t.Errorf("%s fell from %d to %d", series, r.values[series], value)
			}
			r.values[series] = value
			r.groups[series], _ = attribute(p, LinuxCgroup).(string) // "" in the overflow series
		}
	}
}

// total sums a metric over series of some cgroups.
func (r *receiver) total(metric string, of func(cgroup string) bool) (sum uint64) {
	for series, value := range r.values {
		if strings.HasPrefix(series, metric+"[") && of(r.groups[series]) {
			sum += value
		}
	}
	return sum
}

func TestRetirement(t *testing.T) {
	t.Parallel() // for the most part it waits
	limit := scaled(100, 24)
	reference := open(t, loadOnly("process", LinuxCgroup))
	options := loadOnly("process", LinuxCgroup)
	options.SeriesLimit = limit
	set := open(t, options)
	mustRun(t, helper(t, nil, "exit", 0)) // the cgroup of the test has its series

	to := &receiver{make(map[string]uint64), make(map[string]string)}
	prefix := fmt.Sprintf("/sidecar-test-%x-", rand.Uint64())
	made := 0
	churn := func(n int) {
		for range n {
			group := kerneltest.NamedCgroup(t, fmt.Sprint(prefix, made))
			made++
			mustRun(t, helper(t, group, "exit", 0))
			remove(t, group)
		}
	}
	mine := func(cgroup string) bool { return strings.Contains(cgroup, prefix) }
	series := func(s *Snapshot) int {
		return len(points(t, s, created, func(p Point) bool {
			group, _ := attribute(p, LinuxCgroup).(string)
			return mine(group)
		}))
	}
	snapshot := func() *Snapshot {
		s := read(t, set)
		to.receive(t, s)
		return s
	}
	grace := func() { time.Sleep(removalGrace + 100*time.Millisecond) }

	// Nothing is let go that no receiver has acknowledged.
	churn(limit + random(t, "cgroups too many", 1, limit/5))
	first := series(snapshot())
	if first < limit/2 || first > limit {
		t.Errorf("%d series, the limit is %d", first, limit)
	}
	grace()
	for range 3 {
		if got := series(snapshot()); got != first {
			t.Errorf("%d series, then %d without an acknowledgement", first, got)
		}
	}
	set.Acknowledge(snapshot())
	if got := series(snapshot()); got != 0 {
		t.Errorf("%d series were acknowledged and are still exported", got)
	}
	// With acknowledgements it goes on for ever: in the overflow series while too many come in too short a time.
	for range scaled(8, 2) {
		churn(limit / 2)
		set.Acknowledge(snapshot())
	}
	grace()
	set.Acknowledge(snapshot())
	snapshot()
	for _, l := range set.ledgers() {
		if free := l.table.Free(); free < limit/4 {
			t.Errorf("table %s has %d slots free of %d", l.spec.Name, free, limit)
		}
	}
	for _, id := range set.index.Removed(^uint64(0)) {
		if cgroup, _ := set.index.Lookup(id); mine(cgroup.Cgroup) {
			t.Errorf("%s is still known", cgroup.Cgroup)
		}
	}
	// There is room again: none of these is in the overflow series.
	last := limit / 8
	churn(last)
	if got := series(snapshot()); got != last {
		t.Errorf("%d of %d new cgroups have a series", got, last)
	}
	t.Logf("%d cgroups, %d series, %d events in the overflow series", made, len(to.values),
		to.total(created, func(cgroup string) bool { return cgroup == "" }))

	// What others did meanwhile is in series of their own, or in the overflow series too.
	everything := &receiver{make(map[string]uint64), make(map[string]string)}
	everything.receive(t, read(t, reference))
	for _, metric := range []string{created, executions, lifetime} {
		theirs := func(cgroup string) bool { return cgroup != "" && !mine(cgroup) }
		others := everything.total(metric, theirs) - to.total(metric, theirs)
		got := to.total(metric, func(cgroup string) bool { return !theirs(cgroup) })
		within(t, metric, got, uint64(made), uint64(made)+others)
	}
}

// TestWorkloadComesBack removes the cgroup of a workload and makes it again: it stays one series.
func TestWorkloadComesBack(t *testing.T) {
	t.Parallel() // for the most part it waits
	set := open(t, loadOnly("process", SystemdUnit, ContainerID, PodUID))
	id := fmt.Sprintf("%016x%016x%016x%016x", rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64())
	uid := fmt.Sprintf("%s-%s-%s-%s-%s", id[:8], id[8:12], id[12:16], id[16:20], id[20:32])
	unit := fmt.Sprintf("sidecar-test-%s.service", id[:16])
	tests := []struct {
		cgroup     string
		attributes []Attribute
		before     int
		first      Point
	}{
		{cgroup: "/" + unit, attributes: []Attribute{{SystemdUnit, unit}}},
		{cgroup: "/docker-" + id + ".scope", attributes: []Attribute{{ContainerID, id}}},
		{cgroup: "/pod" + uid, attributes: []Attribute{{PodUID, uid}}},
	}
	only := func(s *Snapshot, attributes []Attribute) []Point {
		return points(t, s, executions, func(p Point) bool { return slices.Equal(p.Attributes.List, attributes) })
	}

	var groups []*kerneltest.Cgroup
	for i := range tests {
		test := &tests[i]
		group := kerneltest.NamedCgroup(t, test.cgroup)
		test.before = random(t, test.cgroup, 1, 9)
		for range test.before {
			mustRun(t, helper(t, group, "exit", 0))
		}
		groups = append(groups, group)
	}
	s := read(t, set)
	for i := range tests {
		test := &tests[i]
		found := only(s, test.attributes)
		if len(found) != 1 || found[0].Value != uint64(test.before) {
			t.Fatalf("%v: %+v, want one point of %d", test.attributes, found, test.before)
		}
		test.first = found[0]
		remove(t, groups[i])
	}
	time.Sleep(removalGrace + 100*time.Millisecond)
	s = read(t, set)
	for _, test := range tests {
		if found := only(s, test.attributes); len(found) != 1 || found[0].Value != test.first.Value {
			t.Errorf("%v, removed: %+v, want %+v", test.attributes, found, test.first)
		}
	}
	set.Acknowledge(s)
	s = read(t, set)
	for _, test := range tests {
		if found := only(s, test.attributes); len(found) != 0 {
			t.Errorf("%v, acknowledged: %+v, want nothing", test.attributes, found)
		}
		group := kerneltest.NamedCgroup(t, test.cgroup)
		after := random(t, test.cgroup, 1, 9)
		for range after {
			mustRun(t, helper(t, group, "exit", 0))
		}
		found := only(read(t, set), test.attributes)
		if len(found) != 1 || found[0].Value != uint64(test.before+after) {
			t.Fatalf("%v, back: %+v, want one point of %d", test.attributes, found, test.before+after)
		}
		if got := found[0]; got.Attributes != test.first.Attributes || !got.Start.Equal(test.first.Start) {
			t.Errorf("%v, back: another series, begun %v, not %v", test.attributes, got.Start, test.first.Start)
		}
	}
}

// TestOneWorkloadOfManyCgroups removes one of two cgroups of a unit.
func TestOneWorkloadOfManyCgroups(t *testing.T) {
	t.Parallel() // for the most part it waits
	set := open(t, loadOnly("process", SystemdUnit))
	unit := kerneltest.NewCgroup(t, ".service")
	want := 0
	execute := func(group *kerneltest.Cgroup) {
		n := random(t, group.Name, 1, 9)
		for range n {
			mustRun(t, helper(t, group, "exit", 0))
		}
		want += n
	}
	var first Point
	check := func(when string) {
		found := points(t, read(t, set), executions, func(p Point) bool {
			return attribute(p, SystemdUnit) == unit.Name[1:]
		})
		if len(found) != 1 || found[0].Value != uint64(want) {
			t.Fatalf("%s: %+v, want one point of %d", when, found, want)
		}
		if first.Attributes == nil {
			first = found[0]
		}
		if got := found[0]; got.Attributes != first.Attributes || !got.Start.Equal(first.Start) {
			t.Errorf("%s: another series, begun %v, not %v", when, got.Start, first.Start)
		}
	}
	one, other := kerneltest.NamedCgroup(t, unit.Name+"/one"), kerneltest.NamedCgroup(t, unit.Name+"/other")
	execute(one)
	check("with one cgroup")
	execute(other)
	execute(unit)
	check("with three")
	remove(t, one)
	time.Sleep(removalGrace + 100*time.Millisecond)
	check("with one removed")
	execute(other)
	check("in the end")
}
