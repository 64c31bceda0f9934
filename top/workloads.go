package top

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"charm.land/bubbles/v2/key"

	"github.com/ebpf-sidecar/sidecar/readings"
)

// workloads is a line a workload with all metrics.
type workloads struct {
	cursor
	metric string // the name of the one that it is sorted by; the first one, unless that was changed
	totals bool   // since the start, instead of now
}

func (*workloads) name() string { return "Workloads" }

func (*workloads) keys() []key.Binding { return []key.Binding{moveKey, sortKey, totalsKey, openKey} }

// workloadRow is one with its metrics, nil where it has none.
type workloadRow struct {
	workload
	sums []*sum
}

// rows are the workloads in their order, and the selected metrics that they have.
func (w *workloads) rows(d *data, selected selection) (rows []*workloadRow, metrics []*readings.Metric) {
	byWorkload := d.byWorkload()
	for _, m := range d.metrics(selected) {
		if byWorkload[m.Metric] || len(byWorkload) == 0 {
			metrics = append(metrics, m.Metric)
		}
	}
	by := w.column(metrics)
	found := make(map[workload]*workloadRow)
	for i := range d.frame.Readings {
		r := &d.frame.Readings[i]
		column := slices.Index(metrics, r.Metric)
		if column < 0 {
			continue
		}
		who := workloadOf(r.Series)
		row := found[who]
		if row == nil {
			row = &workloadRow{who, make([]*sum, len(metrics))}
			found[who] = row
			rows = append(rows, row)
		}
		if row.sums[column] == nil {
			row.sums[column] = new(sum)
		}
		row.sums[column].add(r)
	}
	slices.SortFunc(rows, func(a, b *workloadRow) int {
		return cmp.Or(cmp.Compare(w.value(b.sums[by]), w.value(a.sums[by])),
			cmp.Compare(a.name(), b.name()), cmp.Compare(a.key(), b.key()))
	})
	return rows, metrics
}

// column is that of the metric that it is sorted by. Metrics that come later move it.
func (w *workloads) column(metrics []*readings.Metric) int {
	return max(0, slices.IndexFunc(metrics, func(m *readings.Metric) bool { return m.Name == w.metric }))
}

// visible are the rows that the filter lets through, of all metrics.
func (w *workloads) visible(d *data) ([]*workloadRow, []*readings.Metric) {
	rows, metrics := w.rows(d, everything)
	return slices.DeleteFunc(rows, func(row *workloadRow) bool { return !d.matches(row.text()) }), metrics
}

func (w *workloads) settle(rows []*workloadRow) int {
	return w.cursor.settle(len(rows), func(i int) string { return rows[i].key() })
}

// value is what a cell shows, as a number.
func (w *workloads) value(s *sum) float64 {
	if s == nil {
		return math.Inf(-1)
	}
	v := s.added
	if w.totals {
		v = s.total
	}
	if s.Kind == readings.Distribution {
		return quantile(v, 0.99) // of none it is NaN, which is less than all
	}
	return v.Number
}

func (w *workloads) press(key string, d *data) page {
	switch key {
	case "left", "h", "right", "l":
		step := 1
		if key == "left" || key == "h" {
			step = -1
		}
		if _, metrics := w.visible(d); len(metrics) > 0 {
			w.metric = metrics[max(0, min(w.column(metrics)+step, len(metrics)-1))].Name
		}
	case "t":
		w.totals = !w.totals
	case "enter":
		rows, _ := w.visible(d)
		if i := w.settle(rows); i >= 0 {
			return &detail{who: rows[i].workload}
		}
	}
	w.cursor.press(key)
	return nil
}

func (w *workloads) draw(d *data, width, height int) []string {
	rows, metrics := w.visible(d)
	what := "rates now, and the p99 of durations"
	if w.totals {
		what = "totals since the start, and the p99 of durations"
	}
	lines := []string{d.dim.Render(fmt.Sprintf("Workloads: %d. Shown: %s.", len(rows), what))}
	if len(rows) == 0 {
		return append(lines, d.nothing("workload"))
	}
	t := w.table(d, rows, metrics)
	t.marked, t.selected = w.column(metrics)+1, w.settle(rows)
	return append(lines, t.lines(width, height-1, d.style)...)
}

