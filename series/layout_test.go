package series

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

func TestShards(t *testing.T) {
	for _, test := range []struct{ cpus, limit, want int }{
		{1, 8, 1},
		{2, 8, 2},
		{3, 8, 4},
		{4, 8, 4},
		{5, 8, 8},
		{7, 8, 8},
		{8, 8, 8},
		{9, 8, 8},
		{128, 8, 8},
		{1, 1, 1},
		{2, 1, 1},
		{128, 1, 1},
	} {
		if got := Shards(test.cpus, test.limit); got != test.want {
			t.Errorf("Shards(%d, %d) = %d, want %d", test.cpus, test.limit, got, test.want)
		}
	}
}

func TestLayoutOf(t *testing.T) {
	spec, err := loadSample()
	if err != nil {
		t.Fatal(err)
	}
	layout, err := LayoutOf(spec, "samples")
	if want := (Layout{KeySize: 8, InfoSize: 32, CellSize: 16, Slots: 1, Shards: 1}); err != nil || layout != want {
		t.Errorf("layout %+v, %v; want %+v", layout, err, want)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		without := spec.Copy()
		delete(without.Maps, name)
		_, err := LayoutOf(without, "samples")
		if needed := slices.Contains([]string{"samples_keys", "samples_free", "samples_info", "samples_cells"}, name); needed != (err != nil) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// The kernel says what it takes for a map.
func TestMemory(t *testing.T) {
	kerneltest.NeedRoot(t)
	kerneltest.NeedLinux(t, 6, 4, "before, it gives a rough figure only of what maps take (90a5527d7686)")
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	for _, keySize := range []int{4, 8, 16, 264} {
		for _, cellSize := range []int{8, 272, 1712} {
			for _, slots := range []int{1, 2, 65, 1001, 4097} {
				for _, shards := range []int{1, 8} {
					layout := Layout{
						KeySize:  keySize,
						InfoSize: align(24+keySize, 8),
						CellSize: cellSize,
						Slots:    slots,
						Shards:   shards,
					}
					kernel, formula := kernelMemory(t, layout), layout.Memory(cpus)
					if formula < kernel || formula > kernel+kernel*3/10 {
						t.Errorf("%+v with %d possible CPUs: %d bytes, the kernel says %d", layout, cpus, formula, kernel)
					}
				}
			}
		}
	}
}

// kernelMemory is what the kernel takes for the maps of a layout, in bytes.
func kernelMemory(t testing.TB, layout Layout) (total uint64) {
	t.Helper()
	spec, err := loadSample()
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps["samples_keys"].KeySize = uint32(layout.KeySize)
	spec.Maps["samples_info"].ValueSize = uint32(layout.InfoSize)
	spec.Maps["samples_cells"].ValueSize = uint32(layout.CellSize)
	if err := layout.Configure(spec, "samples"); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"_keys", "_free", "_info", "_cells"} {
		m := spec.Maps["samples"+suffix]
		m.Key, m.Value = nil, nil // their BTF tells other sizes
		bytes, err := memlock(m)
		if err != nil {
			t.Fatalf("%s of %+v: %v", m.Name, layout, err)
		}
		total += bytes
	}
	return total
}

func memlock(spec *ebpf.MapSpec) (uint64, error) {
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return 0, err
	}
	info, err := m.Info()
	if err := errors.Join(err, m.Close()); err != nil {
		return 0, err
	}
	bytes, ok := info.Memlock()
	if !ok {
		return 0, errors.New("no memlock in the map's information")
	}
	return bytes, nil
}
