package top

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"charm.land/bubbles/v2/key"

	"github.com/ebpf-sidecar/sidecar/readings"
)

// distributions is the shape of one metric's values over the last minutes, and how it moved.
type distributions struct {
	metric string    // its name
	who    *workload // nil for all
}

func (*distributions) name() string { return "Distributions" }

func (*distributions) keys() []key.Binding { return []key.Binding{metricKey, workloadKey} }

// choices are the metrics that are distributions, and the workloads that have the chosen one, the busiest first.
func (v *distributions) choices(d *data) (metrics []*readings.Metric, who []workload) {
	for _, m := range d.metrics(everything) {
		if m.Kind == readings.Distribution {
			metrics = append(metrics, m.Metric)
		}
	}
	if len(metrics) == 0 {
		return nil, nil
	}
	if v.index(metrics) < 0 {
		v.metric = metrics[0].Name
	}
	counts := make(map[workload]float64)
	for i := range d.frame.Readings {
		if r := &d.frame.Readings[i]; r.Name == v.metric {
			counts[workloadOf(r.Series)] += r.Total.Number
		}
	}
	for w := range counts {
		if d.matches(w.text()) {
			who = append(who, w)
		}
	}
	slices.SortFunc(who, func(a, b workload) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a.key(), b.key()))
	})
	return metrics, who
}

func (v *distributions) index(metrics []*readings.Metric) int {
	return slices.IndexFunc(metrics, func(m *readings.Metric) bool { return m.Name == v.metric })
}

func (v *distributions) press(key string, d *data) page {
	metrics, who := v.choices(d)
	if len(metrics) == 0 {
		return nil
	}
	if step := map[string]int{"left": -1, "h": -1, "right": 1, "l": 1}[key]; step != 0 {
		v.metric = metrics[(v.index(metrics)+step+len(metrics))%len(metrics)].Name
	}
	if step := map[string]int{"up": -1, "k": -1, "down": 1, "j": 1}[key]; step != 0 {
		at := 0 // all of them
		if v.who != nil {
			at = 1 + slices.Index(who, *v.who)
		}
		v.who = nil
		if at = (at + step + len(who) + 1) % (len(who) + 1); at > 0 {
			v.who = &who[at-1]
		}
	}
	return nil
}

const (
	labelWidth = 7
	markWidth  = 6 // a quantile's name, and a space
)

func (v *distributions) draw(d *data, width, height int) []string {
	metrics, _ := v.choices(d)
	if len(metrics) == 0 {
		return []string{d.nothing("distribution")}
	}
	metric := metrics[v.index(metrics)]
	whose := "all workloads"
	if v.who != nil {
		whose = v.who.name()
	}
	lines := []string{d.bold.Render(shortName(metric)) + "  " + d.accent.Render(whose)}
	selected := func(s *readings.Series) bool {
		return s.Metric == metric && (v.who == nil || workloadOf(s) == *v.who)
	}
	all := distribution(d.past, selected)
	if all.Count() == 0 {
		return append(lines, d.dim.Render("No value "+within(d.past)+"."))
	}
	summary := ""
	for _, q := range readings.Quantiles {
		summary += fmt.Sprintf("%s %s  ", readings.QuantileName(q), readings.Format(metric.Unit, all.Quantile(q)))
	}
	lines = append(lines, summary+d.dim.Render(fmt.Sprintf("of %d %s", all.Count(), within(d.past))), "")
	bars := max(8, width/8)
	m := newHeatMap(d.past, selected, all, max(1, width-labelWidth-bars-markWidth-2), max(1, height-len(lines)-1))
	return append(lines, m.lines(d.style, metric.Unit, bars)...)
}

// within says how long the frames are together.
func within(frames []past) string {
	return "in the last " + lengthOf(frames).Round(time.Second).String()
}

func lengthOf(frames []past) (length time.Duration) {
	for _, p := range frames {
		length += p.length
	}
	return length
}

// heatMap is how many values there were, by time and by band: the bucket that holds them, at a scale that makes the bands few
// enough.
type heatMap struct {
	all     *readings.Histogram
	columns []heatColumn
	width   int
}

type heatColumn struct {
	*readings.Histogram
	length time.Duration
}

// newHeatMap makes one of so many columns and rows at most. A column is one frame or several, always the same ones.
func newHeatMap(frames []past, selected selection, all *readings.Histogram, width, height int) *heatMap {
	for len(all.Counts)+1 > height && all.Scale > -10 { // and one for zeros
		all.Coarsen(all.Scale - 1)
	}
	m := &heatMap{all: all, width: width}
	each := uint64(1 + len(frames)/width)
	for i := 0; i < len(frames); {
		end := i + 1
		for end < len(frames) && frames[end].number/each == frames[i].number/each {
			end++
		}
		h := distribution(frames[i:end], selected)
		if h.Scale > all.Scale {
			h.Coarsen(all.Scale)
		}
		m.columns = append(m.columns, heatColumn{h, lengthOf(frames[i:end])})
		i = end
	}
	m.columns = m.columns[max(0, len(m.columns)-width):]
	return m
}

// lines draws the bands, the slowest at the top, with bars for all columns together, and the time below.
func (m *heatMap) lines(s style, unit string, bars int) []string {
	hottest := 0.0
	for _, c := range m.columns {
		for _, n := range append(c.Counts, c.Zero) {
			hottest = max(hottest, readings.PerSecond(float64(n), c.length))
		}
	}
	most := m.all.Zero
	for _, n := range m.all.Counts {
		most = max(most, n)
	}
	var lines []string
	draw := func(label string, count func(*readings.Histogram) uint64, holds func(float64) bool) {
		row := strings.Repeat(" ", m.width-len(m.columns))
		for _, c := range m.columns {
			// The logarithm, so that what is rare can be seen beside what is not.
			heat := math.Log1p(readings.PerSecond(float64(count(c.Histogram)), c.length)) / math.Log1p(hottest)
			row += s.cell(min(1, heat))
		}
		marks := ""
		for _, q := range readings.Quantiles {
			if holds(m.all.Quantile(q)) {
				marks = " " + readings.QuantileName(q) // the highest
			}
		}
		part := float64(count(m.all)) / float64(most)
		lines = append(lines, pad(label, labelWidth, false)+" "+row+" "+bar(part, bars)+s.accent.Render(marks))
	}
	for i := len(m.all.Counts) - 1; i >= 0; i-- {
		index := m.all.Offset + int32(i)
		bound := readings.Bound(m.all.Scale, index)
		draw(readings.Format(unit, bound), func(h *readings.Histogram) uint64 { return h.In(index) },
			func(v float64) bool { return v == bound })
	}
	if m.all.Zero > 0 {
		draw("0", func(h *readings.Histogram) uint64 { return h.Zero }, func(v float64) bool { return v == 0 })
	}
	ago := time.Duration(0)
	for _, c := range m.columns {
		ago += c.length
	}
	axis := pad("-"+ago.Round(time.Second).String(), len(m.columns), true)
	if len(m.columns) > 12 {
		axis = axis[:len(axis)-3] + "now"
	}
	return append(lines, s.dim.Render(strings.Repeat(" ", labelWidth+1+m.width-len(m.columns))+axis))
}
