package probes

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// machineCode is a program of which every system call is known.
type machineCode []byte

// A gate is an instruction for system calls, with those that set the registers for a number and its arguments.
type gate struct {
	registers [][]byte
	enter     []byte
}

var (
	gate64 = gate{
		[][]byte{{0xb8}, {0xbf}, {0xbe}, {0xba}, {0x41, 0xba}}, // eax, edi, esi, edx, r10d
		[]byte{0x0f, 0x05}, // syscall
	}
	gate32 = gate{
		[][]byte{{0xb8}, {0xbb}, {0xb9}, {0xba}}, // eax, ebx, ecx, edx
		[]byte{0xcd, 0x80},                       // int 0x80
	}
)

// call adds a system call.
func (c *machineCode) call(g gate, number uint32, arguments ...uint32) {
	for i, value := range append([]uint32{number}, arguments...) {
		*c = binary.LittleEndian.AppendUint32(append(*c, g.registers[i]...), value)
	}
	*c = append(*c, g.enter...)
}

// repeat adds a body n times, as a loop.
func (c *machineCode) repeat(n int, body func()) {
	*c = binary.LittleEndian.AppendUint32(append(*c, 0xbd), uint32(n)) // mov n, ebp
	begin := len(*c)
	body()
	*c = append(*c, 0xff, 0xcd, 0x0f, 0x85) // dec ebp; jnz begin
	*c = binary.LittleEndian.AppendUint32(*c, uint32(begin-len(*c)-4))
}

const (
	programBase = 0x400000
	programData = programBase + 0x100
	programText = programBase + 0x200
)

// program writes the code, with some data, as an executable of a class.
func (c machineCode) program(t testing.TB, class elf.Class, data []byte) (path string) {
	t.Helper()
	var file bytes.Buffer
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(class), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	size := uint32(programText - programBase + len(c))
	const all = uint32(elf.PF_R | elf.PF_W | elf.PF_X)
	var headers []any
	if class == elf.ELFCLASS64 {
		headers = []any{
			elf.Header64{
				Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
				Entry: programText, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
			},
			elf.Prog64{
				Type: uint32(elf.PT_LOAD), Flags: all, Vaddr: programBase, Filesz: uint64(size), Memsz: uint64(size), Align: 4096,
			},
		}
	} else {
		headers = []any{
			elf.Header32{
				Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_386), Version: 1,
				Entry: programText, Phoff: 52, Ehsize: 52, Phentsize: 32, Phnum: 1,
			},
			elf.Prog32{Type: uint32(elf.PT_LOAD), Flags: all, Vaddr: programBase, Filesz: size, Memsz: size, Align: 4096},
		}
	}
	for _, header := range headers {
		if err := binary.Write(&file, binary.LittleEndian, header); err != nil {
			t.Fatal(err)
		}
	}
	image := make([]byte, size)
	copy(image, file.Bytes())
	copy(image[programData-programBase:], data)
	copy(image[programText-programBase:], c)
	path = filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, image, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// The numbers of 32-bit programs are others, whichever kind of program uses them.
func TestSyscallCompat(t *testing.T) {
	for _, class := range []elf.Class{elf.ELFCLASS32, elf.ELFCLASS64} {
		t.Run(class.String(), func(t *testing.T) {
			set := open(t, loadOnly("syscalls", LinuxCgroup))
			group := kerneltest.NewCgroup(t, "")
			n, failed := random(t, "getsid", 1, 1000), random(t, "openat", 1, 1000)
			var code machineCode
			code.repeat(n, func() { code.call(gate32, 147) })                         // getsid
			code.repeat(failed, func() { code.call(gate32, 295, 0, programData, 0) }) // openat of a path that is not there
			code.call(gate32, 11, programData, 0, 0)                                  // execve
			code.call(gate32, 1, 0)                                                   // exit
			command := helper(t, group, "none")
			command.Path = code.program(t, class, []byte("/not/there\x00"))
			mustRun(t, command)

			snapshot := read(t, set)
			equal(t, "calls", only(syscallCounts(t, snapshot, in(group)), "getsid", "openat", "execve", "exit", "fork", "_sysctl"),
				map[string]uint64{"getsid": uint64(n), "openat ENOENT": uint64(failed), "execve": 1, "execve ENOENT": 1})
			equal(t, "attempts", by(t, snapshot, executionAttempts, "error.type", in(group)), map[any]uint64{nil: 1, "ENOENT": 1})
		})
	}
}

// awaitCall waits until a process sleeps in a call.
func awaitCall(t testing.TB, pid int, call int) {
	t.Helper()
	await(t, pid, func(state, inCall string) bool { return state == "S" && inCall == fmt.Sprint(call) })
}

func await(t testing.TB, pid int, until func(state, call string) bool) {
	t.Helper()
	var state, call string
	for range 2000 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		now, callErr := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		if err := errors.Join(err, callErr); err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		state, call = strings.Fields(rest)[0], strings.Fields(string(now))[0]
		if until(state, call) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("process %d is %s in call %s", pid, state, call)
}

// Calls that a signal interrupts end, and are made again or go on in restart_syscall.
func TestSyscallRestarts(t *testing.T) {
	set := open(t, loadOnly("syscalls", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	var code machineCode
	code.call(gate64, unix.SYS_READ, 0, programData, 1)
	code.call(gate64, unix.SYS_NANOSLEEP, programData+16, 0)
	code.call(gate64, unix.SYS_EXIT, 0)
	duration := unix.NsecToTimespec(int64(random(t, "ms", 1000, 2000)) * 1e6)
	var data bytes.Buffer
	if err := binary.Write(&data, binary.LittleEndian, []int64{0, 0, duration.Sec, duration.Nsec}); err != nil {
		t.Fatal(err)
	}
	command := helper(t, group, "none")
	command.Path = code.program(t, elf.ELFCLASS64, data.Bytes())
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	pid := command.Process.Pid
	interrupt := func(call int) {
		for _, signal := range []unix.Signal{unix.SIGSTOP, unix.SIGCONT} {
			if err := unix.Kill(pid, signal); err != nil {
				t.Fatal(err)
			}
			if signal == unix.SIGSTOP {
				await(t, pid, func(state, _ string) bool { return state == "T" })
			} else {
				awaitCall(t, pid, call)
			}
		}
	}
	awaitCall(t, pid, unix.SYS_READ)
	const blocked = 50 * time.Millisecond // once it is there; it is not in it while it is stopped
	time.Sleep(blocked)
	reads := random(t, "interrupted reads", 1, 20)
	for range reads {
		interrupt(unix.SYS_READ)
	}
	if _, err := input.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	awaitCall(t, pid, unix.SYS_NANOSLEEP)
	high := time.Since(before)
	sleeps := random(t, "interruptions of a sleep", 2, 5)
	for range sleeps {
		interrupt(unix.SYS_RESTART_SYSCALL)
	}
	if err := command.Wait(); err != nil {
		t.Fatal(err)
	}

	snapshot := read(t, set)
	equal(t, "calls", only(syscallCounts(t, snapshot, in(group)), "read", "nanosleep", "restart_syscall", "exit"), map[string]uint64{
		"read": 1, "read ERESTARTSYS": uint64(reads),
		"nanosleep ERESTART_RESTARTBLOCK":       1,
		"restart_syscall ERESTART_RESTARTBLOCK": uint64(sleeps) - 1,
		"restart_syscall":                       1,
	})
	_, ns := durations(t, snapshot, syscallDuration, func(p Point) bool {
		return in(group)(p) && attribute(p, "linux.syscall.name") == "read"
	})
	within(t, "ns in read", ns, uint64(blocked), uint64(high))
}
