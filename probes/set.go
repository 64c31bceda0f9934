package probes

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/bpf"
	"github.com/ebpf-sidecar/sidecar/series"
	"github.com/ebpf-sidecar/sidecar/workload"
)

// removalGrace is how long a cgroup that was removed keeps its series open for the last events of what was in it. What
// comes later is counted in the overflow series.
const removalGrace = 2 * time.Second

// Set is the loaded probes. Its methods are not safe for concurrent use; the programs count all the time.
type Set struct {
	plan     *Plan
	probes   []*loaded
	shared   *collection
	policy   bpf.WorkloadPolicy
	table    *series.Table // of cgroups
	fresh    []uint32      // of it, not in the index yet
	index    *workload.Index
	identify func(uint64) ([]Attribute, bool)

	metrics      []Metric
	generation   uint64
	acknowledged uint64  // the last generation that a receiver has
	leaving      []ended // the oldest first
}

// ended is cgroups that were removed before a snapshot. They are kept until a receiver has it: a process that takes over before
// must know whose the last values are.
type ended struct {
	generation uint64
	cgroups    []uint64
}

// loaded is a probe of the catalogue and what became of it.
type loaded struct {
	*ProbePlan
	state   State
	err     error
	coll    *collection
	ledgers []*ledger
	skips   map[string]skips // by program
}

// skips is how many events a program was skipped for, at the last snapshot and as told.
type skips struct{ before, told uint64 }

// Load loads and attaches the enabled probes of a plan, which can be done once. A probe that cannot be is told in every
// snapshot and stops no other; the error is for what all of them need. Nothing is counted before Open, but by what an earlier
// process left in the store, which counts on.
func Load(plan *Plan) (*Set, error) {
	// Kernels before 5.11 charge maps to it. It fails, too, for who may create no map at all: loading tells which it is.
	_ = rlimit.RemoveMemlock()
	s := &Set{plan: plan}
	if err := s.loadShared(); err != nil {
		err = plan.kernel.explain(err, "Linux 5.10 with BTF and cgroups")
		return nil, errors.Join(fmt.Errorf("load what all probes share: %w", err), s.Close())
	}
	s.identify = identifier(s.index, plan.options)
	var loading sync.WaitGroup // most of the time is the kernel's verifier's
	for i := range plan.Probes {
		probe := &loaded{ProbePlan: &plan.Probes[i], state: Disabled, skips: make(map[string]skips)}
		s.probes = append(s.probes, probe)
		if probe.Enabled {
			loading.Go(func() { probe.err = s.load(probe) })
		}
	}
	loading.Wait()
	for _, probe := range s.probes {
		if !probe.Enabled {
			continue
		}
		metrics := len(s.metrics)
		if probe.err == nil {
			probe.err = s.attach(probe)
		}
		probe.spec = nil // large, and not needed any more
		if probe.err == nil {
			probe.state = Attached
			continue
		}
		s.metrics = s.metrics[:metrics]
		probe.state = Failed
		if errors.Is(probe.err, ebpf.ErrNotSupported) || errors.Is(probe.err, btf.ErrNotFound) {
			probe.state = Unsupported
		}
		err := fmt.Errorf("probe %s: %w", probe.Spec.Name, plan.kernel.explain(probe.err, probe.Spec.Requirements()))
		probe.err = errors.Join(err, probe.close())
	}
	if s.shared.taken {
		if err := s.takeOver(); err != nil {
			return nil, errors.Join(fmt.Errorf("take over what an earlier process left: %w", err), s.Close())
		}
	}
	return s, nil
}

// takeOver takes in the cgroups and series that an earlier process left.
func (s *Set) takeOver() error {
	left, err := s.table.Fresh(nil)
	if err != nil {
		return err
	}
	if err := series.Quiesce(); err != nil {
		return err
	}
	ended, err := s.index.TakeOver(left)
	if err != nil {
		return err
	}
	s.leave(ended, s.generation+1)
	for _, probe := range s.probes {
		if probe.state != Attached || !probe.coll.taken {
			continue
		}
		for _, l := range probe.ledgers {
			if err := l.takeOver(s.identify, s.generation+1); err != nil {
				return fmt.Errorf("probe %s: %w", probe.Spec.Name, err)
			}
		}
	}
	return nil
}

