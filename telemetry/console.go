package telemetry

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	goruntime "go.opentelemetry.io/contrib/instrumentation/runtime"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

const (
	maxRows  = 10 // a metric
	maxValue = 40 // characters of an attribute's value
)

// console prints a table of all metrics but those of the Go runtime. It is plain text: no escape sequence leaves it, the
// ones in attributes included.
type console struct {
	w        io.Writer
	previous map[rowKey]reading
	tables   int       // printed so far
	latest   time.Time // of the points of this table
}

type rowKey struct {
	scope  instrumentation.Scope
	metric string
	set    attribute.Distinct
}

// reading is what a rate is counted from.
type reading struct {
	start, time time.Time
	value       float64
	table       int
}

func newConsole(o Console) *console {
	return &console{w: o.Writer, previous: make(map[rowKey]reading)}
}

// table is the rows of one metric.
type table struct {
	self    bool // about the sidecar itself
	name    string
	columns []string
	rows    []row
}

type row struct {
	attributes  string
	rate, total float64 // to sort by
	cells       []string
}

// Export writes one table a metric, all in one write.
func (c *console) Export(rm *metricdata.ResourceMetrics) error {
	c.tables++
	var tables []table
	for _, sm := range rm.ScopeMetrics {
		if sm.Scope.Name == goruntime.ScopeName {
			continue
		}
		for _, m := range sm.Metrics {
			if t := c.table(sm.Scope, m); len(t.rows) > 0 {
				tables = append(tables, t)
			}
		}
	}
	for k, r := range c.previous {
		if r.table != c.tables {
			delete(c.previous, k)
		}
	}
	slices.SortFunc(tables, func(a, b table) int {
		if a.self != b.self {
			return map[bool]int{false: -1, true: 1}[a.self]
		}
		return cmp.Compare(a.name, b.name)
	})
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s\n\n", c.latest.Format(time.DateTime))
	for _, t := range tables {
		t.print(&out)
	}
	_, err := c.w.Write(out.Bytes())
	return err
}

func (c *console) table(scope instrumentation.Scope, m metricdata.Metrics) table {
	t := table{name: m.Name, self: scope.Name == selfScopeName}
	f := formatOf(m.Unit)
	switch a := m.Data.(type) {
	case metricdata.Sum[int64]:
		addSum(c, &t, scope, m.Name, f, a)
	case metricdata.Sum[float64]:
		addSum(c, &t, scope, m.Name, f, a)
	case metricdata.Gauge[int64]:
		addGauge(&t, f, a)
	case metricdata.Gauge[float64]:
		addGauge(&t, f, a)
	case metricdata.ExponentialHistogram[float64]:
		t.columns = histogramColumns
		for i := range a.DataPoints {
			p := &a.DataPoints[i]
			rate := c.rate(rowKey{scope, m.Name, p.Attributes.Equivalent()}, p.StartTime, p.Time, float64(p.Count))
			t.addHistogram(&p.Attributes, p.Count, rate, exponentialQuantile(p), f)
		}
	case metricdata.Histogram[float64]:
		t.columns = histogramColumns
		for i := range a.DataPoints {
			p := &a.DataPoints[i]
			rate := c.rate(rowKey{scope, m.Name, p.Attributes.Equivalent()}, p.StartTime, p.Time, float64(p.Count))
			t.addHistogram(&p.Attributes, p.Count, rate, explicitQuantile(p), f)
		}
	}
	return t
}

var histogramColumns = []string{"count", "rate", "p50", "p90", "p99", "max"}

func addSum[N int64 | float64](c *console, t *table, scope instrumentation.Scope, name string, f format, a metricdata.Sum[N]) {
	if !a.IsMonotonic {
		addGauge(t, f, metricdata.Gauge[N]{DataPoints: a.DataPoints})
		return
	}
	t.columns = []string{"total", "rate"}
	for i := range a.DataPoints {
		p := &a.DataPoints[i]
		v := float64(p.Value)
		rate := c.rate(rowKey{scope, name, p.Attributes.Equivalent()}, p.StartTime, p.Time, v)
		if v == 0 {
			continue // nothing to see
		}
		t.rows = append(t.rows, row{attributesText(&p.Attributes), rate, v, []string{f.value(v), f.rate(rate)}})
	}
}

func addGauge[N int64 | float64](t *table, f format, a metricdata.Gauge[N]) {
	t.columns = []string{"value"}
	for i := range a.DataPoints {
		p := &a.DataPoints[i]
		if p.Value == 0 {
			continue
		}
		t.rows = append(t.rows, row{attributesText(&p.Attributes), 0, float64(p.Value), []string{f.value(float64(p.Value))}})
	}
}

func (t *table) addHistogram(set *attribute.Set, count uint64, rate float64, quantile func(uint64) float64, f format) {
	cells := []string{strconv.FormatUint(count, 10), perSecond(rate)}
	for _, percent := range []uint64{50, 90, 99, 100} {
		// The rank of the value that so many percent of all do not exceed. count/100 keeps it from overflowing.
		rank := count/100*percent + (count%100*percent+99)/100
		if count == 0 {
			cells = append(cells, "-")
			continue
		}
		cells = append(cells, f.value(quantile(rank)))
	}
	t.rows = append(t.rows, row{attributesText(set), rate, float64(count), cells})
}

