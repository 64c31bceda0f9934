package series

import (
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// A tracing program takes long; Quiesce returns when it has ended, and not before.
func TestQuiesce(t *testing.T) {
	slow := newSlow(t, 10*time.Millisecond)
	runs, underWay := uint64(0), 0
	// On a busy machine the program may have ended each time that this test gets to run.
	for runs < 20 || underWay == 0 && runs < 200 && runtime.NumCPU() > 1 {
		runs++
		wait := slow.begin()
		for slow.get("slow_begun") < runs {
			runtime.Gosched()
		}
		if slow.get("slow_ended") < runs {
			underWay++
		}
		if err := Quiesce(); err != nil {
			t.Fatal(err)
		}
		if slow.get("slow_ended") < runs {
			t.Errorf("run %d is still under way", runs)
		}
		wait()
	}
	t.Logf("%d of %d runs were under way", underWay, runs)
	// On one CPU a run is seen half way only if the kernel preempts it.
	if underWay == 0 && runtime.NumCPU() > 1 {
		t.Error("no run was under way: this shows nothing")
	}
}

// slow is the program of testdata/sample.bpf.c that takes long.
type slow struct {
	t    testing.TB
	coll *ebpf.Collection
}

func newSlow(t testing.TB, duration time.Duration) slow {
	t.Helper()
	kerneltest.NeedRoot(t)
	spec, err := loadSample()
	if err != nil {
		t.Fatal(err)
	}
	delete(spec.Programs, "count")
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(coll.Close)
	attached, err := link.AttachTracing(link.TracingOptions{Program: coll.Programs["slow"]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := attached.Close(); err != nil {
			t.Error(err)
		}
	})
	s := slow{t, coll}
	s.set("slow_ns", uint64(duration.Nanoseconds()))
	return s
}

// begin runs the program once, in a thread of its own that wait joins.
func (s slow) begin() (wait func()) {
	var thread sync.WaitGroup
	thread.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends, and its name with it
		s.set("slow_thread", uint32(unix.Gettid()))
		name := [16]byte{'s', 'l', 'o', 'w'}
		if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0); err != nil {
			s.t.Errorf("prctl: %v", err)
		}
	})
	return thread.Wait
}

func (s slow) set(variable string, value any) {
	if err := s.coll.Variables[variable].Set(value); err != nil {
		s.t.Errorf("set %s: %v", variable, err)
	}
}

func (s slow) get(variable string) (value uint64) {
	if err := s.coll.Variables[variable].Get(&value); err != nil {
		s.t.Errorf("get %s: %v", variable, err)
	}
	return value
}
