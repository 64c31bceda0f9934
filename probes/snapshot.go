package probes

import "time"

// Snapshot is one reading of every series. The programs count on meanwhile, so that two metrics may differ by the events of
// that time. It stays valid until the next call of Set.Snapshot, which reuses its memory.
type Snapshot struct {
	Time    time.Time
	Metrics []Metric // one for each enabled instrument of each attached probe, in catalogue order
	Probes  []Status // one for each probe of the catalogue
	Tables  []TableStatus

	generation uint64
}

// Metric is an instrument with the points it has now.
type Metric struct {
	Probe      string // the probe's name
	Scope      Scope
	Instrument *Instrument
	// Points are the series that have counted something. The overflow series is the last: the OpenTelemetry SDK takes
	// whatever is observed after its attributes for overflow too.
	Points []Point
}

// Scope names the instrumentation that a metric comes from. It is part of a series' identity downstream, so the version
// is that of the metrics' meaning and changes with it, not with the build.
type Scope struct {
	Name    string
	Version string
}

// Point is the value of one series since its start. Values are cumulative and never fall while Start is the same.
type Point struct {
	// Attributes identifies the series within its instrument: the same pointer for as long as the series is known,
	// so that it can be the key of a cache.
	Attributes *Attributes
	Start      time.Time
	Value      uint64        // of a counter
	Histogram  HistogramData // of a histogram
}

// Attributes is an immutable attribute set.
type Attributes struct{ List []Attribute }

// HistogramData is an exponential histogram over seconds.
type HistogramData struct {
	Scale     int32
	ZeroCount uint64
	Sum       float64  // seconds
	Offset    int32    // OTel index of Counts[0]
	Counts    []uint64 // without leading and trailing zeros
}

// Count is the number of recorded durations.
func (h HistogramData) Count() uint64 {
	n := h.ZeroCount
	for _, c := range h.Counts {
		n += c
	}
	return n
}

// State is what became of a probe.
type State string

// The states of a probe.
const (
	Attached    State = "attached"
	Disabled    State = "disabled"    // by configuration
	Unsupported State = "unsupported" // by this kernel
	Failed      State = "failed"
)

// Status is the health of one probe.
type Status struct {
	Probe  string
	State  State
	Err    error  // why it is unsupported or failed, with what to do
	Events uint64 // events counted since the start
	Missed []Missed
	// CPUTime is what the probe's programs took while the kernel measured it (MeasureRunTime).
	CPUTime time.Duration
}

// Missed counts events that a probe could not handle as it should, since the start.
type Missed struct {
	Reason  MissReason
	Program string // that was skipped, where the reason is Recursion
	Count   uint64
}

// MissReason says why events were missed.
type MissReason string

// The reasons, as exported in sidecar.probe.missed.
const (
	// MissedRecursion: the kernel skipped a program that was already running on that CPU, and with it the event. Told by
	// kernels from 6.1. From 7.0 programs of tracepoints can be preempted, and then another task's event is skipped.
	MissedRecursion MissReason = "recursion"
	// MissedUpdate: a map update failed; the event is in the overflow series.
	MissedUpdate MissReason = "update"
	// MissedStorage: a task's storage was busy or could not be allocated, at its creation or at an event, which then is
	// in no series.
	MissedStorage MissReason = "storage"
	// MissedUnmatched: what ended had no known beginning, such as what began before the probe did; how long it took is in no
	// series.
	MissedUnmatched MissReason = "unmatched"
)

// TableStatus tells how full the memory of a group of instruments is.
type TableStatus struct {
	Probe    string
	Table    string
	Series   int    // in use, the overflow series not included
	Limit    int    // series that fit
	Overflow uint64 // events counted in the overflow series since the start
}
