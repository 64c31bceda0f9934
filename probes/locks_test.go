package probes

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

const (
	lockContention = "linux.lock.contention.duration"
	locksHeld      = 1100 * time.Millisecond // nobody else waits as long
)

var (
	_ = addHelper("locks-hold", helpLocksHold)
	_ = addHelper("locks-contend", helpLocksContend)
)

// heldPage is a page whose first access waits until it is let go (userfaultfd(2)), with all locks that are held then.
type heldPage struct {
	fault int
	page  []byte
}

// ioctls of include/uapi/linux/userfaultfd.h, with their structures as words.
const (
	uffdAPI      = 0xc018aa3f // api, features, ioctls
	uffdRegister = 0xc020aa00 // start, length, mode, ioctls
	uffdZeroPage = 0xc020aa04 // start, length, mode, result
)

func (p *heldPage) ioctl(request uintptr, words ...uint64) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.fault), request, uintptr(unsafe.Pointer(&words[0]))); errno != 0 {
		return fmt.Errorf("userfaultfd, ioctl %#x: %w", request, errno)
	}
	return nil
}

func (p *heldPage) words(last uint64, rest ...uint64) []uint64 {
	return append([]uint64{uint64(uintptr(unsafe.Pointer(&p.page[0]))), uint64(len(p.page)), last}, rest...)
}

func newHeldPage() (*heldPage, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("userfaultfd: %w", errno)
	}
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	p := &heldPage{int(fd), page}
	const api, missing = 0xaa, 1
	return p, errors.Join(p.ioctl(uffdAPI, api, 0, 0), p.ioctl(uffdRegister, p.words(missing, 0)...))
}

// await waits until somebody waits for the page.
func (p *heldPage) await() error {
	var message [32]byte
	_, err := unix.Read(p.fault, message[:])
	return err
}

func (p *heldPage) release() error { return p.ioctl(uffdZeroPage, p.words(0, 0)...) }

// helpLocksHold lets n threads wait for a mutex, and then as many for each way to take a rwsem. Each waits once, at least as
// long as locksHeld. Those who wait to read wait behind one who waits to write.
func helpLocksHold(arguments []string) {
	n := number(arguments, 0)
	folder, err := os.MkdirTemp("", "sidecar-test-locks-")
	if err != nil {
		giveUp(err)
	}
	fd, err := unix.Open(folder, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		giveUp(err)
	}
	path := folder + "/file"
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		giveUp(err)
	}
	file, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		giveUp(err)
	}
	// A read of a file holds the mutex of its position (fs/file.c, fdget_pos).
	hold(func(page []byte) error {
		_, err := unix.Read(file, page[:1])
		return err
	}, slices.Repeat([]func() error{func() error {
		_, err := unix.Seek(file, 0, unix.SEEK_CUR)
		return err
	}}, n))
	// A read of a folder holds its inode's rwsem (fs/readdir.c, iterate_dir). Each has its own position.
	var waiters []func() error
	for i := range n {
		waiters = append(waiters, func() error { return unix.Mkdir(fmt.Sprint(folder, "/", i), 0o755) })
	}
	for range n {
		waiters = append(waiters, func() error {
			own, err := unix.Open(folder, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			if err != nil {
				return err
			}
			_, err = unix.Getdents(own, make([]byte, 4096))
			return err
		})
	}
	hold(func(page []byte) error {
		_, err := unix.Getdents(fd, page)
		return err
	}, waiters)
	if err := os.RemoveAll(folder); err != nil {
		giveUp(err)
	}
}

// hold has waiters wait for what a call holds while it waits for a page.
func hold(call func(page []byte) error, waiters []func() error) {
	page, err := newHeldPage()
	if err != nil {
		giveUp(err)
	}
	done := make(chan error)
	go func() { done <- call(page.page) }()
	if err := page.await(); err != nil {
		giveUp(err)
	}
	for _, wait := range waiters {
		tid := make(chan int)
		go func() {
			runtime.LockOSThread()
			tid <- unix.Gettid()
			done <- wait()
		}()
		stat := fmt.Sprintf("/proc/self/task/%d/stat", <-tid)
		for begin := time.Now(); ; time.Sleep(time.Millisecond) {
			content, err := os.ReadFile(stat)
			if err != nil {
				giveUp(err)
			}
			if strings.Contains(string(content), ") D ") {
				break
			}
			if time.Since(begin) > time.Minute {
				giveUp(errors.New("it does not wait"))
			}
		}
	}
	time.Sleep(locksHeld)
	if err := page.release(); err != nil {
		giveUp(err)
	}
	for range len(waiters) + 1 {
		if err := <-done; err != nil {
			giveUp(err)
		}
	}
}

