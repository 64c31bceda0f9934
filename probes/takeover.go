package probes

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/ebpf-sidecar/sidecar/bpf"
	"github.com/ebpf-sidecar/sidecar/handover"
	"github.com/ebpf-sidecar/sidecar/series"
)

// identity names a collection by all that it was made of: the programs, their constants, the sizes of the maps. Where these are the
// same in another process, on the same boot of the kernel, its maps and programs are what this one would load.
func identity(name string, spec *ebpf.CollectionSpec) string {
	hash := sha256.New()
	hash.Write(bpf.Objects[name])
	for _, variable := range slices.Sorted(maps.Keys(spec.Variables)) {
		fmt.Fprintf(hash, "\nvariable %s %x", variable, spec.Variables[variable].Value)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		m := spec.Maps[name]
		fmt.Fprintf(hash, "\nmap %s %d %d %d %d %d", name, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags)
	}
	for _, program := range slices.Sorted(maps.Keys(spec.Programs)) {
		fmt.Fprintf(hash, "\nprogram %s", program)
	}
	return name + "@" + hex.EncodeToString(hash.Sum(nil)[:12])
}

// collection is a loaded collection and what has its programs run.
type collection struct {
	*ebpf.Collection
	identity string
	links    map[string]link.Link // by program; iterators have none
	taken    bool                 // over from an earlier process
}

// loadCollection takes a collection over from an earlier process if it is there, whole, and loads it else. Its programs are not
// attached then.
func loadCollection(name string, spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map, plan *Plan) (*collection, error) {
	c := &collection{identity: identity(name, spec)}
	objects, err := plan.options.store().Take(c.identity)
	if err != nil {
		return nil, err
	}
	options := ebpf.CollectionOptions{MapReplacements: shared, Cache: plan.kernel.types}
	if objects == nil || !whole(objects, spec, shared) {
		c.Collection, err = ebpf.NewCollectionWithOptions(spec, options)
		return c, err
	}
	left := spec.Copy()
	clear(left.Programs)
	options.MapReplacements = maps.Clone(objects.Maps)
	maps.Copy(options.MapReplacements, shared)
	if c.Collection, err = ebpf.NewCollectionWithOptions(left, options); err != nil {
		return nil, errors.Join(err, objects.Close())
	}
	c.Programs, c.links, c.taken = objects.Programs, objects.Links, true
	objects.Programs, objects.Links = nil, nil
	return c, objects.Close() // the maps are cloned
}

// whole tells whether objects are all of a collection, and belong together: each link attaches its program, and no program uses a
// map that is not among them.
func whole(objects *handover.Objects, spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map) bool {
	known := make(map[ebpf.MapID]bool)
	for name := range spec.Maps {
		m := objects.Maps[name]
		if s := shared[name]; s != nil {
			m = s
		}
		if m == nil {
			return false
		}
		info, err := m.Info()
		if err != nil {
			return false
		}
		id, ok := info.ID()
		known[id] = ok
	}
	for name, program := range spec.Programs {
		p := objects.Programs[name]
		if p == nil {
			return false
		}
		info, err := p.Info()
		if err != nil {
			return false
		}
		used, _ := info.MapIDs()
		for _, id := range used {
			if !known[id] {
				return false
			}
		}
		if program.AttachType == ebpf.AttachTraceIter {
			continue
		}
		id, _ := info.ID()
		l := objects.Links[name]
		if l == nil {
			return false
		}
		if attached, err := l.Info(); err != nil || attached.Program != id {
			return false
		}
	}
	return true
}

// keep puts the collection into the store, unless it is there.
func (c *collection) keep(store handover.Store, shared map[string]*ebpf.Map) error {
	if c.taken {
		return nil
	}
	own := maps.Clone(c.Maps)
	maps.DeleteFunc(own, func(name string, _ *ebpf.Map) bool { return shared[name] != nil })
	return store.Keep(c.identity, &handover.Objects{Maps: own, Programs: c.Programs, Links: c.links})
}

// close lets go of it in this process.
func (c *collection) close() error {
	if c == nil {
		return nil
	}
	var errs []error
	for _, l := range c.links {
		errs = append(errs, l.Close())
	}
	if c.Collection != nil {
		c.Close()
	}
	return errors.Join(errs...)
}

// takeOver puts the series that an earlier process left into their groups; generation is that of the next snapshot. Those that it had
// unpublished are retired, and so not exported any more once a receiver has them. What had no known workload counts as overflow, if
// no receiver was told of it.
func (l *ledger) takeOver(identify func(cgroup uint64) ([]Attribute, bool), generation uint64) (err error) {
	if l.fresh, err = l.table.Fresh(l.fresh); err != nil {
		return err
	}
	var ended []uint32
	for _, slot := range l.fresh {
		published, err := l.table.Published(slot)
		if err != nil {
			return err
		}
		if !published {
			ended = append(ended, slot)
		}
	}
	if err := l.find(identify); err != nil {
		return err
	}
	unknown := func(slot uint32) bool { return l.members[slot] == nil }
	for _, slot := range ended {
		if !unknown(slot) {
			continue
		}
		l.fresh = slices.DeleteFunc(l.fresh, func(s uint32) bool { return s == slot })
		if l.table.Start(slot) == 0 {
			err = l.fold(slot, series.Overflow)
		} else {
			l.gone += l.events(slot)
			err = l.table.Recycle(slot)
		}
		if err != nil {
			return err
		}
	}
	return l.retire(slices.DeleteFunc(ended, unknown), generation)
}