// Taken lists the probes that an earlier process left running.
func (s *Set) Taken() (names []string) {
	for _, probe := range s.probes {
		if probe.state == Attached && probe.coll.taken {
			names = append(names, probe.Spec.Name)
		}
	}
	return names
}

// Keep puts what is attached into the store, for the next Set, and lets go there of everything else.
func (s *Set) Keep() error {
	store := s.plan.options.store()
	kept := map[string]bool{s.shared.identity: true}
	errs := []error{s.shared.keep(store, nil)}
	for _, probe := range s.probes {
		if probe.state == Attached {
			kept[probe.coll.identity] = true
			errs = append(errs, probe.coll.keep(store, s.sharedMaps()))
		}
	}
	errs = append(errs, store.Drop(func(collection string) bool { return kept[collection] }))
	return errors.Join(errs...)
}

// loadShared loads the workload collection: the maps that all probes share, and the program that sees cgroups removed.
func (s *Set) loadShared() error {
	spec, err := bpf.LoadWorkload()
	if err != nil {
		return err
	}
	if err := s.plan.cgroups.Configure(spec, cgroupsTable); err != nil {
		return err
	}
	if s.shared, err = loadCollection("workload", spec, nil, s.plan); err != nil {
		return err
	}
	if s.table, err = series.Open(s.shared.Collection, cgroupsTable, s.plan.cgroups, s.shared.taken); err != nil {
		return err
	}
	s.index = workload.NewIndex(s.table)
	if err := s.shared.Variables["policy"].Get(&s.policy); err != nil {
		return fmt.Errorf("read the policy: %w", err)
	}
	return s.shared.attach(spec)
}

// sharedMaps are the maps of the workload collection that other collections use too.
func (s *Set) sharedMaps() map[string]*ebpf.Map {
	shared := make(map[string]*ebpf.Map)
	for _, name := range []string{
		".data.policy", cgroupsTable + "_keys", cgroupsTable + "_free", cgroupsTable + "_info", cgroupsTable + "_cells",
	} {
		shared[name] = s.shared.Maps[name]
	}
	return shared
}

// load loads a probe's collection and opens its tables. It may run for several probes at a time.
func (s *Set) load(probe *loaded) error {
	if probe.Err != nil {
		return probe.Err
	}
	if err := s.plan.cgroups.Configure(probe.spec, cgroupsTable); err != nil {
		return err
	}
	for i, table := range probe.Spec.Tables {
		if err := probe.layouts[i].Configure(probe.spec, table.Name); err != nil {
			return err
		}
	}
	var err error
	if probe.coll, err = loadCollection(probe.Spec.Name, probe.spec, s.sharedMaps(), s.plan); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	for i := range probe.Spec.Tables {
		table, err := series.Open(probe.coll.Collection, probe.Spec.Tables[i].Name, probe.layouts[i], probe.coll.taken)
		if err != nil {
			return err
		}
		probe.ledgers = append(probe.ledgers, newLedger(s.plan.kernel, probe.Spec, &probe.Spec.Tables[i], table))
	}
	return nil
}

// attach has a probe's programs run, and its metrics exported.
func (s *Set) attach(probe *loaded) error {
	counted := make(map[string]bool) // by table
	for i, ledger := range probe.ledgers {
		spec := &probe.Spec.Tables[i]
		ledger.derived = counted[spec.CountedBy]
		for j := range spec.Instruments {
			instrument := &spec.Instruments[j]
			if !s.plan.options.metric(probe.Spec, instrument) {
				continue
			}
			counted[spec.Name] = true
			ledger.exported = append(ledger.exported, exportedInstrument{instrument, len(s.metrics)})
			s.metrics = append(s.metrics, Metric{
				Probe: probe.Spec.Name, Scope: probe.Spec.Scope(), Instrument: instrument,
			})
		}
	}
	return probe.coll.attach(probe.spec)
}

