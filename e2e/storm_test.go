package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// long says that the long tests run: make test-long.
var long = os.Getenv("SIDECAR_LONG") != ""

// TestStorm makes many short processes with distinct names and many cgroups that live for one process, the Collector down
// for a part of it. What arrives in the end is held against the kernel's own counter.
func TestStorm(t *testing.T) {
	processes, cgroups, interval := 3_000, 400, "500ms"
	if long {
		processes, cgroups, interval = 200_000, 20_000, "2s"
	}
	c := newCollector(t)
	hidden := int64(kerneltest.HiddenForks(t))
	outer := forks(t)
	sidecar := startSidecar(t, allAttributes+"export: {interval: "+interval+"}\n", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.Endpoint)
	inner := forks(t)
	c.Start(t)

	files := t.TempDir()
	program := filepath.Join(files, "true")
	copyFile(t, "/bin/true", program)
	parent := kerneltest.NewCgroup(t, "")
	half := func(from int) {
		each(t, processes/2, func(i int) error { return runOnce(program, fmt.Sprintf("name-%06d", from*processes/2+i)) })
		each(t, cgroups/2, func(i int) error { return runInCgroup(program, parent, fmt.Sprint("/cgroup-", from*cgroups/2+i)) })
	}

	half(0)
	settled := residentSet(t, sidecar.Process.Pid)

	c.Stop(t)
	written := size(t, c.File)
	half(1)
	c.Start(t)
	harness.Eventually(t, "the sidecar is connected again", func() bool { return size(t, c.File) > written })

	after := residentSet(t, sidecar.Process.Pid)
	t.Logf("resident set: %d KiB half way, %d KiB at the end", settled, after)
	if after > settled+16<<10 {
		t.Errorf("the resident set grew from %d to %d KiB", settled, after)
	}
	innerForks := forks(t) - inner
	if code, _ := sidecar.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	outerForks := forks(t) - outer

	c.Stop(t) // it keeps the last lines for a moment
	counters, _ := c.Received(t)
	created := counters.Sum("system.process.created") + counters.Sum("linux.thread.created")
	if created < innerForks-hidden || created > outerForks {
		t.Errorf("%d processes and threads arrived; the kernel counted between %d and %d", created, innerForks, outerForks)
	}
	t.Logf("missed: %d", counters.Sum("sidecar.probe.missed"))
	const executions, processesCreated = "linux.process.executions", "system.process.created"
	var named, inCgroups, executedInCgroups int64
	for key, p := range counters {
		metric, attributes, _ := strings.Cut(key, "{")
		inCgroup := strings.Contains(attributes, "process.linux.cgroup="+parent.Name+"/")
		switch {
		case metric == executions && inCgroup:
			executedInCgroups += p.GetAsInt()
		case metric == executions && strings.Contains(attributes, "process.executable.name=name-"):
			named += p.GetAsInt()
		case metric == processesCreated && inCgroup:
			inCgroups += p.GetAsInt()
		}
	}
	overflow := counters.Sum(executions, "otel.metric.overflow=true")
	t.Logf("%d processes and threads; %d of %d names and %d of %d cgroups told apart, %d executions in overflow",
		created, named, processes, inCgroups, cgroups, overflow)
	if named+executedInCgroups+overflow < int64(processes+cgroups) {
		t.Errorf("executions that arrived: %d by name, %d by cgroup and %d in the overflow series, of %d",
			named, executedInCgroups, overflow, processes+cgroups)
	}
	if inCgroups+counters.Sum(processesCreated, "otel.metric.overflow=true") < int64(cgroups) {
		t.Errorf("%d processes arrived by cgroup, of %d", inCgroups, cgroups)
	}
}

// each calls f for every number below n, four at a time.
func each(t testing.TB, n int, f func(int) error) {
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for i := range numbers {
				if err := f(i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		numbers <- i
	}
	close(numbers)
	workers.Wait()
}

// runOnce runs a program once under a name that nothing else has.
func runOnce(program, name string) error {
	link := filepath.Join(filepath.Dir(program), name)
	if err := os.Link(program, link); err != nil {
		return err
	}
	return errors.Join(exec.Command(link).Run(), os.Remove(link))
}

// runInCgroup makes a cgroup, runs a program in it and removes it.
func runInCgroup(program string, parent *kerneltest.Cgroup, name string) error {
	group, err := parent.Child(name)
	if err != nil {
		return err
	}
	command := exec.Command(program)
	group.Enter(command)
	return errors.Join(command.Run(), group.Remove())
}

func size(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// forks is how many processes and threads this kernel has created.
func forks(t testing.TB) int64 {
	t.Helper()
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), "\nprocesses ")
	n, err := strconv.ParseInt(strings.SplitN(after, "\n", 2)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
