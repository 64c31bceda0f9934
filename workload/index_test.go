package workload

import (
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/ebpf-sidecar/sidecar/bpf"
	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
	"github.com/ebpf-sidecar/sidecar/series"
)

// tree is an index, and the maps of bpf/workload.bpf.h behind it.
type tree struct {
	*Index
	t    testing.TB
	maps map[string]*ebpf.Map
}

func newTree(t testing.TB, slots int) *tree {
	t.Helper()
	spec, err := bpf.LoadWorkload()
	if err != nil {
		t.Fatal(err)
	}
	spec.Programs = nil // cgroups are put in by hand
	x, _ := load(t, spec, slots)
	return x
}

func load(t testing.TB, spec *ebpf.CollectionSpec, slots int) (*tree, *ebpf.Collection) {
	t.Helper()
	kerneltest.NeedRoot(t)
	layout, err := series.LayoutOf(spec, "cgroups")
	if err != nil {
		t.Fatal(err)
	}
	layout.Slots = slots
	if err := layout.Configure(spec, "cgroups"); err != nil {
		t.Fatal(err)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(coll.Close)
	table, err := series.Open(coll, "cgroups", layout, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return &tree{NewIndex(table), t, coll.Maps}, coll
}

func (x *tree) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

// add does what workload_learn() does with one cgroup.
func (x *tree) add(id, parent uint64, name string) {
	x.t.Helper()
	entry := bpf.WorkloadCgroupEntry{Parent: parent}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&entry.Name[0])), len(entry.Name)-1), name)
	var slot uint32
	x.must(x.maps["cgroups_free"].LookupAndDelete(nil, &slot))
	x.must(x.maps["cgroups_cells"].Put(slot, &entry))
	x.must(x.maps["cgroups_info"].Put(slot, &bpf.WorkloadCgroupsInfo{Created: 1, Key: id}))
	x.must(x.maps["cgroups_keys"].Update(id, slot, ebpf.UpdateNoExist))
	x.must(x.maps["cgroups_info"].Put(slot, &bpf.WorkloadCgroupsInfo{Created: 1, Live: 1, Key: id}))
}

func (x *tree) remove(id, at uint64) {
	x.t.Helper()
	var slot uint32
	var entry bpf.WorkloadCgroupEntry
	x.must(x.maps["cgroups_keys"].Lookup(id, &slot))
	x.must(x.maps["cgroups_cells"].Lookup(slot, &entry))
	entry.Removed = at
	x.must(x.maps["cgroups_cells"].Put(slot, &entry))
}

func (x *tree) learn() {
	x.t.Helper()
	slots, err := x.table.Fresh(nil)
	x.must(err)
	x.Learn(slots)
}

func (x *tree) forget(ids ...uint64) {
	x.t.Helper()
	x.must(x.Unpublish(ids))
	x.must(series.Quiesce())
	x.must(x.Forget(ids))
}

// want checks the path of a cgroup; "": it is not known.
func (x *tree) want(cgroup uint64, path string) {
	x.t.Helper()
	id, ok := x.Lookup(cgroup)
	if ok != (path != "") || id.Cgroup != path {
		x.t.Errorf("cgroup %d is %q, %t; want %q", cgroup, id.Cgroup, ok, path)
	}
}

func TestIndex(t *testing.T) {
	x := newTree(t, 16)
	x.want(1, "")
	// From the leaf to the root, as they are learned.
	x.add(30, 20, "docker-"+outer+".scope")
	x.want(30, "") // not learned yet
	x.add(20, 1, "system.slice")
	x.add(1, 0, "")
	x.learn()
	x.want(1, "/")
	x.want(20, "/system.slice")
	x.want(30, "/system.slice/docker-"+outer+".scope")
	if id, _ := x.Lookup(30); id.ContainerID != outer {
		t.Errorf("container %q, want %q", id.ContainerID, outer)
	}

	longest := strings.Repeat("x", 255) // NAME_MAX
	x.add(40, 20, longest)
	x.learn()
	x.want(40, "/system.slice/"+longest)
	x.want(0, "")
	x.want(41, "")
}

// A snapshot may find a cgroup before the one above it.
func TestIndexUnknownParent(t *testing.T) {
	x := newTree(t, 16)
	x.add(1, 0, "")
	x.add(30, 20, "ssh.service")
	x.learn()
	x.want(30, "")
	x.add(20, 1, "system.slice")
	x.learn()
	x.want(30, "/system.slice/ssh.service")
}

func TestIndexRemoved(t *testing.T) {
	const slots = 5
	x := newTree(t, slots)
	x.add(1, 0, "")
	x.add(20, 1, "a.service")
	x.add(30, 1, "b.service")
	x.add(40, 1, "c.service")
	x.learn()
	x.want(20, "/a.service")
	x.remove(20, 100)
	x.remove(30, 200)

	removed := x.Removed(200)
	if !slices.Equal(removed, []uint64{20}) {
		t.Fatalf("removed before 200: %v, want 20 alone", removed)
	}
	x.want(20, "/a.service") // its last events may still come
	x.forget(removed...)
	x.want(20, "")
	x.want(30, "/b.service")
	if removed := x.Removed(201); !slices.Equal(removed, []uint64{30}) {
		t.Errorf("removed before 201: %v, want 30 alone", removed)
	}
	if x.table.Used() != slots-2 || x.table.Free() != 1 {
		t.Errorf("%d slots used, %d free; want %d, 1", x.table.Used(), x.table.Free(), slots-2)
	}

	// The slot's next owner has nothing of the last one.
	x.add(50, 1, "d")
	x.learn()
	x.want(50, "/d")
	if removed := x.Removed(201); !slices.Equal(removed, []uint64{30}) {
		t.Errorf("removed before 201: %v, want 30 alone", removed)
	}
}
