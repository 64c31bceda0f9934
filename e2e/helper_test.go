package e2e

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// helpMemfd executes a copy of a program that has no file.
func helpMemfd([]string) {
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		kerneltest.GiveUp(err)
	}
	fd, err := unix.MemfdCreate("known", unix.MFD_CLOEXEC)
	if err != nil {
		kerneltest.GiveUp(err)
	}
	if _, err := unix.Write(fd, program); err != nil {
		kerneltest.GiveUp(err)
	}
	kerneltest.GiveUp(syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), []string{"memfd"}, nil))
}
