package handover

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// barrierTimeout is how long systemd may take for what it was sent.
const barrierTimeout = 10 * time.Second

// Systemd is systemd's file descriptor store: what is in it stays over restarts and crashes of the service, and goes when it is
// stopped (FDSTORE in sd_notify(3)).
type Systemd struct {
	Memory // the same
	socket int
	to     unix.SockaddrUnix
}

// NewSystemd opens the store of the service that this process is, with what earlier ones left there.
func NewSystemd() (*Systemd, error) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("systemd's file descriptor store: %w", err)
	}
	s := &Systemd{*NewMemory(), socket, unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}}
	for _, file := range activation.Files(true) {
		s.files[file.Name()] = file
	}
	return s, nil
}

// Keep puts a collection into the store, and returns when systemd has it.
func (s *Systemd) Keep(collection string, objects *Objects) error {
	errs := []error{s.Memory.Keep(collection, objects)}
	for stored, file := range s.files {
		if collectionOf(stored) == collection {
			// systemd is not to watch it: it would take an error for its end.
			errs = append(errs, s.send("FDSTORE=1\nFDPOLL=0\nFDNAME="+stored, int(file.Fd())))
		}
	}
	if err := errors.Join(append(errs, s.barrier())...); err != nil {
		return fmt.Errorf("keep %s in systemd's file descriptor store: %w", collection, err)
	}
	return nil
}

// Drop lets go of the collections, but for some.
func (s *Systemd) Drop(but func(collection string) bool) error {
	var errs []error
	for stored := range s.files {
		if !but(collectionOf(stored)) {
			errs = append(errs, s.send("FDSTOREREMOVE=1\nFDNAME="+stored))
		}
	}
	return errors.Join(append(errs, s.Memory.Drop(but), s.barrier())...)
}

// Close keeps the store and lets go of it in this process.
func (s *Systemd) Close() error { return errors.Join(unix.Close(s.socket), s.Memory.Close()) }

func (s *Systemd) send(message string, fds ...int) error {
	return unix.Sendmsg(s.socket, []byte(message), unix.UnixRights(fds...), &s.to, 0)
}

// barrier returns when systemd has taken in what was sent before (sd_notify_barrier(3)).
func (s *Systemd) barrier() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	err = s.send("BARRIER=1", int(write.Fd()))
	if err := errors.Join(err, write.Close(), read.SetReadDeadline(time.Now().Add(barrierTimeout))); err != nil {
		return err
	}
	if _, err := read.Read(make([]byte, 1)); !errors.Is(err, io.EOF) { // systemd closes the other end
		return fmt.Errorf("systemd does not answer: %w", err)
	}
	return nil
}
