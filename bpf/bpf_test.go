package bpf_test

import (
	"bytes"
	"embed"
	"io/fs"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

//go:embed *.c *.h *.o
var files embed.FS

func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := fs.ReadFile(files, name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := fs.Glob(files, pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(names), err)
	}
	return names
}

func TestSources(t *testing.T) {
	for _, name := range append(glob(t, "*.c"), glob(t, "*.h")...) {
		if !bytes.Contains(read(t, name), []byte("SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)")) {
			t.Errorf("%s has no SPDX-License-Identifier of both licenses", name)
		}
	}
}

// What the objects must be like to load on every kernel from 5.10, and for user space to find its way in them.
func TestCollections(t *testing.T) {
	for _, source := range glob(t, "*.bpf.c") {
		t.Run(source, func(t *testing.T) {
			object := read(t, strings.TrimSuffix(source, ".bpf.c")+"_bpfel.o")
			spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
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
		if byAddress := spec.Maps[name+"_by_address"]; byAddress == nil || byAddress.Type != ebpf.Hash {
			t.Errorf("map %s is task storage, and there is no %s_by_address", name, name)
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
	checkKey(t, name, m.Key)
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

// checkKey looks for padding without a name, which nobody makes zero: keys are compared byte by byte in the kernel.
func checkKey(t *testing.T, name string, key btf.Type) {
	t.Helper()
	members, ok := btf.As[*btf.Struct](key)
	if !ok {
		return
	}
	size := uint32(0)
	for _, member := range members.Members {
		n, err := btf.Sizeof(member.Type)
		if err != nil {
			t.Fatal(err)
		}
		size += uint32(n)
	}
	if size != members.Size || size%8 != 0 {
		t.Errorf("%s: the members of %s are %d bytes of %d, which must be words", name, members.Name, size, members.Size)
	}
}
