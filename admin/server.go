package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// group is the group whose members may ask for the status, where there is one of that name.
const group = "sidecar"

// Handler answers. Its functions may be called concurrently.
type Handler struct {
	Status func() Status
	// Reload has the configuration read again, and returns when it is in effect, or why it changed nothing.
	Reload func(context.Context) error
}

// Server answers on a socket until it is closed.
type Server struct {
	http *http.Server
	done sync.WaitGroup
}

// Listen answers at the path of a Unix socket, whose folder it makes if need be. It is for the owner and the group sidecar;
// only the owner and root may reload. A socket that a process left behind is replaced, and one where a sidecar answers is an
// error.
func Listen(path string, h Handler) (*Server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// Nobody else may connect before it has its permissions.
	before := unix.Umask(0o177)
	listener, err := net.Listen("unix", path)
	unix.Umask(before)
	if err != nil {
		return nil, err
	}
	if err := share(path); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(h.Status()) // to who has gone
	})
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) {
		if uid, ok := r.Context().Value(peer{}).(uint32); !ok || uid != 0 && int(uid) != os.Geteuid() {
			http.Error(w, "only root and the sidecar's own user may reload it", http.StatusForbidden)
			return
		}
		if err := h.Reload(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	s := &Server{http: &http.Server{Handler: mux, ConnContext: withPeer, ReadHeaderTimeout: 5 * time.Second}}
	s.done.Go(func() { _ = s.http.Serve(listener) }) // ends with Close
	return s, nil
}

// Close ends the answers, those being given included, and removes the socket.
func (s *Server) Close() error {
	err := s.http.Close()
	s.done.Wait()
	return err
}

// removeStale removes a socket that nobody listens at.
func removeStale(path string) error {
	connection, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("another sidecar answers at %s", path), connection.Close())
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

// share lets the group in, if there is one and the process may.
func share(path string) error {
	if g, err := user.LookupGroup(group); err == nil {
		if gid, err := strconv.Atoi(g.Gid); err == nil {
			if err := os.Chown(path, -1, gid); err != nil && !errors.Is(err, fs.ErrPermission) {
				return err
			}
		}
	}
	return os.Chmod(path, 0o660)
}

// peer is the context's key for the user at the other end.
type peer struct{}

func withPeer(ctx context.Context, connection net.Conn) context.Context {
	raw, err := connection.(*net.UnixConn).SyscallConn()
	if err != nil {
		return ctx
	}
	var credentials *unix.Ucred
	if controlErr := raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || controlErr != nil {
		return ctx
	}
	return context.WithValue(ctx, peer{}, credentials.Uid)
}
