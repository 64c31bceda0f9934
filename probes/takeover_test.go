package probes

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ebpf-sidecar/sidecar/handover"
	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// succeed closes a set, as the end of its process would, lets something happen, and opens one that comes after it.
func succeed(t *testing.T, before *Set, options Options, meanwhile func()) *Set {
	t.Helper()
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	meanwhile()
	set := open(t, options)
	if err := set.Keep(); err != nil {
		t.Fatal(err)
	}
	return set
}

// programIDs are the kernel's ids of the programs of a set.
func programIDs(t *testing.T, set *Set) map[string]ebpf.ProgramID {
	t.Helper()
	ids := make(map[string]ebpf.ProgramID)
	for _, probe := range set.probes {
		if probe.state != Attached {
			continue
		}
		for name, program := range probe.coll.Programs {
			info, err := program.Info()
			if err != nil {
				t.Fatal(err)
			}
			ids[name], _ = info.ID()
		}
	}
	return ids
}

// TestTakeOver has one set come after another, at random moments of what they do, and checks that no event is lost or doubled and
// that every series keeps its start: cgroups come, count and go, receivers have a snapshot or not.
func TestTakeOver(t *testing.T) {
	store := handover.NewMemory()
	defer store.Close()
	options := loadOnly("process", LinuxCgroup)
	options.Store = store
	options.SeriesLimit = scaled(100, 24)
	set := open(t, options)
	if err := set.Keep(); err != nil {
		t.Fatal(err)
	}
	mustRun(t, helper(t, nil, "exit", 0)) // the cgroup of the test has its series
	ids := programIDs(t, set)

	to := &receiver{make(map[string]uint64), make(map[string]string)}
	prefix := fmt.Sprintf("/sidecar-test-%x-", rand.Uint64())
	mine := func(cgroup string) bool { return strings.Contains(cgroup, prefix) }
	lasting := kerneltest.NamedCgroup(t, prefix+"lasting")
	var made, want uint64
	work := func() {
		for range rand.IntN(4) {
			group := kerneltest.NamedCgroup(t, fmt.Sprint(prefix, made))
			mustRun(t, helper(t, group, "exit", 0))
			made++
			want++
			remove(t, group)
		}
		for range rand.IntN(4) {
			mustRun(t, helper(t, lasting, "exit", 0))
			want++
		}
	}
	successions := 0
	for range scaled(60, 12) {
		work()
		switch rand.IntN(4) {
		case 0:
			read(t, set) // which is lost on its way
		case 1, 2:
			snapshot := read(t, set)
			to.receive(t, snapshot)
			set.Acknowledge(snapshot)
		case 3:
			set = succeed(t, set, options, work)
			successions++
			if taken := set.Taken(); !slices.Equal(taken, []string{"process"}) {
				t.Fatalf("taken over: %v", taken)
			}
		}
	}
	t.Logf("%d successions, %d cgroups", successions, made)
	snapshot := read(t, set)
	to.receive(t, snapshot)
	set.Acknowledge(snapshot)
	overflow := to.total(created, func(cgroup string) bool { return cgroup == "" })
	got := to.total(created, mine)
	// What is in the overflow series is not all ours: other processes of the machine are, too.
	within(t, "processes", got, want-min(want, overflow), want)
	if overflow == 0 {
		same(t, "processes", got, want)
	}
	if !maps.Equal(ids, programIDs(t, set)) {
		t.Errorf("the programs are others than at the beginning")
	}
}

// TestTakeOverOther checks that a probe that is not what it was begins anew, and that the others go on.
func TestTakeOverOther(t *testing.T) {
	store := handover.NewMemory()
	defer store.Close()
	options := loadOnly("process", LinuxCgroup)
	options.Store = store
	both := func(spec *Spec) bool { return spec.Name == "process" || spec.Name == "scheduler" }
	options.Enabled = both
	set := open(t, options)
	if err := set.Keep(); err != nil {
		t.Fatal(err)
	}
	before := programIDs(t, set)
	options.Metric = func(_, metric string) bool { return metric != "linux.scheduler.run_queue.duration" }
	set = succeed(t, set, options, func() {})
	if taken := set.Taken(); !slices.Equal(taken, []string{"process"}) {
		t.Errorf("taken over: %v, want process alone", taken)
	}
	after := programIDs(t, set)
	var err error
	if before["process_created"] != after["process_created"] || before["scheduler_switched"] == after["scheduler_switched"] {
		t.Errorf("programs before: %v, after: %v", before, after)
	}
	for range 100 { // it goes when the kernel has time
		var old *ebpf.Program
		if old, err = ebpf.NewProgramFromID(before["scheduler_switched"]); err != nil {
			break
		}
		old.Close()
		time.Sleep(20 * time.Millisecond)
	}
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old program: %v, want that it is gone", err)
	}

	options.Enabled = func(spec *Spec) bool { return spec.Name == "scheduler" }
	set = succeed(t, set, options, func() {})
	if taken := set.Taken(); !slices.Equal(taken, []string{"scheduler"}) {
		t.Errorf("taken over: %v, want scheduler alone", taken)
	}
}
