package kerneltest

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// LimitMemory limits the cgroup's memory to so many bytes, on whichever hierarchy has the controller, and returns the
// directory of the limit. Where that is a hierarchy of the first version, processes must join its procs as well, a file;
// else procs is "none".
func (c *Cgroup) LimitMemory(t testing.TB, bytes int) (directory, procs string) {
	t.Helper()
	write := func(path, value string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	hierarchy := Hierarchy(t)
	controllers, err := os.ReadFile(hierarchy + "/cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	limit := strconv.Itoa(bytes)
	if strings.Contains(string(controllers), "memory") {
		write(hierarchy+"/cgroup.subtree_control", "+memory")
		write(c.Path+"/memory.max", limit)
		return c.Path, "none"
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		mount, fileSystem, _ := strings.Cut(line, " - ")
		words := strings.Fields(fileSystem)
		if words[0] != "cgroup" || !strings.Contains(","+words[2]+",", ",memory,") {
			continue
		}
		directory = strings.Fields(mount)[4] + c.Name // proc_pid_mountinfo(5)
		if err := os.Mkdir(directory, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for range 500 {
				if err = os.Remove(directory); err == nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Error(err)
		})
		write(directory+"/memory.limit_in_bytes", limit)
		return directory, directory + "/cgroup.procs"
	}
	t.Fatal("no cgroup hierarchy has the memory controller")
	return "", ""
}
