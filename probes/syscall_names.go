package probes

import (
	_ "embed" // the table
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:generate go run ../internal/gensyscalls syscalls.txt

// syscallTable is a line for each system call: its name, and its number by architecture.
//
//go:embed syscalls.txt
var syscallTable string

// What the number of a system call is of: enum abi in bpf/syscalls.bpf.c.
const (
	abiNative = iota
	abiCompat
	abiX32
	abis = 4
)

// compat is how the kernel tells the calls of 32-bit programs, on the architectures that run any.
type compat struct {
	architecture string
	status       uint32 // in thread_info
	flags        uint64 // likewise
}

var compats = map[string]compat{
	"amd64": {architecture: "386", status: 1 << 1}, // TS_COMPAT (arch/x86/include/asm/thread_info.h)
	"arm64": {architecture: "arm", flags: 1 << 22}, // _TIF_32BIT (arch/arm64/include/asm/thread_info.h)
}

// x32Calls are the calls that x32 programs have numbers of their own for, from firstX32Call on
// (arch/x86/entry/syscalls/syscall_64.tbl). The others are amd64's.
var x32Calls = strings.Fields(`rt_sigaction rt_sigreturn ioctl readv writev recvfrom sendmsg recvmsg execve ptrace rt_sigpending
	rt_sigtimedwait rt_sigqueueinfo sigaltstack timer_create mq_notify kexec_load waitid set_robust_list get_robust_list vmsplice
	move_pages preadv pwritev rt_tgsigqueueinfo recvmmsg sendmmsg process_vm_readv process_vm_writev setsockopt getsockopt
	io_setup io_submit execveat preadv2 pwritev2`)

const firstX32Call = 512

// syscallNames are the names of this architecture's system calls, by ABI and number.
var syscallNames = sync.OnceValue(func() (names [abis]map[uint32]string) {
	names[abiNative] = parseSyscalls(runtime.GOARCH)
	names[abiCompat] = parseSyscalls(compats[runtime.GOARCH].architecture)
	names[abiX32] = maps.Clone(names[abiNative])
	maps.DeleteFunc(names[abiX32], func(_ uint32, name string) bool { return slices.Contains(x32Calls, name) })
	for i, name := range x32Calls {
		names[abiX32][firstX32Call+uint32(i)] = name
	}
	return names
})

// parseSyscalls reads an architecture's column of the table. There are no names if it has none.
func parseSyscalls(architecture string) map[uint32]string {
	names := make(map[uint32]string)
	column := 0
	for line := range strings.Lines(syscallTable) {
		words := strings.Fields(line)
		if column == 0 {
			if column = slices.Index(words, architecture); column < 0 {
				break
			}
			continue
		}
		if number, err := strconv.ParseUint(words[column], 10, 32); err == nil {
			names[uint32(number)] = words[0]
		}
	}
	return names
}

// syscallNumber is the number of a call, or one that no call has.
func syscallNumber(abi int, name string) uint32 {
	for number, n := range syscallNames()[abi] {
		if n == name {
			return number
		}
	}
	return noSyscall
}

// noSyscall is what all numbers from it on are in the kernel's key: NO_CALL in bpf/syscalls.bpf.c.
const noSyscall = 1024

// syscallName is the name of the call of a number. What OpenTelemetry calls a value that is none of the known is _OTHER.
func syscallName(abi int, number uint32) string {
	if name := syscallNames()[abi][number]; name != "" {
		return name
	}
	if number >= noSyscall {
		return "_OTHER"
	}
	return fmt.Sprintf("syscall_%d", number)
}
