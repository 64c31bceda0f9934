package bpf_test

import (
	"embed"
	"io/fs"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

//go:embed *.c *.h
var sources embed.FS

var collections = map[string]func() (*ebpf.CollectionSpec, error){
	"process.bpf.c":   bpf.LoadProcess,
	"scheduler.bpf.c": bpf.LoadScheduler,
	"workload.bpf.c":  bpf.LoadWorkload,
}

func TestSources(t *testing.T) {
	names, err := fs.Glob(sources, "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		source, err := fs.ReadFile(sources, name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(source), "SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)") {
			t.Errorf("%s has no SPDX-License-Identifier of both licenses", name)
		}
		if strings.HasSuffix(name, ".c") && collections[name] == nil {
			t.Errorf("%s has no collection in this test", name)
		}
	}
}

// What the objects must be like to load on every kernel from 5.10, and for user space to find its way in them.
func TestCollections(t *testing.T) {
	for name, load := range collections {
		t.Run(name, func(t *testing.T) {
			spec, err := load()
			if err != nil {
				t.Fatal(err)
			}
			for name, m := range spec.Maps {
				checkMap(t, spec, name, m)
			}
			for name, program := range spec.Programs {
				checkProgram(t, name, program)
			}
			for _, variable := range []string{"policy", "missed"} {
				if spec.Variables[variable] == nil {
					t.Errorf("no variable %s", variable)
				}
			}
		})
	}
}

func checkMap(t *testing.T, spec *ebpf.CollectionSpec, name string, m *ebpf.MapSpec) {
	t.Helper()
	switch m.Type {
	case ebpf.Hash, ebpf.LRUHash, ebpf.Array, ebpf.Queue:
	case ebpf.TaskStorage: // from 5.11; there must be a way without
		if spec.Variables["has_task_storage"] == nil {
			t.Errorf("map %s is task storage, and no constant says whether there is any", name)
		}
	default:
		t.Errorf("map %s is a %s; 5.10 must know it", name, m.Type)
	}
	table, ok := strings.CutSuffix(name, "_keys")
	if !ok || m.Type != ebpf.Hash {
		return
	}
	for suffix, want := range map[string]ebpf.MapType{"_free": ebpf.Queue, "_info": ebpf.Array, "_cells": ebpf.Array} {
		if part := spec.Maps[table+suffix]; part == nil || part.Type != want {
			t.Errorf("table %s has no %s of type %s", table, suffix, want)
		}
	}
	if info := spec.Maps[table+"_info"]; info != nil && info.ValueSize < 16+m.KeySize {
		t.Errorf("table %s: the key of %d bytes is not in the info of %d", table, m.KeySize, info.ValueSize)
	}
	for _, suffix := range []string{"_slots", "_shards", "_full"} {
		if spec.Variables[table+suffix] == nil {
			t.Errorf("table %s has no variable %s", table, suffix)
		}
	}
}

func checkProgram(t *testing.T, name string, program *ebpf.ProgramSpec) {
	t.Helper()
	if program.Type != ebpf.Tracing ||
		program.AttachType != ebpf.AttachTraceRawTp && program.AttachType != ebpf.AttachTraceIter {
		t.Errorf("program %s is of type %s, %s: neither tp_btf nor an iterator", name, program.Type, program.AttachType)
	}
	if program.License != "Dual BSD/GPL" {
		t.Errorf("program %s has the license %q", name, program.License)
	}
	for _, instruction := range program.Instructions {
		// Atomics that fetch came with 5.12; -mcpu=v2 does not make them.
		if op := instruction.OpCode; op.Class() == asm.StXClass && op.Mode() == asm.AtomicMode && op.AtomicOp() != asm.AddAtomic {
			t.Errorf("program %s: %v is not known to 5.10", name, instruction)
		}
	}
}

// User space reads cells as arrays of 64-bit words. A histogram is its sum, the count of zeros, and (max-min)<<scale buckets.
func TestHistogramSizes(t *testing.T) {
	const words = 8
	var (
		schedule bpf.SchedulerScheduleCell
		lifetime bpf.ProcessLifetimeCell
	)
	for _, test := range []struct {
		name      string
		got, want uintptr
	}{
		{"latency buckets", uintptr(len(schedule.Wait.Buckets)), (6 + 20) << 3},
		{"latency", unsafe.Sizeof(schedule.Wait), (2 + 208) * words},
		{"schedule_cell", unsafe.Sizeof(schedule), (2 + 2 + 208) * words},
		{"schedule_cell.wait", unsafe.Offsetof(schedule.Wait), 2 * words},
		{"lifetime buckets", uintptr(len(lifetime.Lifetime.Buckets)), (17 + 20) << 2},
		{"lifetime_cell", unsafe.Sizeof(lifetime), (2 + 148) * words},
	} {
		if test.got != test.want {
			t.Errorf("%s: %d, want %d", test.name, test.got, test.want)
		}
	}
}

// Keys are compared byte by byte in the kernel: padding must have a name, so that it is zero.
func TestKeySizes(t *testing.T) {
	for _, test := range []struct {
		name      string
		got, want uintptr
	}{
		{"execution_key", unsafe.Sizeof(bpf.ProcessExecutionKey{}), 8 + 256},
		{"exit_key", unsafe.Sizeof(bpf.ProcessExitKey{}), 8 + 4 + 4},
		{"cgroup_entry", unsafe.Sizeof(bpf.WorkloadCgroupEntry{}), 8 + 8 + 256},
	} {
		if test.got != test.want {
			t.Errorf("%s: %d bytes, want %d", test.name, test.got, test.want)
		}
	}
}
