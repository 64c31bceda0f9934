//go:build !matrix

package probes

import (
	"fmt"
	"testing"
	"time"
)

// scriptReclaims counts and times what one process reclaims. libbpf-tools' drsnoop, which does so too, needs kprobes.
const scriptReclaims = `BEGIN { printf("ready\n"); }
tracepoint:vmscan:mm_vmscan_memcg_reclaim_begin /comm == "%[1]s"/ { @begun[tid] = nsecs; }
tracepoint:vmscan:mm_vmscan_memcg_reclaim_end /@begun[tid]/ { @reclaims = count(); @ns = sum(nsecs - @begun[tid]); delete(@begun[tid]); }
`

// TestMemoryAgainstBpftrace compares a process's reclaims with what bpftrace counts and times.
func TestMemoryAgainstBpftrace(t *testing.T) {
	set := open(t, loadOnly("memory", LinuxCgroup))
	device := memoryDevice(t, 64*mebibyte)
	g := newMemoryGroup(t)
	const name = "memory-reader" // at most 15 bytes

	tool := startTool(t, "ready", "bpftrace", "-e", fmt.Sprintf(scriptReclaims, name))
	time.Sleep(time.Second) // it is said before the others are attached
	reader := helper(t, g.Cgroup, "memory-read", g.procs, device, 64, random(t, "rounds", 5, 20))
	reader.Path = newExecutables(t).named(t, name)
	mustRun(t, reader)
	count, ns := durations(t, read(t, set), reclaim, ofReclaim("memcg", g.Cgroup))
	tool.interrupt(t)
	var theirs, theirNs uint64
	for tool.Scan() {
		_, _ = fmt.Sscanf(tool.Text(), "@reclaims: %d", &theirs)
		_, _ = fmt.Sscanf(tool.Text(), "@ns: %d", &theirNs)
	}
	tool.finish(t)
	t.Logf("%d reclaims of %d us, by bpftrace %d of %d us", count, ns/1000, theirs, theirNs/1000)
	same(t, "reclaims", count, theirs)
	if tolerance := 5000*count + theirNs/20; ns+tolerance < theirNs || theirNs+tolerance < ns {
		t.Errorf("they took %d ns, by bpftrace %d", ns, theirNs)
	}
}
