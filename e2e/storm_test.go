package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
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
	outer := forks(t)
	sidecar := startSidecar(t, allAttributes+"export: {interval: "+interval+"}\n", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+c.endpoint)
	inner := forks(t)
	c.start(t)

	files := t.TempDir()
	program := filepath.Join(files, "true")
	copyFile(t, "/bin/true", program)
	parent, path := newCgroup(t, fmt.Sprintf("storm-%d", os.Getpid()))

	each(processes/2, func(i int) {
		runOnce(t, program, fmt.Sprintf("name-%06d", i))
	})
	each(cgroups/2, func(i int) { runInCgroup(t, program, filepath.Join(parent, fmt.Sprint("cgroup-", i))) })
	settled := residentSet(t, sidecar.Process.Pid)

	c.stop(t)
	each(processes/2, func(i int) {
		runOnce(t, program, fmt.Sprintf("name-%06d", processes/2+i))
	})
	each(cgroups/2, func(i int) { runInCgroup(t, program, filepath.Join(parent, fmt.Sprint("cgroup-", cgroups/2+i))) })
	c.start(t)

	time.Sleep(5 * time.Second)
	after := residentSet(t, sidecar.Process.Pid)
	t.Logf("resident set: %d KiB half way, %d KiB at the end", settled, after)
	if after > settled+16<<10 {
		t.Errorf("the resident set grew from %d to %d KiB", settled, after)
	}
	innerForks := forks(t) - inner
	if code, _ := sidecar.stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	outerForks := forks(t) - outer

	c.stop(t) // it keeps the last lines for a moment
	counters, _ := c.received(t)
	created := counters.sum("system.process.created") + counters.sum("linux.thread.created")
	if created < innerForks || created > outerForks {
		t.Errorf("%d processes and threads arrived; the kernel counted between %d and %d", created, innerForks, outerForks)
	}
	t.Logf("missed: %d", counters.sum("sidecar.probe.missed"))
	overflow := counters.sum("linux.process.executions", "otel.metric.overflow=true")
	var named, inCgroups int64
	for key, p := range counters {
		for _, label := range labels(p.Attributes) {
			switch {
			case strings.HasPrefix(label, "process.executable.name=name-") && strings.HasPrefix(key, "linux.process.executions{"):
				named += p.GetAsInt()
			case strings.HasPrefix(label, "process.linux.cgroup="+path+"/") && strings.HasPrefix(key, "system.process.created{"):
				inCgroups += p.GetAsInt()
			}
		}
	}
	t.Logf("%d processes and threads; %d of %d names and %d of %d cgroups told apart, %d executions in overflow",
		created, named, processes, inCgroups, cgroups, overflow)
	if named+overflow < int64(processes) {
		t.Errorf("%d executions arrived by name and %d in the overflow series, of %d", named, overflow, processes)
	}
	if inCgroups+counters.sum("system.process.created", "otel.metric.overflow=true") < int64(cgroups) {
		t.Errorf("%d processes arrived by cgroup, of %d", inCgroups, cgroups)
	}
}

// each calls f for every number below n, four at a time.
func each(n int, f func(int)) {
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for i := range numbers {
				f(i)
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
func runOnce(t testing.TB, program, name string) {
	link := filepath.Join(filepath.Dir(program), name)
	if err := os.Link(program, link); err != nil {
		t.Error(err)
		return
	}
	if err := exec.Command(link).Run(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(link); err != nil {
		t.Error(err)
	}
}

// runInCgroup makes a cgroup, runs a program in it and removes it.
func runInCgroup(t testing.TB, program, directory string) {
	if err := os.Mkdir(directory, 0o755); err != nil {
		t.Error(err)
		return
	}
	command := exec.Command(program)
	d := inCgroup(t, command, directory)
	if err := command.Run(); err != nil {
		t.Error(err)
	}
	d.Close()
	// The kernel may still be taking the process out.
	for range 100 {
		if err := os.Remove(directory); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s cannot be removed", directory)
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
