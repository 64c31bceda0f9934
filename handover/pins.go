package handover

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Pins is a folder of a BPF file system: what is pinned there stays until Detach, or until the host reboots. An object is
// FOLDER/COLLECTION/KIND/NAME.
type Pins struct {
	folder *os.File // locked
}

// NewPins opens the folder, and makes it if need be. The error says so if another process has it, or if nothing can be pinned
// there.
func NewPins(path string) (*Pins, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	if stat.Type != unix.BPF_FS_MAGIC {
		return nil, fmt.Errorf("%s is in no BPF file system (mount -t bpf bpf /sys/fs/bpf, and name a folder below it)", path)
	}
	folder, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another sidecar: %w", path, err), folder.Close())
	}
	return &Pins{folder}, nil
}

// escape makes a name one that a BPF file system takes: without dots (bpf_lookup, kernel/bpf/inode.c).
func escape(object string) string { return strings.ReplaceAll(object, ".", ":") }

func unescape(file string) string { return strings.ReplaceAll(file, ":", ".") }

// Take returns what an earlier process left of a collection.
func (p *Pins) Take(collection string) (*Objects, error) {
	objects := newObjects()
	var errs []error
	for _, kind := range []string{kindMap, kindProgram, kindLink} {
		folder := filepath.Join(p.folder.Name(), collection, kind)
		entries, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, entry := range entries {
			errs = append(errs, objects.load(kind, unescape(entry.Name()), filepath.Join(folder, entry.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(fmt.Errorf("take over %s: %w", collection, err), objects.Close())
	}
	if len(objects.Maps) == 0 {
		return nil, objects.Close()
	}
	return objects, nil
}

// load makes an object of a pin.
func (o *Objects) load(kind, name, path string) error {
	switch kind {
	case kindMap:
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			return err
		}
		o.Maps[name] = m
	case kindProgram:
		program, err := ebpf.LoadPinnedProgram(path, nil)
		if err != nil {
			return err
		}
		o.Programs[name] = program
	case kindLink:
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return err
		}
		o.Links[name] = l
	}
	return nil
}

// Keep pins a collection, the links last, so that one with all of its links is whole.
func (p *Pins) Keep(collection string, objects *Objects) error {
	folder := filepath.Join(p.folder.Name(), collection)
	if err := os.RemoveAll(folder); err != nil { // a part of an earlier one
		return err
	}
	errs := []error{os.Mkdir(folder, 0o700)}
	for _, kind := range []string{kindMap, kindProgram, kindLink} {
		errs = append(errs, os.Mkdir(filepath.Join(folder, kind), 0o700))
	}
	for name, m := range objects.Maps {
		errs = append(errs, m.Pin(filepath.Join(folder, kindMap, escape(name))))
	}
	for name, program := range objects.Programs {
		errs = append(errs, program.Pin(filepath.Join(folder, kindProgram, escape(name))))
	}
	for name, l := range objects.Links {
		errs = append(errs, l.Pin(filepath.Join(folder, kindLink, escape(name))))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pin %s: %w", collection, err)
	}
	return nil
}

// Drop unpins the collections that are there, but for some.
func (p *Pins) Drop(but func(collection string) bool) error {
	entries, err := os.ReadDir(p.folder.Name())
	errs := []error{err}
	for _, entry := range entries {
		if !but(entry.Name()) {
			errs = append(errs, os.RemoveAll(filepath.Join(p.folder.Name(), entry.Name())))
		}
	}
	return errors.Join(errs...)
}

// Detach unpins everything and removes the folder. What nobody else has then ends.
func (p *Pins) Detach() error {
	return errors.Join(p.Drop(func(string) bool { return false }), os.Remove(p.folder.Name()), p.folder.Close())
}

// Close keeps what is pinned, and lets another process have the folder.
func (p *Pins) Close() error { return p.folder.Close() }