// longWaits are how many waits there were, by type, of those that took as long as a lock is held by locks-hold.
func longWaits(t testing.TB, s *Snapshot) map[any]uint64 {
	t.Helper()
	counts := make(map[any]uint64)
	for _, p := range points(t, s, lockContention, nil) {
		h := p.Histogram
		for i, count := range h.Counts {
			if bucket := int(h.Offset) + i; bucket >= 0 && count > 0 { // 0 begins with one second
				counts[attribute(p, "linux.lock.type")] += count
			}
		}
	}
	return counts
}

func TestLocks(t *testing.T) {
	kerneltest.NeedLinux(t, 6, 1, "tracepoints of contention, and programs that do not run on top of themselves")
	set := open(t, loadOnly("locks"))
	before := time.Now()
	n := random(t, "waiters", 1, 20)
	mustRun(t, helper(t, nil, "locks-hold", n))
	snapshot := lockSnapshot(t, set)
	equal(t, "waits of a second", longWaits(t, snapshot),
		map[any]uint64{"mutex": uint64(n), "rwsem:R": uint64(n), "rwsem:W": uint64(n)})
	for _, p := range points(t, snapshot, lockContention, nil) {
		if long := longWaits(t, snapshot)[attribute(p, "linux.lock.type")]; long > 0 {
			within(t, fmt.Sprint("ns, ", attribute(p, "linux.lock.type")), uint64(p.Histogram.Sum*1e9),
				long*uint64(locksHeld), (long+1)*uint64(time.Since(before)))
		}
	}
}

// lockSnapshot takes a snapshot. Events are missed where an interrupt waits for a lock while a program runs that it interrupts.
func lockSnapshot(t testing.TB, set *Set) *Snapshot {
	t.Helper()
	snapshot, err := set.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range snapshot.Probes {
		for _, missed := range status.Missed {
			if missed.Count != 0 {
				t.Logf("%+v", missed)
			}
			if missed.Count != 0 && missed.Reason != MissedRecursion {
				t.Errorf("missed %+v", missed)
			}
		}
	}
	return snapshot
}

// helpLocksContend has threads contend for the mutex of a pipe, the rwsem of a file, and the spinlock of a futex.
func helpLocksContend([]string) {
	runtime.GOMAXPROCS(2 * runtime.NumCPU())
	var pipe [2]int
	if err := unix.Pipe(pipe[:]); err != nil {
		giveUp(err)
	}
	memory, err := unix.MemfdCreate("locks", 0)
	if err != nil {
		giveUp(err)
	}
	var word uint32
	buffer := make([]byte, 64<<10)
	for range 3 * runtime.NumCPU() {
		go func() {
			for {
				_, _ = unix.Write(pipe[1], buffer)
			}
		}()
		go func() {
			for into := make([]byte, len(buffer)); ; {
				_, _ = unix.Read(pipe[0], into)
			}
		}()
		go func() {
			for {
				_, _ = unix.Pwrite(memory, buffer, 0)
				for range 100 {
					_, _, _ = unix.Syscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&word)), 1 /* FUTEX_WAKE */, 1)
				}
			}
		}()
	}
	fmt.Println("ready")
	select {}
}

// TestLocksAgainstEnds takes the count of a program that does nothing but count the ends of waits before and after ours.
func TestLocksAgainstEnds(t *testing.T) {
	kerneltest.NeedLinux(t, 6, 1, "tracepoints of contention, and programs that do not run on top of themselves")
	ends, skipped := countLockEnds(t)
	set := load(t, loadOnly("locks"))
	closed := ends()
	if err := set.Open(); err != nil {
		t.Fatal(err)
	}
	opened := ends()
	p := start(t, helper(t, nil, "locks-contend"))
	time.Sleep(time.Duration(random(t, "ms", 500, 1500)) * time.Millisecond)
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	before := ends()
	snapshot := lockSnapshot(t, set)
	after := ends()
	var ours, missed uint64
	for _, point := range points(t, snapshot, lockContention, nil) {
		t.Logf("%v: %d", attribute(point, "linux.lock.type"), point.Histogram.Count())
		ours += point.Histogram.Count()
	}
	for _, status := range snapshot.Probes {
		for _, m := range status.Missed {
			missed += m.Count
		}
	}
	low, high := before-opened, after-closed
	t.Logf("%d waits, the bracket is %d to %d; we missed %d, the other %d", ours, low, high, missed, skipped())
	within(t, "waits", ours, low-min(low, missed), high+skipped())
}

// countLockEnds counts the waits for locks that end, and the events that it was skipped for.
func countLockEnds(t testing.TB) (ends, skipped func() uint64) {
	t.Helper()
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "contention_end", License: "GPL",
		Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, counts.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "exit"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("exit"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(attached.Close(), program.Close(), counts.Close()); err != nil {
			t.Error(err)
		}
	})
	return func() (n uint64) {
			if err := counts.Lookup(uint32(0), &n); err != nil {
				t.Fatal(err)
			}
			return n
		}, func() uint64 {
			stats, err := program.Stats()
			if err != nil {
				t.Fatal(err)
			}
			return stats.RecursionMisses
		}
}
