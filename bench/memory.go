package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// reclaimEvent is a reclaim at the limit of a memory cgroup. What it takes differs too much to tell ours on the clock.
func reclaimEvent() event {
	return event{
		"reclaim", "memory", []string{"mm_vmscan_memcg_reclaim_begin", "mm_vmscan_memcg_reclaim_end"}, "reclaims", 1, 30, false,
		scriptReclaims, nil,
	}
}

const scriptReclaims = `tracepoint:vmscan:mm_vmscan_direct_reclaim_begin, tracepoint:vmscan:mm_vmscan_memcg_reclaim_begin { @begun[tid] = nsecs; }
tracepoint:vmscan:mm_vmscan_direct_reclaim_end /@begun[tid]/ { @direct[cgroup] = hist(nsecs - @begun[tid]); delete(@begun[tid]); }
tracepoint:vmscan:mm_vmscan_memcg_reclaim_end /@begun[tid]/ { @memcg[cgroup] = hist(nsecs - @begun[tid]); delete(@begun[tid]); }
`

// reclaims is a part: it lowers the limit of its memory cgroup below what is in use, again and again, so that each time the
// kernel frees some of a file's memory.
func reclaims(arguments []string) (err error) {
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	if err := pin(cpu); err != nil {
		return err
	}
	group, err := joinMemoryGroup()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, group.leave()) }()
	file, err := os.CreateTemp(".", "reclaims-") // where there is a disk
	if err != nil {
		return err
	}
	defer file.Close()
	const size, step = 64 << 20, 64 << 10
	if err := errors.Join(os.Remove(file.Name()), file.Truncate(size)); err != nil {
		return err
	}
	return batches(func(n int) (b batch, err error) {
		if err := group.limit(unlimited); err != nil {
			return b, err
		}
		if _, err := io.Copy(io.Discard, io.NewSectionReader(file, 0, size)); err != nil {
			return b, err
		}
		for range n {
			used, err := group.used()
			begin := monotonic()
			if err := errors.Join(err, group.limit(used-step)); err != nil {
				return b, err
			}
			b.Time += monotonic() - begin
		}
		b.Events = n
		return b, nil
	})
}

// memoryGroup is a memory cgroup of either version that holds this process.
type memoryGroup struct{ root, path, usage, maximum string }

func joinMemoryGroup() (memoryGroup, error) {
	g := memoryGroup{root: "/sys/fs/cgroup/memory/", usage: "memory.usage_in_bytes", maximum: "memory.limit_in_bytes"}
	if _, err := os.Stat(g.root + g.usage); err != nil {
		g = memoryGroup{root: "/sys/fs/cgroup/", usage: "memory.current", maximum: "memory.max"}
		if err := os.WriteFile(g.root+"cgroup.subtree_control", []byte("+memory"), 0); err != nil {
			return g, err
		}
	}
	g.path = fmt.Sprintf("%ssidecar-bench-%d/", g.root, os.Getpid())
	return g, errors.Join(os.Mkdir(g.path, 0o755), os.WriteFile(g.path+"cgroup.procs", []byte("0"), 0))
}

func (g memoryGroup) leave() error {
	return errors.Join(os.WriteFile(g.root+"cgroup.procs", []byte("0"), 0), os.Remove(g.path))
}

// used is how many bytes are.
func (g memoryGroup) used() (int, error) {
	text, err := os.ReadFile(g.path + g.usage)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

const unlimited = 1 << 40

func (g memoryGroup) limit(bytes int) error {
	return os.WriteFile(g.path+g.maximum, strconv.AppendInt(nil, int64(bytes), 10), 0)
}
