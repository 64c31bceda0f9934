package main

import (
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lockEvent is a wait for a lock of the kernel. What makes it takes a hundred times as long.
func lockEvent() event {
	return event{
		"wait for a mutex", "locks", []string{"contention_begin", "contention_end"}, "contention", 1, 100, false, scriptLocks, nil,
	}
}

const scriptLocks = `tracepoint:lock:contention_begin /!@start[tid, args->lock_addr]/ {
	@start[tid, args->lock_addr] = nsecs;
	@type[tid, args->lock_addr] = args->flags;
}
tracepoint:lock:contention_end /@start[tid, args->lock_addr]/ {
	@wait[@type[tid, args->lock_addr]] = hist(nsecs - @start[tid, args->lock_addr]);
	delete(@start[tid, args->lock_addr]);
	delete(@type[tid, args->lock_addr]);
}
`

// The ioctls of userfaultfd(2), with their structures as words.
const (
	uffdAPI      = 0xc018aa3f // api, features, ioctls
	uffdRegister = 0xc020aa00 // start, length, mode, ioctls
	uffdZeroPage = 0xc020aa04 // start, length, mode, result
)

// contention is a part: a thread that holds a mutex while it waits for a page, and another that waits for the mutex, once for
// each page. All are on one CPU.
func contention(arguments []string) error {
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	debug.SetGCPercent(-1) // as in pingPong
	runtime.GOMAXPROCS(5)
	var reader, seeker, done [2]int
	if err := errors.Join(unix.Pipe2(reader[:], 0), unix.Pipe2(seeker[:], 0), unix.Pipe2(done[:], 0), pin(cpu)); err != nil {
		return err
	}
	path, err := os.Executable()
	if err != nil {
		return err
	}
	file, err := unix.Open(path, unix.O_RDONLY, 0) // each read and seek takes the mutex of its position
	if err != nil {
		return err
	}
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	start, length := uint64(uintptr(unsafe.Pointer(&page[0]))), uint64(len(page))
	faults, _, errno := unix.RawSyscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return errno
	}
	ioctl := func(request uintptr, words ...uint64) error {
		_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, faults, request, uintptr(unsafe.Pointer(&words[0])))
		return ignore(errno, unix.Errno(0))
	}
	if err := errors.Join(ioctl(uffdAPI, 0xaa, 0, 0), ioctl(uffdRegister, start, length, 1 /* missing pages */, 0)); err != nil {
		return err
	}
	work := func(orders int, call func()) {
		_ = pin(cpu)
		for move(unix.SYS_READ, orders) == nil {
			call()
			_ = move(unix.SYS_WRITE, done[1])
		}
	}
	go work(reader[0], func() {
		_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(file), uintptr(start), 1)
	})
	go work(seeker[0], func() {
		_, _, _ = unix.RawSyscall(unix.SYS_LSEEK, uintptr(file), 0, unix.SEEK_SET)
	})
	pause := unix.NsecToTimespec(int64(50 * time.Microsecond)) // meanwhile the other thread gets to wait
	one := func() error {
		var message [32]byte
		if err := move(unix.SYS_WRITE, reader[1]); err != nil {
			return err
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_READ, faults, uintptr(unsafe.Pointer(&message)), unsafe.Sizeof(message)); errno != 0 {
			return errno
		}
		if err := move(unix.SYS_WRITE, seeker[1]); err != nil {
			return err
		}
		_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
		return errors.Join(ioctl(uffdZeroPage, start, length, 0, 0), move(unix.SYS_READ, done[0]), move(unix.SYS_READ, done[0]),
			unix.Madvise(page, unix.MADV_DONTNEED))
	}
	return batches(func(n int) (batch, error) {
		begin := monotonic()
		for range n {
			if err := one(); err != nil {
				return batch{}, err
			}
		}
		return batch{Events: n, Time: monotonic() - begin}, nil
	})
}
