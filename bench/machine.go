package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// writeHeader says where, when and of what the figures are.
func writeHeader(w io.Writer) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil {
		return err
	}
	programs, err := tracingPrograms()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, `# Benchmarks

Written by `+"`sudo make bench`"+`, which measures it all again on your machine. To look at one table only, name it:
`+"`sudo make bench ONLY='An application'`"+` prints it and leaves this page as it is.

What is compared takes turns in rounds. Other load only adds to a time, hence the least of several; each table says of how
many. A target is followed by whether it is met.

| | |
|---|---|
| Machine | %s, %d CPUs, %s |
| Kernel | %s, %s |
| Date | %s |
| Commit | %s |
| Go | %s |
| At the start | load average %s; %d tracing programs of others loaded |
`, cpuModel(), runtime.NumCPU(), bytes(memory.Totalram*uint64(memory.Unit)),
		unix.ByteSliceToString(uts.Release[:]), unix.ByteSliceToString(uts.Machine[:]),
		time.Now().UTC().Format(time.DateOnly), commit(), runtime.Version(), loadAverage(), programs)
	return nil
}

func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func commit() string {
	text, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// tracingPrograms counts the loaded programs that may slow down what is measured.
func tracingPrograms() (int, error) {
	n := 0
	for id := ebpf.ProgramID(0); ; {
		var err error
		if id, err = ebpf.ProgramGetNextID(id); err != nil {
			return n, ignore(err, os.ErrNotExist)
		}
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // it has just gone
		}
		switch program.Type() {
		case ebpf.Tracing, ebpf.RawTracepoint, ebpf.TracePoint, ebpf.Kprobe:
			n++
		}
		_ = program.Close()
	}
}

// machineUse is what the machine has done since its start.
type machineUse struct {
	cpu      time.Duration // that the CPUs were not idle
	switches uint64
}

// readMachineUse reads /proc/stat (proc_stat(5)).
func readMachineUse() (u machineUse, err error) {
	const tick = time.Second / 100 // USER_HZ
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	var user, nice, system, idle, wait, irq, softirq time.Duration
	if _, err := fmt.Sscanf(string(text), "cpu %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &wait, &irq, &softirq); err != nil {
		return u, err
	}
	u.cpu = (user + nice + system + irq + softirq) * tick
	_, rest, _ := strings.Cut(string(text), "\nctxt ")
	_, err = fmt.Sscan(rest, &u.switches)
	return u, err
}