// attach attaches every program of a collection to its tracepoint, then runs its iterators once, unless an earlier process has.
func (c *collection) attach(spec *ebpf.CollectionSpec) error {
	if c.taken {
		return nil
	}
	c.links = make(map[string]link.Link)
	var iterators []*ebpf.Program
	// By name, so that a program comes before the one that handles what it is skipped for.
	for _, name := range slices.Sorted(maps.Keys(c.Programs)) {
		program := c.Programs[name]
		if spec.Programs[name].AttachType == ebpf.AttachTraceIter {
			iterators = append(iterators, program)
			continue
		}
		l, err := link.AttachTracing(link.TracingOptions{Program: program})
		if err != nil {
			return fmt.Errorf("attach %s: %w", spec.Programs[name].AttachTo, err)
		}
		c.links[name] = l
	}
	for _, program := range iterators {
		if err := iterate(program); err != nil {
			return fmt.Errorf("iterate: %w", err)
		}
	}
	return nil
}

func iterate(program *ebpf.Program) error {
	iterator, err := link.AttachIter(link.IterOptions{Program: program})
	if err != nil {
		return err
	}
	defer iterator.Close()
	reader, err := iterator.Open()
	if err != nil {
		return err
	}
	defer reader.Close()
	_, err = io.Copy(io.Discard, reader)
	return err
}

// Open opens the gate: from now on all attached probes count.
func (s *Set) Open() error {
	start, err := monotonic()
	if err != nil {
		return err
	}
	for _, probe := range s.probes {
		if probe.state == Attached && !probe.coll.taken {
			for _, l := range probe.ledgers {
				l.table.SetCreated(series.Overflow, start)
			}
		}
	}
	s.policy.Open = 1
	return s.setPolicy()
}

func (s *Set) setPolicy() error {
	if err := s.shared.Variables["policy"].Set(s.policy); err != nil {
		return fmt.Errorf("write the policy: %w", err)
	}
	return nil
}

func (s *Set) ledgers() []*ledger {
	var all []*ledger
	for _, probe := range s.probes {
		if probe.state == Attached {
			all = append(all, probe.ledgers...)
		}
	}
	return all
}

// Status tells what became of each probe of the plan, in its order, without the figures of a Snapshot.
func (s *Set) Status() []Status {
	all := make([]Status, len(s.probes))
	for i, probe := range s.probes {
		all[i] = Status{Probe: probe.Spec.Name, State: probe.state, Err: probe.err}
	}
	return all
}

// Snapshot reads every series. It also takes in the series and cgroups that are new, and ends those that are gone.
func (s *Set) Snapshot() (*Snapshot, error) {
	s.generation++
	ledgers := s.ledgers()
	if err := s.find(ledgers); err != nil {
		return nil, err
	}
	if err := s.end(ledgers); err != nil {
		return nil, err
	}
	now, err := now()
	if err != nil {
		return nil, err
	}
	snapshot := &Snapshot{Time: now.wall, Metrics: s.metrics, generation: s.generation}
	for i := range s.metrics {
		s.metrics[i].Points = s.metrics[i].Points[:0]
	}
	snapshot.Probes = s.Status()
	for i, probe := range s.probes {
		status := &snapshot.Probes[i]
		if probe.state == Attached {
			for _, l := range probe.ledgers {
				table, events := l.read(s.metrics, now)
				snapshot.Tables = append(snapshot.Tables, table)
				status.Events += events
			}
			if status.Missed, err = probe.missed(); err != nil {
				return nil, fmt.Errorf("probe %s: %w", probe.Spec.Name, err)
			}
			if status.CPUTime, err = probe.cpuTime(); err != nil {
				return nil, fmt.Errorf("probe %s: %w", probe.Spec.Name, err)
			}
		}
	}
	snapshot.Tables = append(snapshot.Tables, TableStatus{
		Probe: "workload", Table: cgroupsTable, Series: s.table.Used(), Limit: s.table.Layout().Slots - 1,
	})
	return snapshot, nil
}

