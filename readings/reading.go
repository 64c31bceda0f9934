package readings

import "time"

// Kind is how the values of a metric behave.
type Kind int

// The kinds.
const (
	Counter      Kind = iota // cumulative, never falls
	Level                    // goes up and down
	Distribution             // cumulative, by bucket
)

// Metric is what is measured. Scope and Name identify it.
type Metric struct {
	Scope string // the name of the instrumentation
	Name  string
	Unit  string // UCUM
	Kind  Kind
}

// Attribute is one of a series.
type Attribute struct{ Key, Value string }

// Series is one set of attributes of a metric: the same pointer for as long as it is known. It does not change.
type Series struct {
	*Metric
	Attributes []Attribute // by key
}

// Attribute returns the value of a key, or nothing.
func (s *Series) Attribute(key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value
		}
	}
	return ""
}

// Point is the value of a series since its start.
type Point struct {
	Attributes []Attribute // by key
	Start      time.Time
	Value
}

// Value is a number, or a distribution.
type Value struct {
	Number    float64    // the count, of a distribution
	Histogram *Histogram // of a distribution
}

// Add adds what other has, and keeps nothing of it.
func (v *Value) Add(other Value) {
	v.Number += other.Number
	if other.Histogram != nil {
		if v.Histogram == nil {
			v.Histogram = new(Histogram)
		}
		v.Histogram.Add(other.Histogram)
	}
}

// less is what v has more than other, which was before.
func (v Value) less(other Value) Value {
	v.Number -= other.Number
	if v.Histogram != nil && other.Histogram != nil {
		v.Histogram = v.Histogram.Less(other.Histogram)
	}
	return v
}

// Reading is a series with its value, and what was added to that since the frame before or its start.
type Reading struct {
	*Series
	Total, Added Value // of a Level, Added is nothing
}

// Frame is all series at one time. It does not change.
type Frame struct {
	Time     time.Time
	Length   time.Duration // since the frame before, or since the counting began
	Readings []Reading     // by scope, metric and attributes
}

// Rate is how much was added a second.
func (f *Frame) Rate(r *Reading) float64 { return PerSecond(r.Added.Number, f.Length) }

// PerSecond is n in so much time, a second; 0 if that is nothing.
func PerSecond(n float64, time time.Duration) float64 {
	if time <= 0 {
		return 0
	}
	return n / time.Seconds()
}
