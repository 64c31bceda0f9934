package main

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capabilities are those of a process, of the first 32 and of the others.
type capabilities [2]unix.CapUserData

func readCapabilities() (c capabilities, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &c[0]); err != nil {
		return c, fmt.Errorf("read the process's capabilities: %w", err)
	}
	return c, nil
}

// raiseCapabilities makes CAP_BPF and CAP_PERFMON effective where the process has them only permitted. The binary in the
// container's image gives them so (setcap cap_bpf,cap_perfmon=p) to a user who is not root: with effect (=ep), the kernel
// would not execute it at all in a container that was not given both (capabilities(7)), and nobody could say what is missing.
func raiseCapabilities() error {
	c, err := readCapabilities()
	if err != nil {
		return err
	}
	raised := c
	for _, capability := range []int{unix.CAP_BPF, unix.CAP_PERFMON} {
		raised[capability/32].Effective |= c[capability/32].Permitted & (1 << (capability % 32))
	}
	if raised == c {
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&raised[0])), 0); errno != 0 {
		return fmt.Errorf("make CAP_BPF and CAP_PERFMON effective: %w (build with CGO_ENABLED=0)", errno)
	}
	return nil
}

// missingCapabilities lists those of CAP_BPF and CAP_PERFMON that the process lacks. CAP_SYS_ADMIN includes both.
func missingCapabilities() ([]string, error) {
	c, err := readCapabilities()
	if err != nil {
		return nil, err
	}
	has := func(capability int) bool {
		return c[capability/32].Effective&(1<<(capability%32)) != 0
	}
	var missing []string
	if has(unix.CAP_SYS_ADMIN) {
		return nil, nil
	}
	if !has(unix.CAP_BPF) {
		missing = append(missing, "CAP_BPF")
	}
	if !has(unix.CAP_PERFMON) {
		missing = append(missing, "CAP_PERFMON")
	}
	return missing, nil
}