// find takes in the cgroups and series that programs have published since the last snapshot. Slots whose workload is not
// known stay fresh.
func (s *Set) find(ledgers []*ledger) error {
	var err error
	for _, l := range ledgers {
		if l.fresh, err = l.table.Fresh(l.fresh); err != nil {
			return err
		}
	}
	// After the series: a cgroup is published before them.
	if s.fresh, err = s.table.Fresh(s.fresh); err != nil {
		return err
	}
	if err := s.learn(ledgers); err != nil {
		return err
	}
	if !hasFresh(ledgers) {
		return nil
	}
	// While one CPU was learning a cgroup and those above it, another may have found that cgroup and created a series.
	if s.fresh, err = s.table.Fresh(s.fresh); err != nil || len(s.fresh) == 0 {
		return err
	}
	return s.learn(ledgers)
}

// learn takes in the fresh cgroups, and the fresh series of workloads that are known.
func (s *Set) learn(ledgers []*ledger) error {
	if len(s.fresh) == 0 && !hasFresh(ledgers) {
		return nil
	}
	if err := series.Quiesce(); err != nil {
		return err
	}
	s.index.Learn(s.fresh)
	s.fresh = s.fresh[:0]
	var errs []error
	for _, l := range ledgers {
		errs = append(errs, l.find(s.identify))
	}
	return errors.Join(errs...)
}

func hasFresh(ledgers []*ledger) bool {
	return slices.ContainsFunc(ledgers, func(l *ledger) bool { return len(l.fresh) > 0 })
}

// end retires the series of cgroups that were removed a while ago, and folds those of unknown workloads, which are still
// fresh, into the overflow series.
func (s *Set) end(ledgers []*ledger) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	removed := s.index.Removed(now - uint64(removalGrace))
	isRemoved := make(map[uint64]bool, len(removed))
	for _, cgroup := range removed {
		isRemoved[cgroup] = true
	}
	retired := make([][]uint32, len(ledgers))
	for i, l := range ledgers {
		if len(removed) > 0 {
			retired[i] = l.of(isRemoved)
		}
		if err := errors.Join(l.table.Unpublish(retired[i]...), l.table.Unpublish(l.fresh...)); err != nil {
			return err
		}
	}
	if len(removed) > 0 || hasFresh(ledgers) {
		if err := s.index.Unpublish(removed); err != nil {
			return err
		}
		s.policy.Epoch++
		if err := errors.Join(s.setPolicy(), series.Quiesce()); err != nil {
			return err
		}
		for i, l := range ledgers {
			if err := errors.Join(l.retire(retired[i], s.generation), l.overflow()); err != nil {
				return err
			}
		}
		s.leave(removed, s.generation)
	}
	for len(s.leaving) > 0 && s.leaving[0].generation <= s.acknowledged {
		if err := s.index.Forget(s.leaving[0].cgroups); err != nil {
			return err
		}
		s.leaving = s.leaving[1:]
	}
	for _, l := range ledgers {
		if err := l.makeRoom(); err != nil {
			return err
		}
	}
	return s.reopenCgroups()
}

// leave has cgroups forgotten when a receiver has the snapshot of a generation.
func (s *Set) leave(cgroups []uint64, generation uint64) {
	if len(cgroups) > 0 {
		s.leaving = append(s.leaving, ended{generation, cgroups})
	}
}

// reopenCgroups lets programs learn cgroups again if they have given up while there was no room. All collections share the
// table, but each has its own note that it is full.
func (s *Set) reopenCgroups() error {
	if s.table.Free() == 0 {
		return nil
	}
	for _, probe := range s.probes {
		if probe.coll == nil {
			continue
		}
		if full := probe.coll.Variables[cgroupsTable+"_full"]; full != nil {
			if err := full.Set(uint32(0)); err != nil {
				return fmt.Errorf("probe %s: reopen the table of cgroups: %w", probe.Spec.Name, err)
			}
		}
	}
	return nil
}

