package kerneltest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// TaskCounts are what the kernel keeps of the tasks of a process.
type TaskCounts struct {
	Voluntary, Involuntary uint64 // switches
	Delay                  uint64 // ns
	Slices                 uint64
	Stopped                bool // all of them
}

// Switches are those of both kinds.
func (c TaskCounts) Switches() uint64 { return c.Voluntary + c.Involuntary }

// CountTasks sums over the threads of a process; the Go runtime's never end.
func CountTasks(pid int) (TaskCounts, error) {
	sum := TaskCounts{Stopped: true}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if len(tasks) == 0 {
		err = fmt.Errorf("no process %d", pid)
	}
	for _, task := range tasks {
		status, statusErr := os.ReadFile(task + "/status")
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			n, _ := strconv.ParseUint(value, 10, 64)
			switch name {
			case "State":
				sum.Stopped = sum.Stopped && strings.HasPrefix(value, "T")
			case "voluntary_ctxt_switches":
				sum.Voluntary += n
			case "nonvoluntary_ctxt_switches":
				sum.Involuntary += n
			}
		}
		schedstat, schedstatErr := os.ReadFile(task + "/schedstat")
		var ran, delay, slices uint64
		_, scanErr := fmt.Sscan(string(schedstat), &ran, &delay, &slices)
		sum.Delay += delay
		sum.Slices += slices
		err = errors.Join(err, statusErr, schedstatErr, scanErr)
	}
	return sum, err
}

// hidesManager tells whether this machine lets no BPF program run in the context of the threads of process 1. Some sandboxes
// hide the process that manages them so. Its switches and forks are then the one thing that the kernel counts and we do not.
var hidesManager = sync.OnceValues(func() (bool, error) {
	if os.Getenv("SIDECAR_VM_KERNEL") != "" {
		return false, nil // process 1 is ours
	}
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return false, err
	}
	defer seen.Close()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sched_switch", License: "GPL",
		Instructions: asm.Instructions{
			asm.FnGetCurrentPidTgid.Call(),
			asm.RSh.Imm(asm.R0, 32),
			asm.JNE.Imm(asm.R0, 1, "exit"),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, seen.FD()),
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
		return false, err
	}
	defer program.Close()
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		return false, err
	}
	defer attached.Close()
	before, err := CountTasks(1)
	if err != nil {
		return false, err
	}
	for range 300 {
		now, err := CountTasks(1)
		if err != nil {
			return false, err
		}
		time.Sleep(10 * time.Millisecond) // what the kernel has counted goes on to the program
		var n uint64
		if err := seen.Lookup(uint32(0), &n); err != nil {
			return false, err
		}
		if n > 0 || now.Switches() > before.Switches() {
			return n == 0, nil
		}
	}
	return true, nil // nothing to see: it may be so, and makes little difference
})

// HiddenSwitches is how many switches the machine hides, since its start; 0 almost everywhere.
func HiddenSwitches(t testing.TB) uint64 {
	t.Helper()
	hides, err := hidesManager()
	if err != nil {
		t.Fatal(err)
	}
	if !hides {
		return 0
	}
	counts, err := CountTasks(1)
	if err != nil {
		t.Fatal(err)
	}
	return counts.Switches()
}

// HiddenInterrupts returns a function that tells how many events of a kind, at most, the machine may have hidden since, which were in
// interrupts of process 1: some each time that it got a CPU, and before it gives it up. 0 almost everywhere.
func HiddenInterrupts(t testing.TB) func() uint64 {
	t.Helper()
	before := HiddenSwitches(t)
	return func() uint64 {
		if before == 0 {
			return 0
		}
		return 10 * (1 + HiddenSwitches(t) - before)
	}
}

// HiddenForks is how many forks the machine may hide in the time of a test; 0 almost everywhere.
func HiddenForks(t testing.TB) uint64 {
	t.Helper()
	if HiddenSwitches(t) == 0 {
		return 0
	}
	t.Log("process 1 is hidden: its switches are left out, and up to 50 processes that it starts")
	return 50
}
