package probes

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

const (
	diskIO         = "system.disk.io"
	diskOperations = "system.disk.operations"
	blockDuration  = "linux.block.operation.duration"
)

const blockDirect = unix.O_RDWR | unix.O_DIRECT | unix.O_CLOEXEC

// blockPage is the least that all devices of the tests read and write, in bytes.
const blockPage = 4096

// diskCounts are what /proc/diskstats or the probe says of a disk in one direction.
type diskCounts struct{ operations, bytes uint64 }

// diskStat is the kernel's own: counts and times by direction, and what is under way.
type diskStat struct {
	counts    [len(directions)]diskCounts
	times     [len(directions)]uint64 // ms, rounded down
	durations [len(directions)]uint64 // how many, by the probe
	inFlight  uint64
}

// readDiskStat reads /sys/block/*/stat of a disk (Documentation/block/stat.rst), or of a partition under its disk.
func readDiskStat(t testing.TB, disk string) (stat diskStat) {
	t.Helper()
	text, err := os.ReadFile("/sys/block/" + disk + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	var n [17]uint64
	for i, word := range strings.Fields(string(text)) {
		if i < len(n) {
			if n[i], err = strconv.ParseUint(word, 10, 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, first := range []int{0, 4, 11} {
		stat.counts[i] = diskCounts{n[first], n[first+2] * 512}
		stat.times[i] = n[first+3]
	}
	stat.counts[3].operations, stat.times[3] = n[15], n[16]
	stat.inFlight = n[8]
	return stat
}

// probeDiskStat is what the probe says of a disk, times in ns.
func probeDiskStat(t testing.TB, s *Snapshot, disk string) (stat diskStat) {
	t.Helper()
	for i, direction := range directions {
		here := func(p Point) bool {
			return attribute(p, "system.device") == disk && attribute(p, "disk.io.direction") == direction
		}
		stat.counts[i] = diskCounts{total(t, s, diskOperations, here), total(t, s, diskIO, here)}
		stat.durations[i], stat.times[i] = durations(t, s, blockDuration, here)
	}
	return stat
}

// blockErrors is how many operations of a disk failed, by error.
func blockErrors(t testing.TB, s *Snapshot, disk string) map[any]uint64 {
	t.Helper()
	failed := make(map[any]uint64)
	for _, p := range points(t, s, blockDuration, nil) {
		if attribute(p, "system.device") == disk && attribute(p, "error.type") != nil {
			failed[attribute(p, "error.type")] += p.Histogram.Count()
		}
	}
	return failed
}

// diskTest compares a disk that nobody else uses with what the kernel says of it.
type diskTest struct {
	disk         string // as in /sys/block
	set          *Set
	kernels      diskStat
	ours         diskStat
	hidden       *hiddenBlocks
	inTime, late int // comparisons of times
}

func newDiskTest(t testing.TB, set *Set, disk string) *diskTest {
	t.Helper()
	d := &diskTest{disk: disk, set: set, hidden: newHiddenBlocks(t)}
	d.settle(t)
	d.kernels, d.ours = readDiskStat(t, disk), probeDiskStat(t, read(t, set), disk)
	return d
}

// settle waits until the kernel has counted what it completed: whoever waits for that goes on before.
func (d *diskTest) settle(t testing.TB) {
	t.Helper()
	before := readDiskStat(t, d.disk)
	for deadline := time.Now().Add(20 * time.Second); ; {
		time.Sleep(20 * time.Millisecond)
		now := readDiskStat(t, d.disk)
		if now == before && now.inFlight == 0 {
			return
		}
		if before = now; time.Now().After(deadline) {
			t.Fatalf("%s does not come to rest: %+v", d.disk, now)
		}
	}
}

// compare returns what the disk did since the last time by the kernel, which is the same by the probe.
func (d *diskTest) compare(t testing.TB, what string) [len(directions)]diskCounts {
	t.Helper()
	d.settle(t)
	kernels := readDiskStat(t, d.disk)
	ours := probeDiskStat(t, read(t, d.set), d.disk)
	if after := readDiskStat(t, d.disk); after != kernels {
		t.Fatalf("%s is in use: %+v, then %+v", d.disk, kernels, after)
	}
	hidden := d.hidden.read(t, d.disk)
	var did [len(directions)]diskCounts
	for i, direction := range directions {
		what := fmt.Sprintf("%s: %s of %s: ", what, direction, d.disk)
		did[i] = subDiskCounts(kernels.counts[i], d.kernels.counts[i])
		saw := subDiskCounts(ours.counts[i], d.ours.counts[i])
		within(t, what+"operations", saw.operations, did[i].operations-min(hidden[i].operations, did[i].operations), did[i].operations)
		within(t, what+"bytes", saw.bytes, did[i].bytes-min(hidden[i].bytes, did[i].bytes), did[i].bytes)
		same(t, what+"durations", ours.durations[i], ours.counts[i].operations)
		if hidden[i].operations == 0 {
			d.compareTimes(t, what+"time", direction == "flush", kernels.times[i]-d.kernels.times[i], ours.times[i]-d.ours.times[i])
		}
	}
	t.Logf("%s: %s: %+v", what, d.disk, did)
	d.kernels, d.ours = kernels, ours
	return did
}

// compareTimes compares the kernel's time, a difference of two that are rounded down to ms, with ours in ns. The program reads
// the clock right after the kernel did; or, where block_io_done does not tell, before the kernel does. In between there may be
// an interrupt, but not every time.
func (d *diskTest) compareTimes(t testing.TB, what string, early bool, kernels, ours uint64) {
	t.Helper()
	const ms = uint64(time.Millisecond)
	early = early || !d.endsTold()
	if early && ours >= (kernels+1)*ms || !early && ours+ms <= kernels*ms {
		t.Errorf("%s: %d ns, by the kernel %d ms", what, ours, kernels)
	}
	if ours+ms > kernels*ms && ours < (kernels+1)*ms {
		d.inTime++
	} else {
		d.late++
		t.Logf("%s: %d ns, by the kernel %d ms", what, ours, kernels)
	}
}

// endsTold tells whether the kernel says when an operation ends.
func (d *diskTest) endsTold() bool { return d.set.plan.kernel.arguments("block_io_done") > 0 }

func subDiskCounts(a, b diskCounts) diskCounts {
	return diskCounts{a.operations - b.operations, a.bytes - b.bytes}
}

// hiddenBlocks traces what a machine hides from BPF programs: what is completed in an interrupt of process 1. Almost everywhere
// there is nothing, and it is nil.
type hiddenBlocks struct{ instance string }

var hiddenBlockLine = regexp.MustCompile(`-(\d+) .*: (block_rq_complete|block_io_done): (\d+),(\d+) F?([RWDF])\S* .*\) \d+ \+ (\d+) `)

func newHiddenBlocks(t testing.TB) *hiddenBlocks {
	t.Helper()
	if kerneltest.HiddenSwitches(t) == 0 {
		return nil
	}
	h := &hiddenBlocks{fmt.Sprintf("/sys/kernel/tracing/instances/sidecar-test-%x", rand.Uint64())}
	err := os.Mkdir(h.instance, 0o755)
	t.Cleanup(func() {
		if err := os.Remove(h.instance); err != nil {
			t.Error(err)
		}
	})
	for file, text := range map[string]string{
		"buffer_size_kb": "8192", "events/block/block_rq_complete/enable": "1", "events/block/block_io_done/enable": "1",
	} {
		err = errors.Join(err, os.WriteFile(h.instance+"/"+file, []byte(text), 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// read returns the most that was hidden of a disk, or of all, since the beginning.
func (h *hiddenBlocks) read(t testing.TB, disk string) (hidden [len(directions)]diskCounts) {
	t.Helper()
	if h == nil {
		return hidden
	}
	tids, err := threads(1)
	if err != nil {
		t.Fatal(err)
	}
	trace, err := os.ReadFile(h.instance + "/trace")
	if err != nil {
		t.Fatal(err)
	}
	number := ""
	if disk != "" {
		text, err := os.ReadFile("/sys/block/" + disk + "/dev")
		if err != nil {
			t.Fatal(err)
		}
		number = strings.TrimSpace(string(text))
	}
	for _, m := range hiddenBlockLine.FindAllStringSubmatch(string(trace), -1) {
		tid, _ := strconv.Atoi(m[1])
		if !slices.Contains(tids, tid) || number != "" && number != m[3]+":"+m[4] {
			continue
		}
		to := &hidden[strings.Index("RWDF", m[5])]
		if sectors, _ := strconv.ParseUint(m[6], 10, 64); m[2] == "block_rq_complete" {
			to.bytes += sectors * 512
		}
		if (m[2] == "block_rq_complete") == (m[5] == "F") {
			to.operations++
		}
	}
	if hidden != ([len(directions)]diskCounts{}) {
		t.Logf("hidden: %+v", hidden)
	}
	return hidden
}

// newMemoryFile is a file in memory.
func newMemoryFile(t testing.TB, size int64) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("sidecar-test", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "memory")
	t.Cleanup(func() { file.Close() })
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return file
}

// newLoop makes a loop device of a file until the end of the test, and returns its name.
func newLoop(t testing.TB, file *os.File, flags uint32) string {
	t.Helper()
	if inMatrix {
		modprobe(t, "loop")
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: blockPage, Info: unix.LoopInfo64{Flags: flags}}
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("loop%d", n)
		device, err := os.OpenFile("/dev/"+name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); errors.Is(err, unix.EBUSY) {
			continue // someone else's by now
		} else if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			device := openDisk(t, name, os.O_RDWR)
			defer device.Close()
			if _, err := unix.IoctlRetInt(int(device.Fd()), unix.LOOP_CLR_FD); err != nil {
				t.Error(err)
			}
		})
		return name
	}
}

func modprobe(t testing.TB, words ...string) {
	t.Helper()
	if output, err := exec.Command("modprobe", words...).CombinedOutput(); err != nil {
		t.Fatalf("modprobe %q: %v: %s", words, err, output)
	}
}

func openDisk(t testing.TB, name string, flags int) *os.File {
	t.Helper()
	device, err := os.OpenFile("/dev/"+name, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	return device
}

// alignedBuffer is memory fit for direct input and output.
func alignedBuffer(size int) []byte {
	memory := make([]byte, size+blockPage)
	skip := -uintptr(unsafe.Pointer(&memory[0])) % blockPage
	return memory[skip:][:size]
}

// diskLoad is how often what is done to a disk, one after the other.
type diskLoad struct{ reads, writes, discards, flushes int }

func newDiskLoad(t testing.TB) diskLoad {
	t.Helper()
	return diskLoad{
		random(t, "reads", 10, scaled(400, 40)), random(t, "writes", 10, scaled(400, 40)),
		random(t, "discards", 5, 30), random(t, "flushes", 5, 30),
	}
}

// run reads a page, writes two, discards four, and flushes, each at some place of a device of a size in bytes.
func (l diskLoad) run(t testing.TB, device *os.File, size int64) {
	memory := alignedBuffer(2 * blockPage)
	somewhere := func() int64 { return rand.Int64N(size/(4*blockPage)) * 4 * blockPage }
	repeat := func(n int, what string, f func() error) {
		for range n {
			if err := f(); err != nil {
				t.Errorf("%s %s: %v", what, device.Name(), err)
				return
			}
		}
	}
	repeat(l.writes, "write", func() error {
		_, err := device.WriteAt(memory, somewhere())
		return err
	})
	repeat(l.reads, "read", func() error {
		_, err := device.ReadAt(memory[:blockPage], somewhere())
		return err
	})
	repeat(l.discards, "discard", func() error {
		area := [2]uint64{uint64(somewhere()), 4 * blockPage}
		return blockIoctl(device, unix.BLKDISCARD, unsafe.Pointer(&area))
	})
	repeat(l.flushes, "flush", device.Sync)
}

func blockIoctl(device *os.File, request uint, argument unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), uintptr(request), uintptr(argument))
	runtime.KeepAlive(device)
	if errno != 0 {
		return errno
	}
	return nil
}

// want is what the load is to a disk that has something to flush: whoever asks for it writes nothing first.
func (l diskLoad) want() [len(directions)]diskCounts {
	return [...]diskCounts{
		{uint64(l.reads), uint64(l.reads) * blockPage},
		{uint64(l.writes + l.flushes), uint64(l.writes) * 2 * blockPage},
		{uint64(l.discards), uint64(l.discards) * 4 * blockPage},
		{uint64(l.flushes), 0},
	}
}

// TestBlock compares a loop device with the kernel's own counts, and with what was done to it.
func TestBlock(t *testing.T) {
	const size = 16 << 20
	set := open(t, loadOnly("block"))
	file := newMemoryFile(t, size)
	disk := newLoop(t, file, 0)
	device := openDisk(t, disk, blockDirect)
	d := newDiskTest(t, set, disk)

	for range random(t, "rounds", 3, 5) {
		load := newDiskLoad(t)
		load.run(t, device, size)
		if did := d.compare(t, "alone"); did != load.want() {
			t.Errorf("%+v, want %+v", did, load.want())
		}
	}
	if d.inTime == 0 {
		t.Errorf("the time is the kernel's in none of %d cases", d.late)
	}
	t.Logf("the time was the kernel's in %d of %d cases", d.inTime, d.inTime+d.late)

	t.Run("merged", func(t *testing.T) {
		const length = 1 << 20
		if err := os.WriteFile("/sys/block/"+disk+"/queue/nomerges", []byte("0"), 0); err != nil { // Linux 5.10 would not
			t.Fatal(err)
		}
		cached := openDisk(t, disk, os.O_RDWR)
		for range random(t, "writes of 1 MiB", 2, 4) {
			if _, err := cached.WriteAt(make([]byte, length), rand.Int64N(size/length)*length); err != nil {
				t.Fatal(err)
			}
			if err := cached.Sync(); err != nil {
				t.Fatal(err)
			}
			wrote := d.compare(t, "merged")[1]
			if wrote.bytes != length || wrote.operations > length/blockPage/2 {
				t.Errorf("wrote %+v", wrote)
			}
		}
	})

	t.Run("written through", func(t *testing.T) { // a write between flushes is completed twice
		through := openDisk(t, disk, blockDirect|unix.O_DSYNC)
		n := random(t, "writes", 3, 40)
		(diskLoad{writes: n}).run(t, through, size)
		did := d.compare(t, "written through")
		same(t, "bytes", did[1].bytes, uint64(n)*2*blockPage)
		if did[3].operations < uint64(n) {
			t.Errorf("%d flushes", did[3].operations)
		}
	})

	t.Run("failed", func(t *testing.T) {
		if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err != nil {
			t.Fatal(err)
		}
		memory := alignedBuffer(blockPage)
		n := random(t, "failures", 3, 40)
		for range n {
			if _, err := device.WriteAt(memory, 0); !errors.Is(err, unix.EIO) {
				t.Fatalf("write: %v", err)
			}
		}
		same(t, "failures", d.compare(t, "failed")[1].operations, uint64(n))
		equal(t, "errors", blockErrors(t, read(t, set), disk), map[any]uint64{"EIO": uint64(n)})
	})
}

// TestBlockPart reads across the end of what is left of a device: first a part of the request is completed, then the rest fails.
func TestBlockPart(t *testing.T) {
	const size, left = 1 << 20, 512 << 10
	set := open(t, loadOnly("block"))
	file := newMemoryFile(t, size)
	below := newLoop(t, file, 0)
	above := newLoop(t, openDisk(t, below, blockDirect), unix.LO_FLAGS_DIRECT_IO)
	device := openDisk(t, above, blockDirect)
	if err := file.Truncate(left); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(int(openDisk(t, below, os.O_RDWR).Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		t.Fatal(err)
	}
	d, lower := newDiskTest(t, set, above), newDiskTest(t, set, below)
	memory := alignedBuffer(4 * blockPage)
	n := random(t, "reads", 3, 40)
	for range n {
		if _, err := device.ReadAt(memory, left-blockPage); !errors.Is(err, unix.EIO) {
			t.Fatalf("read: %v", err)
		}
	}
	same(t, "bytes", d.compare(t, "in parts")[0].bytes, uint64(n)*4*blockPage)
	same(t, "bytes below", lower.compare(t, "in parts")[0].bytes, uint64(n)*blockPage)
	snapshot := read(t, set)
	equal(t, "errors", blockErrors(t, snapshot, above), map[any]uint64{"EIO": uint64(n)})
	equal(t, "errors below", blockErrors(t, snapshot, below), nil)
}

// TestBlockPartition: what is done to a partition is done to its disk, once.
func TestBlockPartition(t *testing.T) {
	const size = 16 << 20
	set := open(t, loadOnly("block"))
	disk := newLoop(t, newMemoryFile(t, size), unix.LO_FLAGS_PARTSCAN)
	whole := openDisk(t, disk, os.O_RDWR)
	partition := unix.BlkpgPartition{Start: size / 4, Length: size / 2, Pno: 1}
	change := func(op int32) {
		t.Helper()
		arg := unix.BlkpgIoctlArg{Op: op, Datalen: int32(unsafe.Sizeof(partition)), Data: (*byte)(unsafe.Pointer(&partition))}
		if err := blockIoctl(whole, unix.BLKPG, unsafe.Pointer(&arg)); err != nil {
			t.Fatal(err)
		}
	}
	change(unix.BLKPG_ADD_PARTITION)
	d := newDiskTest(t, set, disk)
	before := readDiskStat(t, disk+"/"+disk+"p1")
	load := newDiskLoad(t)
	func() {
		device, err := os.OpenFile("/dev/"+disk+"p1", blockDirect, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		load.run(t, device, size/2)
	}()
	if did := d.compare(t, "partition"); did != load.want() {
		t.Errorf("%+v, want %+v", did, load.want())
	}
	after := readDiskStat(t, disk+"/"+disk+"p1")
	same(t, "reads of the partition, by the kernel", after.counts[0].operations-before.counts[0].operations, uint64(load.reads))
	for _, p := range points(t, read(t, set), diskOperations, nil) {
		if name := attribute(p, "system.device").(string); strings.HasPrefix(name, disk+"p") {
			t.Errorf("there is a device %s", name)
		}
	}
	change(unix.BLKPG_DEL_PARTITION)
}

// TestBlockWithoutStatistics: a disk for which the kernel counts only flushes.
func TestBlockWithoutStatistics(t *testing.T) {
	const size = 1 << 20
	set := open(t, loadOnly("block"))
	disk := newLoop(t, newMemoryFile(t, size), 0)
	switchTo := func(state string) {
		t.Helper()
		if err := os.WriteFile("/sys/block/"+disk+"/queue/iostats", []byte(state), 0); err != nil {
			t.Fatal(err)
		}
	}
	switchTo("0")
	t.Cleanup(func() { switchTo("1") })
	d := newDiskTest(t, set, disk)
	load := newDiskLoad(t)
	load.run(t, openDisk(t, disk, blockDirect), size)
	want := [len(directions)]diskCounts{3: {operations: uint64(load.flushes)}}
	if did := d.compare(t, "without statistics"); did != want {
		t.Errorf("%+v, want %+v", did, want)
	}
}