// Acknowledge says that a receiver has all that a snapshot held. Series that ended before it are then let go when their
// room is needed; until then they stay in every snapshot.
func (s *Set) Acknowledge(snapshot *Snapshot) {
	s.acknowledged = snapshot.generation
	for _, l := range s.ledgers() {
		l.acknowledge(snapshot.generation)
	}
}

// missReasons are those of enum missed_reason in bpf/series.bpf.h, in its order.
var missReasons = [...]MissReason{MissedUpdate, MissedStorage, MissedUnmatched}

// missed reads what the programs of the probe missed, by their own count and the kernel's.
func (p *loaded) missed() ([]Missed, error) {
	var all []Missed
	for _, name := range slices.Sorted(maps.Keys(p.coll.Programs)) {
		if isRetry(name) || slices.Contains(p.Spec.Redundant, name) {
			continue
		}
		skipped, err := p.skipped(name)
		if err != nil {
			return nil, fmt.Errorf("read the misses of %s: %w", name, err)
		}
		all = append(all, Missed{Reason: MissedRecursion, Program: name, Count: skipped})
	}
	var counts [len(missReasons)]uint64
	if err := p.coll.Variables["missed"].Get(&counts); err != nil {
		return nil, fmt.Errorf("read missed: %w", err)
	}
	for i, reason := range missReasons {
		all = append(all, Missed{Reason: reason, Count: counts[i]})
	}
	return all, nil
}

// MeasureRunTime has the kernel measure what BPF programs take, all of the machine's, until it is closed. That costs some ten
// ns a run, which are in the figure, and takes CAP_SYS_ADMIN; since Linux 5.8.
func MeasureRunTime() (io.Closer, error) {
	statistics, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return nil, fmt.Errorf("measure the run time of BPF programs: %w (it takes root, or CAP_SYS_ADMIN)", err)
	}
	return statistics, nil
}

// cpuTime is the run time of all programs.
func (p *loaded) cpuTime() (total time.Duration, err error) {
	for name, program := range p.coll.Programs {
		stats, err := program.Stats()
		if err != nil {
			return 0, fmt.Errorf("read the run time of %s: %w", name, err)
		}
		total += stats.Runtime
	}
	return total, nil
}

// skipped is how many events the kernel skipped a program for, less those that its retries handled. An event that is still
// on its way to them is told by the next snapshot if it was lost, so that the figure never falls.
func (p *loaded) skipped(program string) (uint64, error) {
	retried := p.coll.Programs[program+retrySuffix+"1"] != nil
	var recovered uint64
	if retried {
		// Before the misses: what is recovered was missed before.
		if err := p.coll.Variables[program+"_recovered"].Get(&recovered); err != nil {
			return 0, err
		}
	}
	stats, err := p.coll.Programs[program].Stats()
	if err != nil {
		return 0, err
	}
	if !retried {
		return stats.RecursionMisses, nil
	}
	s := p.skips[program]
	now := stats.RecursionMisses - min(recovered, stats.RecursionMisses)
	p.skips[program] = skips{before: now, told: max(s.told, min(s.before, now))}
	return p.skips[program].told, nil
}

// Close detaches the programs and frees their memory.
func (s *Set) Close() error {
	var errs []error
	for _, probe := range s.probes {
		errs = append(errs, probe.close())
	}
	if s.table != nil {
		errs = append(errs, s.table.Close())
	}
	return errors.Join(append(errs, s.shared.close())...)
}

func (p *loaded) close() error {
	var errs []error
	for _, l := range p.ledgers {
		errs = append(errs, l.table.Close())
	}
	errs = append(errs, p.coll.close())
	*p = loaded{ProbePlan: p.ProbePlan, state: p.state, err: p.err}
	return errors.Join(errs...)
}
