package probes

import (
	"bufio"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// inMatrix tells whether this is a virtual machine of the kernel matrix: its CPUs are emulated, hence slow, and it has no
// programs besides busybox.
var inMatrix = os.Getenv("SIDECAR_VM_KERNEL") != ""

// raceDetector tells whether the race detector is in the test binary, which then takes long to start.
var raceDetector = func() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

// scaled is a number, or a smaller one where processes take long.
func scaled(usual, slow int) int {
	if inMatrix || raceDetector {
		return slow
	}
	return usual
}

// random is a number in [low, high], which the log tells.
func random(t testing.TB, what string, low, high int) int {
	t.Helper()
	n := low + rand.IntN(high-low+1)
	t.Logf("%s: %d", what, n)
	return n
}

// remove removes a cgroup, whose processes are ending.
func remove(t testing.TB, group *kerneltest.Cgroup) {
	t.Helper()
	if err := group.Remove(); err != nil {
		t.Error(err)
	}
}

// loadOnly returns options with one probe on, with these attributes, and room enough.
func loadOnly(probe string, attributes ...string) Options {
	return Options{
		Enabled:     func(spec *Spec) bool { return spec.Name == probe },
		Attributes:  attributes,
		SeriesLimit: scaled(2000, 200),
		MemoryLimit: 64 << 20,
	}
}

// every enables all probes, those that are off by default too.
func every(*Spec) bool { return true }

// load loads the catalogue, all enabled probes of which must run, but for those that this kernel is too old for.
func load(t testing.TB, options Options) *Set {
	t.Helper()
	set := loadSpecs(t, All(), options)
	for i, status := range set.Status() {
		if status.State != Attached && status.State != Disabled && (status.State != Unsupported || set.plan.kernel.Supports(All()[i])) {
			t.Fatalf("%s is %s: %v", status.Probe, status.State, status.Err)
		}
	}
	return set
}

// open is load with the gate open.
func open(t testing.TB, options Options) *Set {
	t.Helper()
	set := load(t, options)
	if err := set.Open(); err != nil {
		t.Fatal(err)
	}
	return set
}

// loadSpecs loads any probes, which need not run.
func loadSpecs(t testing.TB, specs []*Spec, options Options) *Set {
	t.Helper()
	kerneltest.NeedRoot(t)
	kernel, err := RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := NewPlan(specs, options, kernel)
	if err != nil {
		t.Fatal(err)
	}
	set, err := Load(plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	return set
}

// read takes a snapshot and checks what must be so in every one.
func read(t testing.TB, set *Set) *Snapshot {
	t.Helper()
	snapshot, err := set.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range snapshot.Probes {
		for _, missed := range status.Missed {
			if missed.Count != 0 && missed.Reason != MissedUnmatched { // what began before the test may end in it
				t.Errorf("probe %s missed %d events: %s %s", status.Probe, missed.Count, missed.Reason, missed.Program)
			}
		}
	}
	for _, metric := range snapshot.Metrics {
		seen := make(map[*Attributes]bool)
		for _, point := range metric.Points {
			if seen[point.Attributes] {
				t.Errorf("%s has two points %v", metric.Instrument.Name, point.Attributes.List)
			}
			seen[point.Attributes] = true
			if point.Start.After(snapshot.Time) {
				t.Errorf("%s begins at %v, after the snapshot of %v", metric.Instrument.Name, point.Start, snapshot.Time)
			}
			for _, a := range point.Attributes.List {
				if !listed(metric.Instrument, a.Key) {
					t.Errorf("%s has an attribute %s that its instrument does not list", metric.Instrument.Name, a.Key)
				}
				if s, ok := a.Value.(string); ok && !isClean(s) {
					t.Errorf("%s has an attribute %s that is not clean: %q", metric.Instrument.Name, a.Key, s)
				}
			}
		}
	}
	return snapshot
}

// missed is how many events of a probe were missed for a reason.
func missed(t testing.TB, s *Snapshot, probe string, reason MissReason) (count uint64) {
	t.Helper()
	for _, status := range s.Probes {
		for _, m := range status.Missed {
			if status.Probe == probe && m.Reason == reason {
				count += m.Count
			}
		}
	}
	return count
}

// isClean tells whether a string is valid UTF-8 without anything that a terminal would act on.
func isClean(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// points returns a metric's points that a filter lets through; nil lets all through.
func points(t testing.TB, s *Snapshot, name string, filter func(Point) bool) []Point {
	t.Helper()
	for _, metric := range s.Metrics {
		if metric.Instrument.Name != name {
			continue
		}
		var some []Point
		for _, point := range metric.Points {
			if filter == nil || filter(point) {
				some = append(some, point)
			}
		}
		return some
	}
	t.Fatalf("there is no metric %s", name)
	return nil
}

// listed tells whether an instrument's points may carry an attribute: its own, or one of a workload, a victim's culprit's too.
func listed(instrument *Instrument, key string) bool {
	workloads := []string{ContainerID, PodUID, SystemdUnit, LinuxCgroup, overflowAttributes[0].Key}
	return slices.Contains(instrument.Attributes, key) || slices.Contains(workloads, strings.TrimPrefix(key, CulpritPrefix))
}

// in lets the points of a cgroup through. The name is the end of the path: where the test runs in a cgroup namespace, the
// kernel knows more of it.
func in(group *kerneltest.Cgroup) func(Point) bool {
	return func(p Point) bool {
		path, _ := attribute(p, LinuxCgroup).(string)
		return strings.HasSuffix(path, group.Name)
	}
}

func attribute(p Point, key string) any {
	for _, a := range p.Attributes.List {
		if a.Key == key {
			return a.Value
		}
	}
	return nil
}

// by sums a counter's points by one of their attributes.
func by(t testing.TB, s *Snapshot, name, key string, filter func(Point) bool) map[any]uint64 {
	t.Helper()
	sums := make(map[any]uint64)
	for _, p := range points(t, s, name, filter) {
		sums[attribute(p, key)] += p.Value
	}
	return sums
}

// total sums a counter's points.
func total(t testing.TB, s *Snapshot, name string, filter func(Point) bool) uint64 {
	t.Helper()
	var sum uint64
	for _, p := range points(t, s, name, filter) {
		sum += p.Value
	}
	return sum
}

// durations sums a histogram's points: how many, and how long in ns, to the nanosecond as long as the sum is under 2^53.
func durations(t testing.TB, s *Snapshot, name string, filter func(Point) bool) (count, ns uint64) {
	t.Helper()
	for _, p := range points(t, s, name, filter) {
		count += p.Histogram.Count()
		ns += uint64(math.Round(p.Histogram.Sum * 1e9))
	}
	return count, ns
}

// overflow is the value of a counter's overflow series.
func overflow(t testing.TB, s *Snapshot, name string) uint64 {
	t.Helper()
	return total(t, s, name, isOverflow)
}

func isOverflow(p Point) bool { return attribute(p, "otel.metric.overflow") == true }

// equal compares counts with what they must be.
func equal[K comparable](t testing.TB, what string, got, want map[K]uint64) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	keys := maps.Clone(got)
	maps.Copy(keys, want)
	for key := range keys {
		if got[key] != want[key] {
			t.Errorf("%s, %v: %d, want %d", what, key, got[key], want[key])
		}
	}
}

func same(t testing.TB, what string, got, want uint64) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d, want %d", what, got, want)
	}
}

func within(t testing.TB, what string, got, low, high uint64) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s: %d, want %d to %d", what, got, low, high)
	}
}

// fields reads a file of "name value" lines; what is no number is left out.
func fields(t testing.TB, path string) map[string]uint64 {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	values := make(map[string]uint64)
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20) // the intr line of /proc/stat is long
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(words[1], 10, 64); err == nil {
			values[strings.TrimSuffix(words[0], ":")] = n
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return values
}

// executables is a folder of programs that anybody may run, all of them the test binary.
type executables struct{ folder string }

func newExecutables(t testing.TB) executables {
	t.Helper()
	folder, err := os.MkdirTemp("", "sidecar-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(folder, 0o755), os.WriteFile(filepath.Join(folder, "original"), self, 0o755)); err != nil {
		t.Fatal(err)
	}
	return executables{folder}
}

// named returns the path of the program of a name. The kernel's name of a program is that of the link.
func (e executables) named(t testing.TB, name string) string {
	t.Helper()
	path := e.folder + "/" + name
	if err := os.Link(e.folder+"/original", path); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return path
}
