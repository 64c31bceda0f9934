package series

import (
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// memory is room in the address space for an array of the kernel's, whose parts are shared with it one by one.
type memory struct {
	array *ebpf.Map
	words []uint64
}

// reserve takes the room, of a size in bytes. None of it can be used before it is shared.
func reserve(array *ebpf.Map, size int) (*memory, error) {
	b, err := unix.Mmap(-1, 0, pages(size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	return &memory{array, unsafe.Slice((*uint64)(unsafe.Pointer(&b[0])), len(b)/8)}, nil
}

// share maps the array's bytes from first up to end, and those around them that are in the same pages.
func (m *memory) share(first, end int) error {
	page := os.Getpagesize()
	first, end = first/page*page, pages(end)
	_, err := unix.MmapPtr(m.array.FD(), int64(first), unsafe.Pointer(&m.words[first/8]), uintptr(end-first),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED)
	return err
}

// release gives all of it back.
func (m *memory) release() error {
	if m == nil {
		return nil
	}
	return unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(&m.words[0])), len(m.words)*8))
}
