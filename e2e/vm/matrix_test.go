//go:build matrix

// Package vm runs the test binaries of other packages on the kernels of the matrix, each booted in QEMU.
//
//	go test -tags matrix -count=1 -timeout 65m -v ./e2e/vm                          every kernel
//	go test -tags matrix -count=1 -timeout 65m -v -run TestMatrix/5.10 ./e2e/vm     one of them
//	e2e/vm/run.sh newest x.test -- -test.run=TestName                               one binary by hand
//
// Test binaries are built with the tag matrix too: what has !matrix needs a program of the host's, or nothing of the kernel.
//
// SIDECAR_VM_PACKAGES names the packages (./bpf ./series ./workload ./probes), SIDECAR_VM_TIMEOUT the seconds a boot and its tests may take
// (600). Consoles are kept in ~/.cache/sidecar/vm, kernels in ~/.cache/sidecar/kernels. Needs qemu-system-x86, cpio,
// busybox-static and, for kernels that are not in the cache yet, a Debian mirror: see kernels.sh.
//
// -count=1 matters: go test does not see that the packages under test changed, and would answer from its cache.
package vm

import (
	"cmp"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebpf-sidecar/sidecar/internal/guest"
)

// rows are the kernels, one of them with one CPU, where the kernel takes short cuts (membarrier), and one with many: per-CPU
// maps have a value for each possible CPU, used or not.
var rows = []struct {
	name     string
	kernel   string
	options  []string // of run.sh
	possible string
}{
	{name: "5.10", kernel: "5.10", possible: "0-1"},
	{name: "6.1", kernel: "6.1", possible: "0-1"},
	{name: "6.12", kernel: "6.12", possible: "0-1"},
	{name: "newest", kernel: "newest", possible: "0-1"},
	{name: "6.1/1cpu", kernel: "6.1", options: []string{"-s", "1"}, possible: "0"},
	{name: "6.12/128cpu", kernel: "6.12", options: []string{"-s", "2,maxcpus=128", "-q", vmware}, possible: "0-127"},
}

// vmware lets the guest take QEMU for VMware. From 6.9 on, a CPU that could be plugged in counts as possible only under a
// hypervisor the kernel knows (acpi_is_processor_usable, arch/x86/kernel/acpi/boot.c), and this is the one QEMU can pass for
// without KVM: vmware_platform looks at the serial number and asks at an I/O port. The other way, 128 CPUs that are present
// and two started (-smp 128, maxcpus=2), costs four times as much.
const vmware = "-machine vmport=on -cpu qemu64,-hypervisor -smbios type=1,serial=VMware"

// root is the module's, seen from this folder, where go test runs.
const root = "../.."

// atOnce is how many guests run at a time. QEMU emulates one on one CPU.
const atOnce = 2

func TestMatrix(t *testing.T) {
	seconds := cmp.Or(os.Getenv("SIDECAR_VM_TIMEOUT"), "600")
	limit, err := strconv.Atoi(seconds)
	if err != nil {
		t.Fatalf("SIDECAR_VM_TIMEOUT: %v (a number of seconds)", err)
	}
	longest := time.Duration((len(rows)+atOnce-1)/atOnce*limit) * time.Second
	if deadline, ok := t.Deadline(); ok && time.Until(deadline) < longest {
		t.Fatalf("may take %v: give go test a longer -timeout", longest)
	}
	packages := strings.Fields(cmp.Or(os.Getenv("SIDECAR_VM_PACKAGES"), "./bpf ./series ./workload ./probes"))
	binaries, suites := guest.Build(t, root, "matrix", ".", packages...)
	outcomes := make([]guest.Outcome, len(rows))
	t.Cleanup(func() {
		// Of a -run TestMatrix/5.10 only that row.
		var ran []guest.Outcome
		for _, o := range outcomes {
			if o.Name != "" {
				ran = append(ran, o)
			}
		}
		t.Logf("the matrix:\n%s", guest.Table(ran, suites))
	})
	slots := make(chan struct{}, atOnce)
	for i, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()

			log := guest.Log(t, row.name)
			args := append([]string{"-n", row.name, "-t", seconds}, row.options...)
			o := guest.Boot("./run.sh", log, append(append(args, row.kernel), binaries...)...)
			o.Name = row.name
			outcomes[i] = o
			for _, problem := range o.Problems(suites) {
				t.Errorf("%s\n(console: %s)", problem, log)
			}
			if o.Err == nil && o.Console.Possible != row.possible {
				t.Errorf("possible CPUs are %s, want %s", o.Console.Possible, row.possible)
			}
		})
	}
}
