package handover

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// TestPins checks that what is pinned outlives the store, that one process has a folder, and that Detach leaves nothing.
func TestPins(t *testing.T) {
	kerneltest.NeedRoot(t)
	if pins, err := NewPins(t.TempDir()); err == nil || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("a folder where nothing can be pinned: %v, %v", pins, err)
	}
	mount := t.TempDir()
	if err := unix.Mount("bpf", mount, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(mount, "sidecar")
	pins, err := NewPins(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewPins(path); err == nil || !strings.Contains(err.Error(), "another sidecar") {
		t.Errorf("a second process: %v", err)
	}
	for _, collection := range []string{"one@1", "two@2", "one@1"} { // again, over what is there
		array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := array.Put(uint32(0), uint64(42)); err != nil {
			t.Fatal(err)
		}
		if err := pins.Keep(collection, &Objects{Maps: map[string]*ebpf.Map{".data.x": array}}); err != nil {
			t.Fatal(err)
		}
		if err := array.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := pins.Close(); err != nil {
		t.Error(err)
	}

	if pins, err = NewPins(path); err != nil {
		t.Fatal(err)
	}
	if err := pins.Drop(func(collection string) bool { return collection == "two@2" }); err != nil {
		t.Error(err)
	}
	if left, err := pins.Take("one@1"); err != nil || left != nil {
		t.Errorf("what was dropped: %v, %v", left, err)
	}
	again, err := pins.Take("two@2")
	if err != nil || again == nil {
		t.Fatalf("what was kept: %v, %v", again, err)
	}
	var value uint64
	if err := again.Maps[".data.x"].Lookup(uint32(0), &value); err != nil || value != 42 {
		t.Errorf("the map has %d, %v", value, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if err := pins.Detach(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("detached, and the folder is there: %v", err)
	}
}
