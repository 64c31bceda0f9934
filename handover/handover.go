// Package handover keeps what a process has in the kernel for the process that comes after it, so that BPF programs count on
// between them.
package handover

import (
	"errors"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Objects are what a loaded collection has in the kernel, by name. Links are by the program that they attach.
type Objects struct {
	Maps     map[string]*ebpf.Map
	Programs map[string]*ebpf.Program
	Links    map[string]link.Link
}

// Close lets go of them in this process.
func (o *Objects) Close() error {
	var errs []error
	for _, l := range o.Links {
		errs = append(errs, l.Close())
	}
	for _, p := range o.Programs {
		errs = append(errs, p.Close())
	}
	for _, m := range o.Maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Store is where objects are kept, by the name of their collection.
type Store interface {
	// Take returns what an earlier process left of a collection, which may not be all of it; nil if nothing is there. It stays
	// in the store. The objects are the caller's to close.
	Take(collection string) (*Objects, error)
	// Keep puts a collection into the store. The objects stay the caller's.
	Keep(collection string, objects *Objects) error
	// Drop lets go of the collections that an earlier process left, but for some. What nobody else has then ends.
	Drop(but func(collection string) bool) error
	io.Closer
}

// None keeps nothing.
type None struct{}

// Take finds nothing.
func (None) Take(string) (*Objects, error) { return nil, nil }

// Keep does nothing.
func (None) Keep(string, *Objects) error { return nil }

// Drop has nothing to let go of.
func (None) Drop(func(string) bool) error { return nil }

// Close has nothing to close.
func (None) Close() error { return nil }

// The kinds of objects, as a part of their names in a store.
const (
	kindMap     = "map"
	kindProgram = "program"
	kindLink    = "link"
)

func newObjects() *Objects {
	return &Objects{make(map[string]*ebpf.Map), make(map[string]*ebpf.Program), make(map[string]link.Link)}
}
