package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAnswers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "admin.sock")
	client := NewClient(path)
	if _, err := client.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("nobody listens: %v", err)
	}
	accepted := time.Unix(1700000000, 0).UTC()
	want := Status{
		State: Running, Version: "1.2.3", PID: 42, Started: accepted,
		Probes: []Probe{{Name: "block", State: "attached", Events: 7, Missed: 1}},
		Export: &Export{Endpoint: "http://localhost:4317", Accepted: &accepted},
	}
	refusal := errors.New("config.yaml:1:1: no such key")
	reloads := 0
	server, err := Listen(path, Handler{
		Status: func() Status { return want },
		Reload: func(context.Context) error {
			reloads++
			if reloads > 1 {
				return refusal
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := client.Status(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("status: %+v, %v", got, err)
	}
	if err := client.Reload(t.Context()); err != nil {
		t.Errorf("reload: %v", err)
	}
	if err := client.Reload(t.Context()); err == nil || err.Error() != refusal.Error() {
		t.Errorf("a reload that is refused: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path, Handler{}); err == nil || !strings.Contains(err.Error(), "another sidecar answers") {
		t.Errorf("a second one: %v", err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// TestStaleSocket checks that what a killed process leaves is no obstacle.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	left, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()
	server, err := Listen(path, Handler{Status: func() Status { return Status{} }})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestOthers checks who may do what: the group asks, and only the owner and root reload.
func TestOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test becomes another user, which takes root (sudo make test)")
	}
	folder := t.TempDir()
	for path := folder; path != "/"; path = filepath.Dir(path) {
		if info, err := os.Stat(path); err != nil || info.Mode()&0o001 == 0 {
			if err := os.Chmod(path, info.Mode()|0o011); err != nil {
				t.Fatal(err)
			}
		}
	}
	path := filepath.Join(folder, "admin.sock")
	server, err := Listen(path, Handler{
		Status: func() Status { return Status{State: Running} },
		Reload: func(context.Context) error { t.Error("reloaded for another user"); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client := Client{path, http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dialAs(nobody, path) }, DisableKeepAlives: true,
	}}}
	if _, err := client.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "use sudo") {
		t.Errorf("a stranger's question: %v", err)
	}
	if err := os.Chown(path, -1, nobody); err != nil {
		t.Fatal(err)
	}
	if status, err := client.Status(t.Context()); err != nil || status.State != Running {
		t.Errorf("a member's question: %+v, %v", status, err)
	}
	if err := client.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "only root") {
		t.Errorf("a member's reload: %v", err)
	}
}

const nobody = 65534

// dialAs connects as another user and group, which only a thread that is then given up becomes.
func dialAs(id int, path string) (connection net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		for _, call := range [][4]uintptr{
			{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, uintptr(id), uintptr(id), uintptr(id)}, {unix.SYS_SETRESUID, uintptr(id), uintptr(id), uintptr(id)},
		} {
			if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				err = errno
				return
			}
		}
		connection, err = net.Dial("unix", path)
	}()
	<-done
	return connection, err
}
