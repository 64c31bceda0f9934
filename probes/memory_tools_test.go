//go:build !matrix

package probes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tool := exec.CommandContext(ctx, "bpftrace", "-e", fmt.Sprintf(scriptReclaims, name))
	tool.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := tool.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tool.Start(); err != nil {
		t.Fatalf("%v (apt-get install bpftrace)", err)
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() && lines.Text() != "ready" {
	}
	time.Sleep(time.Second) // it is said before the others are attached
	reader := helper(t, g.Cgroup, "memory-read", g.procs, device, 64, random(t, "rounds", 5, 20))
	reader.Path = newExecutables(t).named(t, name)
	mustRun(t, reader)
	count, ns := durations(t, read(t, set), reclaim, ofReclaim("memcg", g.Cgroup))
	if err := tool.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	var theirs, theirNs uint64
	for lines.Scan() {
		_, _ = fmt.Sscanf(lines.Text(), "@reclaims: %d", &theirs)
		_, _ = fmt.Sscanf(lines.Text(), "@ns: %d", &theirNs)
	}
	if err := errors.Join(lines.Err(), tool.Wait()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d reclaims of %d us, by bpftrace %d of %d us", count, ns/1000, theirs, theirNs/1000)
	same(t, "reclaims", count, theirs)
	if tolerance := 5000*count + theirNs/20; ns+tolerance < theirNs || theirNs+tolerance < ns {
		t.Errorf("they took %d ns, by bpftrace %d", ns, theirNs)
	}
}
