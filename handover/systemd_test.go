package handover

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// manager takes what a Systemd sends, and does with it what systemd does: it keeps the file descriptors by name.
type manager struct {
	connection *net.UnixConn
	kept       map[string]int
}

func (m *manager) serve(t *testing.T) {
	message, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := m.connection.ReadMsgUnix(message, rights)
		if err != nil {
			return
		}
		var fds []int
		if messages, err := unix.ParseSocketControlMessage(rights[:oobn]); err == nil && len(messages) > 0 {
			if fds, err = unix.ParseUnixRights(&messages[0]); err != nil {
				t.Error(err)
			}
		}
		said := make(map[string]string)
		for line := range bytes.Lines(message[:n]) {
			key, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
			said[key] = value
		}
		switch {
		case said["BARRIER"] == "1":
			unix.Close(fds[0])
		case said["FDSTORE"] == "1" && said["FDPOLL"] == "0":
			m.kept[said["FDNAME"]] = fds[0]
		case said["FDSTOREREMOVE"] == "1":
			unix.Close(m.kept[said["FDNAME"]])
			delete(m.kept, said["FDNAME"])
		default:
			t.Errorf("systemd does not know %q", message[:n])
		}
	}
}

// TestSystemd checks what systemd is sent, and that it has it when Keep and Drop return.
func TestSystemd(t *testing.T) {
	kerneltest.NeedRoot(t)
	path := filepath.Join(t.TempDir(), "notify")
	connection, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{connection, make(map[string]int)}
	done := make(chan struct{})
	go func() { defer close(done); m.serve(t) }()
	t.Setenv("NOTIFY_SOCKET", path)
	store, err := NewSystemd()
	if err != nil {
		t.Fatal(err)
	}
	array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer array.Close()
	if err := array.Put(uint32(0), uint64(42)); err != nil {
		t.Fatal(err)
	}
	objects := &Objects{Maps: map[string]*ebpf.Map{".data.x": array}}
	for _, collection := range []string{"one@1", "two@2"} {
		if err := store.Keep(collection, objects); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Drop(func(collection string) bool { return collection == "two@2" }); err != nil {
		t.Fatal(err)
	}
	if left, err := store.Take("one@1"); err != nil || left != nil {
		t.Errorf("what was dropped: %v, %v", left, err)
	}
	again, err := store.Take("two@2")
	if err != nil || again == nil {
		t.Fatalf("what was kept: %v, %v", again, err)
	}
	defer again.Close()
	var value uint64
	if err := again.Maps[".data.x"].Lookup(uint32(0), &value); err != nil || value != 42 {
		t.Errorf("the map has %d, %v", value, err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	connection.Close()
	<-done
	if _, ok := m.kept["two@2/map/.data.x"]; !ok || len(m.kept) != 1 {
		t.Errorf("systemd keeps %v", m.kept)
	}
}