// table has the metrics as columns.
func (w *workloads) table(d *data, rows []*workloadRow, metrics []*readings.Metric) *table {
	t := &table{header: [][]string{{""}, {"WORKLOAD"}}, selected: -1}
	for _, m := range metrics {
		name := shortName(m)
		dot := strings.LastIndexByte(name, '.')
		t.header[0] = append(t.header[0], name[:max(0, dot)])
		t.header[1] = append(t.header[1], name[dot+1:])
	}
	for _, row := range rows {
		cells := []string{row.name()}
		for _, s := range row.sums {
			cells = append(cells, w.cell(d, s))
		}
		t.rows = append(t.rows, cells)
	}
	return t
}

func (w *workloads) cell(d *data, s *sum) string {
	switch {
	case s == nil:
		return ""
	case s.Kind == readings.Distribution:
		return readings.Format(s.Unit, w.value(s))
	case w.totals:
		return d.total(s)
	}
	return d.rate(s)
}

// detail is all series of one workload.
type detail struct {
	cursor
	who workload
}

func (*detail) name() string { return "Workloads" }

func (*detail) keys() []key.Binding { return []key.Binding{moveKey, shapeKey, backKey} }

// rows are the workload's series by metric, the busiest first.
func (w *detail) rows(d *data) (rows []*readings.Reading) {
	for i := range d.frame.Readings {
		r := &d.frame.Readings[i]
		if probeOf(r.Metric) != "" && workloadOf(r.Series) == w.who && d.matches(r.Name+" "+readings.Label(others(r.Series))) {
			rows = append(rows, r)
		}
	}
	slices.SortStableFunc(rows, func(a, b *readings.Reading) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Name, b.Name),
			cmp.Compare(b.Added.Number, a.Added.Number), cmp.Compare(b.Total.Number, a.Total.Number))
	})
	return rows
}

func (w *detail) settle(rows []*readings.Reading) int {
	return w.cursor.settle(len(rows), func(i int) string { return rows[i].Name + " " + readings.Label(others(rows[i].Series)) })
}

func (w *detail) press(key string, d *data) page {
	if key == "enter" {
		rows := w.rows(d)
		if i := w.settle(rows); i >= 0 && rows[i].Kind == readings.Distribution {
			return &distributions{metric: rows[i].Name, who: &w.who}
		}
	}
	w.cursor.press(key)
	return nil
}

func (w *detail) draw(d *data, width, height int) []string {
	lines := []string{d.bold.Render(w.who.name())}
	for _, line := range w.who.describe() {
		lines = append(lines, d.dim.Render(line))
	}
	lines = append(lines, "")
	rows := w.rows(d)
	if len(rows) == 0 {
		return append(lines, d.nothing("series"))
	}
	sparkWidth := max(8, min(maxFrames, width-80))
	t := table{header: [][]string{{"SERIES", "METRIC", "TOTAL", "RATE", "p50", "p99", ""}}, left: map[int]bool{1: true}, selected: w.settle(rows), curve: 6}
	shown := make(map[*readings.Series]bool, len(rows))
	for _, r := range rows {
		shown[r.Series] = true
	}
	curve := curves(d.past, sparkWidth, func(s *readings.Series) (*readings.Series, bool) { return s, shown[s] })
	for _, r := range rows {
		s := new(sum)
		s.add(r)
		t.rows = append(t.rows, []string{values(others(r.Series)), shortName(r.Metric), d.total(s), d.rate(s),
			s.quantile(0.5), s.quantile(0.99), spark(curve(r.Series), sparkWidth)})
	}
	return append(lines, t.lines(width, height-len(lines), d.style)...)
}

// values writes attributes without their keys, which the metric tells well enough.
func values(attributes []readings.Attribute) string {
	if len(attributes) == 0 {
		return "(all)"
	}
	var list []string
	for _, a := range attributes {
		list = append(list, readings.Printable(a.Value))
	}
	return strings.Join(list, " ")
}
