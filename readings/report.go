package readings

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Writer writes frames to something that is not a screen. No escape sequence leaves it, the ones in attributes included.
type Writer interface {
	Write(*Frame) error
}

// NewText returns a Writer of tables, one a metric with its busiest series, for the eye.
func NewText(w io.Writer) Writer { return textWriter{w} }

// NewJSON returns a Writer of JSON objects, one a frame and line.
func NewJSON(w io.Writer) Writer { return jsonWriter{json.NewEncoder(w)} }

// NewCSV returns a Writer of CSV, a row a series and frame below one header.
func NewCSV(w io.Writer) Writer { return &csvWriter{w: csv.NewWriter(w)} }

// Quantiles are those that are written of a distribution.
var Quantiles = []float64{0.5, 0.9, 0.99, 0.999}

// quantileNames are p50 and so on.
var quantileNames = func() (names []string) {
	for _, q := range Quantiles {
		names = append(names, QuantileName(q))
	}
	return names
}()

// QuantileName writes 0.99 as p99.
func QuantileName(q float64) string { return "p" + strconv.FormatFloat(q*100, 'f', -1, 64) }

// maxRows is how many series of a metric the text has.
const maxRows = 10

type textWriter struct{ w io.Writer }

// Write writes one table a metric, those of the sidecar itself last and those of the Go runtime not at all, in one write.
func (t textWriter) Write(f *Frame) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s\n\n", f.Time.Format(time.DateTime))
	metrics := slices.Collect(f.Metrics())
	slices.SortStableFunc(metrics, func(a, b []Reading) int {
		return cmp.Or(cmp.Compare(order(a[0].Scope), order(b[0].Scope)), cmp.Compare(a[0].Name, b[0].Name))
	})
	for _, readings := range metrics {
		if order(readings[0].Scope) != ofRuntime {
			f.writeTable(&out, readings)
		}
	}
	_, err := t.w.Write(out.Bytes())
	return err
}

// Metrics are the readings of each metric.
func (f *Frame) Metrics() func(yield func([]Reading) bool) {
	return func(yield func([]Reading) bool) {
		for rest := f.Readings; len(rest) > 0; {
			end := slices.IndexFunc(rest, func(r Reading) bool { return r.Metric != rest[0].Metric })
			if end < 0 {
				end = len(rest)
			}
			if !yield(rest[:end]) {
				return
			}
			rest = rest[end:]
		}
	}
}

// What a scope measures.
const (
	ofKernel = iota
	ofSidecar
	ofRuntime
)

func order(scope string) int {
	switch {
	case strings.Contains(scope, "/contrib/instrumentation/"):
		return ofRuntime
	case strings.HasSuffix(scope, "/telemetry"):
		return ofSidecar
	}
	return ofKernel
}

// writeTable writes the busiest series of a metric. Levels and counters of 0 are left out.
func (f *Frame) writeTable(out *bytes.Buffer, readings []Reading) {
	metric := readings[0].Metric
	readings = slices.DeleteFunc(slices.Clone(readings), func(r Reading) bool { return r.Kind != Distribution && r.Total.Number == 0 })
	if len(readings) == 0 {
		return
	}
	slices.SortStableFunc(readings, func(a, b Reading) int {
		return cmp.Or(cmp.Compare(b.Added.Number, a.Added.Number), cmp.Compare(b.Total.Number, a.Total.Number))
	})
	header := map[Kind][]string{
		Counter:      {"total", "rate"},
		Level:        {"value"},
		Distribution: append([]string{"count", "rate"}, quantileNames...),
	}
	lines := [][]string{append([]string{Printable(metric.Name)}, header[metric.Kind]...)}
	for _, r := range readings[:min(maxRows, len(readings))] {
		lines = append(lines, append([]string{"  " + Label(r.Attributes)}, f.cells(&r)...))
	}
	writeAligned(out, lines)
	if rest := len(readings) - maxRows; rest > 0 {
		fmt.Fprintf(out, "  … and %d more\n", rest)
	}
	out.WriteByte('\n')
}

