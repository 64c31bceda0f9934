package probes

// Kind says how an instrument's values are read and exported.
type Kind int

const (
	// Counter is a monotonic sum. One whose unit is in braces counts events.
	Counter Kind = iota
	// Histogram is an exponential histogram of durations in seconds.
	Histogram
)

// Instrument describes one exported metric. It is data: the exporter, the documentation and the configuration are all
// made from it.
type Instrument struct {
	Name        string // a semantic-conventions name, else linux.<subsystem>.<noun>
	Unit        string // UCUM
	Description string
	Kind        Kind
	OptIn       bool // off unless configured otherwise
	// Switch is the constant in the BPF file that is true if the instrument is on, where it has one of its own besides its
	// table's.
	Switch string
	// Attributes lists the keys that the points may carry, for documentation; workload attributes are implied by
	// the table's key.
	Attributes []string
	// Values says where in a cell the instrument's values lie: for a counter, each with the attributes that tell
	// it from the others; for a histogram, exactly one.
	Values []Value
	// Range is a histogram's layout.
	Range Range
}

// Value is one 64-bit counter, or the start of one histogram, inside a cell.
type Value struct {
	Offset     uintptr // bytes from the start of the cell
	Attributes []Attribute
}

// Range is the layout of a histogram in a cell: the sum in nanoseconds, the count of zeros, then one counter a bucket.
// Bucket i counts durations in (2^(Min+i/2^Scale), 2^(Min+(i+1)/2^Scale)] seconds; the first and last buckets also take
// what lies below and above.
type Range struct {
	Scale    int // buckets per power of two are 2^Scale
	Min, Max int // exponents of two, in seconds
}

// Buckets is the number of buckets in the range.
func (r Range) Buckets() int { return (r.Max - r.Min) << r.Scale }

// Attribute is one key and its value: a string, an int64 or a bool.
type Attribute struct {
	Key   string
	Value any
}
