package probes

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

const (
	softirqTimes = "linux.softirq.duration"
	softirqName  = "linux.softirq.name"
	irqTimes     = "linux.irq.duration"
	irqName      = "linux.irq.name"
)

var _ = addHelper("interrupts-load", helpInterruptsLoad)

// helpInterruptsLoad causes softirqs all the time: by packets to itself, by timers that expire, and what follows from them.
func helpInterruptsLoad([]string) {
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		giveUp(err)
	}
	fmt.Println("ready")
	go func() {
		packet := make([]byte, 100)
		for n := 0; ; n++ {
			_, writeErr := socket.WriteTo(packet, socket.LocalAddr())
			_, readErr := socket.Read(packet)
			if err := errors.Join(writeErr, readErr); err != nil {
				giveUp(err)
			}
			if n%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// TestInterruptsAgainstKernel takes the kernel's own counts of softirqs and of the interrupts on every line before and after
// ours: they are a bracket. It counts one before it calls the handler, and we when the handler is done.
func TestInterruptsAgainstKernel(t *testing.T) {
	set := load(t, loadOnly("interrupts"))
	closed := interruptCounts(t)
	quiesce(t) // what it has counted is done
	if err := set.Open(); err != nil {
		t.Fatal(err)
	}
	opened := interruptCounts(t)
	hidden := kerneltest.HiddenInterrupts(t)
	p := start(t, helper(t, nil, "interrupts-load"))
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	least, got := make(map[string]uint64), make(map[string]uint64)
	for round := range random(t, "rounds", 5, 10) {
		time.Sleep(time.Duration(scaled(300, 500)) * time.Millisecond)
		_, writeErr := file.Write(make([]byte, 1<<16))
		if err := errors.Join(writeErr, file.Sync()); err != nil { // a disk's interrupts, if it is on one
			t.Fatal(err)
		}
		before := interruptCounts(t)
		quiesce(t)
		snapshot := read(t, set)
		after := interruptCounts(t)
		lost := hidden()
		for name, n := range after {
			kind, name, _ := strings.Cut(name, " ")
			metric, attribute := softirqTimes, softirqName
			if kind == "irq" {
				metric, attribute = irqTimes, irqName
			}
			what := kind + " " + name
			got[what], _ = durations(t, snapshot, metric, having(attribute, name))
			least[what] = before[what] - opened[what]
			least[what] -= min(least[what], lost)
			within(t, fmt.Sprintf("round %d, %s", round, what), got[what], least[what], n-closed[what])
		}
		t.Logf("round %d; up to %d of each are hidden", round, lost) // on a virtual machine's console, whose interrupts it causes
	}
	p.finish(t)
	interrupts := uint64(0)
	for what, n := range got {
		if n > 0 {
			t.Logf("%s: %d, the kernel's at least %d", what, n, least[what])
		}
		if strings.HasPrefix(what, "irq ") {
			interrupts += n
		}
	}
	if interrupts == 0 || got["softirq TIMER"] == 0 || got["softirq NET_RX"] == 0 || len(allowedCPUs(t)) > 1 && got["softirq SCHED"] == 0 || got["softirq RCU"] == 0 {
		t.Error("there was not enough to count")
	}
}

// having lets the points of an attribute's value through.
func having(key string, value any) func(Point) bool {
	return func(p Point) bool { return attribute(p, key) == value }
}

// interruptCounts are the kernel's own, by "softirq" and "irq" and their names. Of lines, those of one action.
func interruptCounts(t testing.TB) map[string]uint64 {
	t.Helper()
	counts := make(map[string]uint64)
	table, err := os.ReadFile("/proc/softirqs")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if name, columns, ok := strings.Cut(line, ":"); ok {
			counts["softirq "+strings.TrimSpace(name)] = sumOf(t, strings.Fields(columns))
		}
	}
	lines, err := filepath.Glob("/sys/kernel/irq/*")
	if err != nil || len(lines) == 0 {
		t.Fatal("the kernel tells of no interrupts", err)
	}
	shared := make(map[string]bool)
	for _, line := range lines {
		actions, actionsErr := os.ReadFile(line + "/actions")
		columns, columnsErr := os.ReadFile(line + "/per_cpu_count")
		if err := errors.Join(actionsErr, columnsErr); err != nil {
			t.Fatal(err)
		}
		names := strings.Split(strings.TrimSuffix(string(actions), "\n"), ",")
		for _, name := range names {
			shared[name] = shared[name] || len(names) > 1
		}
		counts["irq "+names[0]] += sumOf(t, strings.Split(strings.TrimSpace(string(columns)), ","))
	}
	shared[""] = true // lines of no action
	maps.DeleteFunc(counts, func(what string, _ uint64) bool {
		name, isLine := strings.CutPrefix(what, "irq ")
		return isLine && shared[name]
	})
	return counts
}

func sumOf(t testing.TB, columns []string) (sum uint64) {
	t.Helper()
	for _, column := range columns {
		n, err := strconv.ParseUint(column, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}
