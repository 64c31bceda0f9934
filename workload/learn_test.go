package workload

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
	"github.com/ebpf-sidecar/sidecar/series"
)

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -Wall -Werror -mcpu=v2" learn testdata/learn.bpf.c

// learner is an index, and a program that learns cgroups for it.
type learner struct {
	*tree
	coll *ebpf.Collection
}

func newLearner(t testing.TB) *learner {
	t.Helper()
	spec, err := loadLearn()
	if err != nil {
		t.Fatal(err)
	}
	x := &learner{}
	x.tree, x.coll = load(t, spec, 16)
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
func (x *learner) execute(cgroup string) {
	x.t.Helper()
	x.must(x.coll.Variables["watched"].Set(idOf(x.t, cgroup)))
	dir, err := os.Open(cgroup)
	x.must(err)
	defer dir.Close()
	command := exec.Command("true")
	command.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	x.must(command.Run())
	x.must(x.coll.Variables["watched"].Set(uint64(0)))
	x.must(series.Quiesce())
	x.learn()
}

// makeCgroup makes nested cgroups for the time of a test, in one of the test's own, and returns the innermost.
func makeCgroup(t testing.TB, names ...string) string {
	t.Helper()
	dir := kerneltest.Hierarchy(t)
	for _, name := range append([]string{fmt.Sprintf("sidecar-test-%d.slice", os.Getpid())}, names...) {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		})
		dir = path
	}
	return dir
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
	x := newLearner(t)
	longest := strings.Repeat("n", 255) // NAME_MAX
	cgroup := makeCgroup(t, "hostile \x1b\xff.service", longest)
	x.execute(cgroup)
	id, ok := x.Lookup(idOf(t, cgroup))
	if want := ".slice/hostile \x1b\xff.service/" + longest; !ok || !strings.HasSuffix(id.Cgroup, want) {
		t.Errorf("cgroup %q, %t; want %q", id.Cgroup, ok, want)
	}
	if parent, ok := x.Lookup(idOf(t, filepath.Dir(cgroup))); !ok || parent.Cgroup != filepath.Dir(id.Cgroup) {
		t.Errorf("parent %q, %t; want %q", parent.Cgroup, ok, filepath.Dir(id.Cgroup))
	}
}

// When the table is full half way up to the root, the rest is learned as soon as there is room.
func TestLearnLater(t *testing.T) {
	x := newLearner(t)
	cgroup := makeCgroup(t, "later.slice", "later.service")
	var taken []uint32
	for slot := uint32(0); x.table.Free()-len(taken) > 2; taken = append(taken, slot) {
		x.must(x.maps["cgroups_free"].LookupAndDelete(nil, &slot))
	}
	for range 2 {
		x.execute(cgroup)
		if _, ok := x.Lookup(idOf(t, cgroup)); ok || x.table.Used() != 2 {
			t.Fatalf("known: %t, %d slots used; want two, and not all the way up", ok, x.table.Used())
		}
	}

	for _, slot := range taken {
		x.must(x.maps["cgroups_free"].Put(nil, slot))
	}
	x.must(x.table.Reopen())
	x.execute(cgroup)
	id, ok := x.Lookup(idOf(t, cgroup))
	if want := ".slice/later.slice/later.service"; !ok || !strings.HasSuffix(id.Cgroup, want) {
		t.Errorf("cgroup %q, %t; want %q", id.Cgroup, ok, want)
	}
}