func (f *Frame) cells(r *Reading) []string {
	rate := FormatRate(r.Unit, f.Rate(r))
	switch r.Kind {
	case Counter:
		return []string{Format(r.Unit, r.Total.Number), rate}
	case Level:
		return []string{Format(r.Unit, r.Total.Number)}
	}
	cells := []string{plain(r.Total.Number), FormatRate("", f.Rate(r))}
	for _, q := range Quantiles {
		cells = append(cells, Format(r.Unit, r.Total.Histogram.Quantile(q)))
	}
	return cells
}

// Label writes attributes in one line.
func Label(attributes []Attribute) string {
	if len(attributes) == 0 {
		return "(all)"
	}
	var pairs []string
	for _, a := range attributes {
		pairs = append(pairs, Printable(a.Key)+"="+Printable(a.Value))
	}
	return strings.Join(pairs, " ")
}

// writeAligned writes lines of as many cells each, all but the first to the right.
func writeAligned(out *bytes.Buffer, lines [][]string) {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, line := range lines {
		fmt.Fprintf(out, "%-*s", widths[0], line[0])
		for i, cell := range line[1:] {
			fmt.Fprintf(out, "  %*s", max(widths[i+1], 8), cell)
		}
		out.WriteByte('\n')
	}
}

type jsonWriter struct{ encoder *json.Encoder }

// jsonFrame is a line of the JSON output.
type jsonFrame struct {
	Time    time.Time    `json:"time"`
	Seconds float64      `json:"seconds"` // that the rates are of
	Series  []jsonSeries `json:"series"`
}

type jsonSeries struct {
	Scope      string             `json:"scope"`
	Metric     string             `json:"metric"`
	Unit       string             `json:"unit"`
	Attributes map[string]string  `json:"attributes"`
	Total      float64            `json:"total"`               // of a distribution the count
	Rate       *float64           `json:"rate,omitempty"`      // a second; of what only grows
	Sum        *float64           `json:"sum,omitempty"`       // in the unit; of a distribution
	Quantiles  map[string]float64 `json:"quantiles,omitempty"` // in the unit, the upper bounds of their buckets
}

func (j jsonWriter) Write(f *Frame) error {
	frame := jsonFrame{Time: f.Time, Seconds: f.Length.Seconds(), Series: make([]jsonSeries, 0, len(f.Readings))}
	for i := range f.Readings {
		r := &f.Readings[i]
		s := jsonSeries{Scope: r.Scope, Metric: r.Name, Unit: r.Unit, Attributes: make(map[string]string, len(r.Attributes)), Total: r.Total.Number}
		for _, a := range r.Attributes {
			s.Attributes[a.Key] = a.Value
		}
		if r.Kind != Level {
			rate := f.Rate(r)
			s.Rate = &rate
		}
		if h := r.Total.Histogram; h != nil {
			s.Sum, s.Quantiles = &h.Sum, make(map[string]float64)
			for i, q := range Quantiles {
				if v := h.Quantile(q); !math.IsNaN(v) && !math.IsInf(v, 0) { // which JSON has no number for
					s.Quantiles[quantileNames[i]] = v
				}
			}
		}
		frame.Series = append(frame.Series, s)
	}
	return j.encoder.Encode(frame)
}

type csvWriter struct {
	w      *csv.Writer
	headed bool
}

// Write writes a row a series. The attributes are a JSON object, so that no value of theirs can be taken for two.
func (c *csvWriter) Write(f *Frame) error {
	if !c.headed {
		c.headed = true
		_ = c.w.Write(append([]string{"time", "scope", "metric", "unit", "attributes", "total", "rate", "sum"}, quantileNames...))
	}
	for i := range f.Readings {
		r := &f.Readings[i]
		attributes := make(map[string]string, len(r.Attributes))
		for _, a := range r.Attributes {
			attributes[a.Key] = a.Value
		}
		object, err := json.Marshal(attributes)
		if err != nil {
			return err
		}
		row := []string{f.Time.Format(time.RFC3339Nano), r.Scope, r.Name, r.Unit, string(object), decimal(r.Total.Number), "", ""}
		if r.Kind != Level {
			row[6] = decimal(f.Rate(r))
		}
		for _, q := range Quantiles {
			cell := ""
			if h := r.Total.Histogram; h != nil && h.Count() > 0 {
				row[7] = decimal(h.Sum)
				cell = decimal(h.Quantile(q))
			}
			row = append(row, cell)
		}
		_ = c.w.Write(row)
	}
	c.w.Flush()
	return c.w.Error() // of any write before
}

func decimal(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
