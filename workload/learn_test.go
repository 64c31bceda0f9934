package workload

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
	"github.com/ebpf-sidecar/sidecar/series"
)

//go:generate ../scripts/bpf2go.sh learn testdata/learn.bpf.c

// learner is an index, and a program that learns cgroups for it.
type learner struct {
	*tree
	coll *ebpf.Collection
}

func newLearner(t testing.TB, slots int) *learner {
	t.Helper()
	spec, err := loadLearn()
	if err != nil {
		t.Fatal(err)
	}
	x := &learner{}
	x.tree, x.coll = load(t, spec, slots)
	attached, err := link.AttachTracing(link.TracingOptions{Program: x.coll.Programs["renamed"]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := attached.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

// execute runs a program in a cgroup.
func (x *learner) execute(group *kerneltest.Cgroup) {
	x.t.Helper()
	x.must(x.coll.Variables["watched"].Set(idOf(x.t, group.Path)))
	command := exec.Command("true")
	group.Enter(command)
	x.must(command.Run())
	x.must(x.coll.Variables["watched"].Set(uint64(0)))
	x.must(series.Quiesce())
	x.learn()
}

// nested makes cgroups in one of the test's own, each in the one before, and returns the innermost.
func nested(t testing.TB, names ...string) *kerneltest.Cgroup {
	t.Helper()
	group := kerneltest.NewCgroup(t, ".slice")
	for _, name := range names {
		group = kerneltest.NamedCgroup(t, group.Name+"/"+name)
	}
	return group
}

func idOf(t testing.TB, cgroup string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(cgroup, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

func TestLearn(t *testing.T) {
	x := newLearner(t, 16)
	longest := strings.Repeat("n", 255) // NAME_MAX
	group := nested(t, "hostile \x1b\xff.service", longest)
	x.execute(group)
	id, ok := x.Lookup(idOf(t, group.Path))
	if want := ".slice/hostile \x1b\xff.service/" + longest; !ok || !strings.HasSuffix(id.Cgroup, want) {
		t.Errorf("cgroup %q, %t; want %q", id.Cgroup, ok, want)
	}
	if parent, ok := x.Lookup(idOf(t, filepath.Dir(group.Path))); !ok || parent.Cgroup != filepath.Dir(id.Cgroup) {
		t.Errorf("parent %q, %t; want %q", parent.Cgroup, ok, filepath.Dir(id.Cgroup))
	}
}

// A cgroup is known as far down as cgroups are learned at once, CGROUP_DEPTH, the test's own and those above it included.
func TestLearnDeep(t *testing.T) {
	x := newLearner(t, 100)
	const deep = 50
	group := nested(t, slices.Repeat([]string{"d"}, deep)...)
	x.execute(group)
	id, ok := x.Lookup(idOf(t, group.Path))
	if want := ".slice" + strings.Repeat("/d", deep); !ok || !strings.HasSuffix(id.Cgroup, want) {
		t.Errorf("cgroup %q, %t; want %q", id.Cgroup, ok, want)
	}
}

// When the table is full half way up to the root, the rest is learned as soon as there is room.
func TestLearnLater(t *testing.T) {
	x := newLearner(t, 16)
	group := nested(t, "later.slice", "later.service")
	var taken []uint32
	for slot := uint32(0); x.table.Free()-len(taken) > 2; taken = append(taken, slot) {
		x.must(x.maps["cgroups_free"].LookupAndDelete(nil, &slot))
	}
	for range 2 {
		x.execute(group)
		if _, ok := x.Lookup(idOf(t, group.Path)); ok || x.table.Used() != 2 {
			t.Fatalf("known: %t, %d slots used; want two, and not all the way up", ok, x.table.Used())
		}
	}

	for _, slot := range taken {
		x.must(x.maps["cgroups_free"].Put(nil, slot))
	}
	x.must(x.table.Reopen())
	x.execute(group)
	id, ok := x.Lookup(idOf(t, group.Path))
	if want := ".slice/later.slice/later.service"; !ok || !strings.HasSuffix(id.Cgroup, want) {
		t.Errorf("cgroup %q, %t; want %q", id.Cgroup, ok, want)
	}
}
