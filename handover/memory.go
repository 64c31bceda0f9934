package handover

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Memory keeps file descriptors in this process, for what comes after a reload.
type Memory struct {
	files map[string]*os.File // by name
}

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{make(map[string]*os.File)} }

// name is what an object is stored as: for systemd, ASCII without a colon and at most 255 bytes.
func name(collection, kind, object string) string { return collection + "/" + kind + "/" + object }

// Take returns what there is of a collection.
func (m *Memory) Take(collection string) (*Objects, error) {
	objects := newObjects()
	var errs []error
	for stored, file := range m.files {
		parts := strings.SplitN(stored, "/", 3)
		if len(parts) != 3 || parts[0] != collection {
			continue
		}
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			err = objects.add(parts[1], parts[2], fd)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(fmt.Errorf("take over %s: %w", collection, err), objects.Close())
	}
	if len(objects.Maps) == 0 {
		return nil, objects.Close()
	}
	return objects, nil
}

// add makes an object of a file descriptor, which it takes.
func (o *Objects) add(kind, name string, fd int) error {
	switch kind {
	case kindMap:
		m, err := ebpf.NewMapFromFD(fd)
		if err != nil {
			return err
		}
		o.Maps[name] = m
	case kindProgram:
		program, err := ebpf.NewProgramFromFD(fd)
		if err != nil {
			return err
		}
		o.Programs[name] = program
	case kindLink:
		l, err := link.NewFromFD(fd)
		if err != nil {
			return err
		}
		o.Links[name] = l
	default:
		return errors.Join(fmt.Errorf("%s %s: an unknown kind", kind, name), unix.Close(fd))
	}
	return nil
}

// Keep keeps copies of the file descriptors of a collection.
func (m *Memory) Keep(collection string, objects *Objects) error {
	var errs []error
	keep := func(kind, object string, fd int) {
		fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err == nil {
			m.files[name(collection, kind, object)] = os.NewFile(uintptr(fd), object)
		}
		errs = append(errs, err)
	}
	for object, each := range objects.Maps {
		keep(kindMap, object, each.FD())
	}
	for object, program := range objects.Programs {
		keep(kindProgram, object, program.FD())
	}
	for object, l := range objects.Links {
		holder, ok := l.(interface{ FD() int })
		if !ok {
			errs = append(errs, fmt.Errorf("the link of %s has no file descriptor", object))
			continue
		}
		keep(kindLink, object, holder.FD())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("keep %s: %w", collection, err)
	}
	return nil
}

// Drop lets go of the collections, but for some.
func (m *Memory) Drop(but func(collection string) bool) error {
	var errs []error
	for stored, file := range m.files {
		if !but(collectionOf(stored)) {
			errs = append(errs, file.Close())
			delete(m.files, stored)
		}
	}
	return errors.Join(errs...)
}

func collectionOf(stored string) string {
	collection, _, _ := strings.Cut(stored, "/")
	return collection
}

// Close lets go of everything.
func (m *Memory) Close() error { return m.Drop(func(string) bool { return false }) }
