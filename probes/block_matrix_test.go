//go:build matrix

package probes

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newNullBlock makes a disk in memory that completes each request after a time, on a timer's interrupt, and returns its
// name: the one asked for, or before Linux 6.1 a short one.
func newNullBlock(t testing.TB, name string, attributes ...string) string {
	t.Helper()
	modprobe(t, "null_blk", "nr_devices=0")
	mount := t.TempDir()
	if err := unix.Mount("configfs", mount, "configfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	folder := mount + "/nullb/" + name
	t.Cleanup(func() {
		if err := errors.Join(os.Remove(folder), unix.Unmount(mount, 0)); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, attribute := range append(attributes, "power=1") {
		key, value, _ := strings.Cut(attribute, "=")
		if err := os.WriteFile(folder+"/"+key, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat("/sys/block/" + name); err == nil {
		return name
	}
	index, err := os.ReadFile(folder + "/index")
	if err != nil {
		t.Fatal(err)
	}
	return "nullb" + strings.TrimSpace(string(index))
}

// TestBlockNull is TestBlock with a disk that interrupts, whose name does not fit a short key where it can be chosen, and of
// which several ask at the same time.
func TestBlockNull(t *testing.T) {
	const size, latency = 16 << 20, time.Millisecond
	set := open(t, loadOnly("block"))
	disk := newNullBlock(t, fmt.Sprintf("sidecar_test_%08x", rand.Uint32()), "size=16", "blocksize=4096", "memory_backed=1",
		"discard=1", "cache_size=1", "submit_queues=2", "irqmode=2", fmt.Sprintf("completion_nsec=%d", latency))
	t.Log(disk)
	device := openDisk(t, disk, blockDirect)
	d := newDiskTest(t, set, disk)

	var loads [4]diskLoad
	var want [len(directions)]diskCounts
	for i := range loads {
		loads[i] = newDiskLoad(t)
		for direction, counts := range loads[i].want() {
			want[direction].operations += counts.operations
			want[direction].bytes += counts.bytes
		}
	}
	var all sync.WaitGroup
	for _, load := range loads {
		all.Go(func() { load.run(t, device, size) })
	}
	all.Wait()
	did := d.compare(t, "together")
	// Those who wait for the same flush share it.
	if did[3].operations > want[3].operations || did[3].operations == 0 {
		t.Errorf("%d flushes", did[3].operations)
	}
	if want[3] = did[3]; did != want {
		t.Errorf("%+v, want %+v", did, want)
	}
	for i, direction := range directions {
		if least := did[i].operations * uint64(latency); direction != "flush" && d.ours.times[i] < least {
			t.Errorf("%s: %d ns, want at least %d", direction, d.ours.times[i], least)
		}
	}
}