// rate returns how fast a value grows, a second: since the last table, or in its first table since the series' start.
func (c *console) rate(key rowKey, start, now time.Time, value float64) float64 {
	if now.After(c.latest) {
		c.latest = now
	}
	last, ok := c.previous[key]
	c.previous[key] = reading{start, now, value, c.tables}
	if !ok || !last.start.Equal(start) {
		last.time, last.value = start, 0
	}
	if seconds := now.Sub(last.time).Seconds(); seconds > 0 {
		return (value - last.value) / seconds
	}
	return 0
}

// exponentialQuantile returns the function from the rank of a value to the upper bound of its bucket.
func exponentialQuantile(p *metricdata.ExponentialHistogramDataPoint[float64]) func(uint64) float64 {
	return func(rank uint64) float64 {
		sum := p.ZeroCount
		if rank <= sum {
			return 0
		}
		for i, n := range p.PositiveBucket.Counts {
			if sum += n; sum >= rank {
				return math.Exp2(float64(int(p.PositiveBucket.Offset)+i+1) * math.Exp2(-float64(p.Scale)))
			}
		}
		return math.Inf(1)
	}
}

func explicitQuantile(p *metricdata.HistogramDataPoint[float64]) func(uint64) float64 {
	return func(rank uint64) float64 {
		var sum uint64
		for i, n := range p.BucketCounts {
			if sum += n; sum >= rank && i < len(p.Bounds) {
				return p.Bounds[i]
			}
		}
		return math.Inf(1)
	}
}

func (t *table) print(out *bytes.Buffer) {
	slices.SortFunc(t.rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(b.rate, a.rate), cmp.Compare(b.total, a.total), cmp.Compare(a.attributes, b.attributes))
	})
	rest := len(t.rows) - maxRows
	lines := [][]string{append([]string{printable(t.name)}, t.columns...)}
	for _, r := range t.rows[:min(maxRows, len(t.rows))] {
		lines = append(lines, append([]string{"  " + r.attributes}, r.cells...))
	}
	widths := make([]int, 1+len(t.columns))
	for _, l := range lines {
		for i, cell := range l {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, l := range lines {
		pad(out, l[0], widths[0], false)
		for i, cell := range l[1:] {
			out.WriteString("  ")
			pad(out, cell, max(widths[i+1], 8), true)
		}
		out.WriteByte('\n')
	}
	if rest > 0 {
		fmt.Fprintf(out, "  … and %d more\n", rest)
	}
	out.WriteByte('\n')
}

func pad(out *bytes.Buffer, s string, width int, right bool) {
	space := strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
	if right {
		out.WriteString(space + s)
	} else {
		out.WriteString(s + space)
	}
}

func attributesText(set *attribute.Set) string {
	if set.Len() == 0 {
		return "(all)"
	}
	var b strings.Builder
	for it := set.Iter(); it.Next(); {
		kv := it.Attribute()
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(printable(string(kv.Key)))
		b.WriteByte('=')
		b.WriteString(printable(kv.Value.String()))
	}
	return b.String()
}

// printable returns s, cut if it is long, and quoted if a terminal or a reader could take it for something else.
func printable(s string) string {
	n := 0
	for i := range s {
		if n++; n > maxValue {
			s = s[:i] + "…"
			break
		}
	}
	for _, r := range s {
		if r == ' ' || r == '=' || r == '"' || r == '\\' || r == utf8.RuneError || !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	if s == "" {
		return `""`
	}
	return s
}

// format is how the values of a unit are written, and how fast they grow.
type format struct{ value, rate func(float64) string }

func formatOf(unit string) format {
	switch unit {
	case "s":
		return format{seconds, perSecond}
	case "By":
		return format{bytesText, func(v float64) string { return bytesText(v) + "/s" }}
	default:
		return format{plain, perSecond}
	}
}

func perSecond(v float64) string { return scaled(v, 1000, []string{"", "k", "M", "G"}) + "/s" }

func bytesText(v float64) string {
	return scaled(v, 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"})
}

// plain writes whole numbers whole: totals are there to be compared.
func plain(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func seconds(v float64) string {
	switch {
	case v == 0 || math.IsInf(v, 0):
		return strings.TrimPrefix(plain(v), "+")
	case v >= 3600:
		return strconv.FormatFloat(v/3600, 'f', 1, 64) + "h"
	case v >= 60:
		return strconv.FormatFloat(v/60, 'f', 1, 64) + "m"
	}
	return scaled(v*1e9, 1000, []string{"ns", "µs", "ms", "s"})
}

// scaled writes v with three digits and the largest unit that is not larger than v.
func scaled(v, step float64, units []string) string {
	i := 0
	for math.Abs(v) >= step && i < len(units)-1 {
		v /= step
		i++
	}
	return digits(v) + units[i]
}

// digits writes v with at most three digits that count, and never with an exponent.
func digits(v float64) string {
	decimals := 0
	switch a := math.Abs(v); {
	case a == 0 || a >= 100:
	case a >= 10:
		decimals = 1
	default:
		decimals = 2
	}
	s := strconv.FormatFloat(v, 'f', decimals, 64)
	if decimals > 0 {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}
