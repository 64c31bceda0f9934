package main

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What others answer the block probe's questions with.
const scriptDisks = `tracepoint:block:block_rq_issue { @issued[args->dev, args->sector] = nsecs; }
tracepoint:block:block_rq_complete /@issued[args->dev, args->sector]/ {
	@duration[args->dev] = hist(nsecs - @issued[args->dev, args->sector]);
	@bytes[args->dev] = sum(args->nr_sector * 512);
	delete(@issued[args->dev, args->sector]);
}
`

var biolatency = [][]string{{"biolatency", "-D", "3600"}}

// blockEvents are those of the block probe.
func blockEvents() []event {
	return []event{{
		"read from a disk", "block", []string{"block_rq_complete", "block_io_done"}, "reads", 1, 100, true, scriptDisks, biolatency,
	}}
}

// reads is a part: it reads a page at a time from a loop device of a file in memory.
func reads(arguments []string) (err error) {
	const size, page = 16 << 20, 4096
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	disk, err := memoryDisk(size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.IoctlSetInt(int(disk.Fd()), unix.LOOP_CLR_FD, 0), disk.Close()) }()
	if err := pin(cpu); err != nil {
		return err
	}
	memory := make([]byte, 2*page)
	memory = memory[-uintptr(unsafe.Pointer(&memory[0]))%page:][:page]
	var at int64
	return batches(func(n int) (batch, error) {
		begin := monotonic()
		for range n {
			if _, err := unix.Pread(int(disk.Fd()), memory, at); err != nil {
				return batch{}, err
			}
			at = (at + page) % size
		}
		return batch{Events: n, Time: monotonic() - begin}, nil
	})
}

// memoryDisk makes a loop device of a file in memory.
func memoryDisk(size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("bench", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, size); err != nil {
		return nil, err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, err
	}
	disk, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlLoopConfigure(int(disk.Fd()), &unix.LoopConfig{Fd: uint32(fd)}); err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	return disk, nil
}
