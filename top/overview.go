package top

import (
	"charm.land/bubbles/v2/key"

	"github.com/ebpf-sidecar/sidecar/readings"
)

// overview is a line a probe, and below the metrics of the selected one, and its busiest workloads.
type overview struct{ cursor }

func (*overview) name() string { return "Overview" }

func (*overview) keys() []key.Binding { return []key.Binding{moveKey} }

func (o *overview) press(key string, _ *data) page {
	o.cursor.press(key)
	return nil
}

func (o *overview) draw(d *data, width, height int) []string {
	probes, _ := d.sidecar()
	selected := o.settle(len(probes), func(i int) string { return probes[i].name })
	sparkWidth := max(8, min(maxFrames, width-72))
	t := table{header: [][]string{{"PROBE", "EVENTS", "RATE", "", "AN EVENT", "CPU"}}, selected: selected, curve: 3}
	curve := curves(d.past, sparkWidth, func(s *readings.Series) (string, bool) {
		return readings.Printable(s.Attribute("sidecar.probe.name")), s.Name == "sidecar.probe.events"
	})
	for _, p := range probes {
		t.rows = append(t.rows, []string{p.title(), readings.Format("", p.events), readings.FormatRate("", p.rate),
			spark(curve(p.name), sparkWidth), readings.Format("s", p.perEvent()), p.cost()})
	}
	lines := t.lines(width, max(2, min(len(t.rows)+1, height/2)), d.style)
	if selected < 0 {
		return append(lines, d.nothing("probe"))
	}
	of := func(s *readings.Series) bool { return probeOf(s.Metric) == probes[selected].name }
	lines = append(lines, "", d.bold.Render("Metrics of "+probes[selected].name))
	lines = append(lines, d.metricTable(of, sparkWidth).lines(width, height-len(lines), d.style)...)
	var busiest workloads
	rows, metrics := busiest.rows(d, of)
	if len(rows) == 0 { // they are of the host
		return lines
	}
	lines = append(lines, "", d.bold.Render("Its busiest workloads: rates now, and the p99 of durations"))
	return append(lines, busiest.table(d, rows, metrics).lines(width, height-len(lines), d.style)...)
}

// metricTable is a line a selected metric, all workloads together, also those that are gone.
func (d *data) metricTable(selected selection, sparkWidth int) *table {
	t := &table{header: [][]string{{"METRIC", "TOTAL", "RATE", "", "p50", "p99"}}, selected: -1, curve: 3}
	curve := curves(d.past, sparkWidth, func(s *readings.Series) (*readings.Metric, bool) { return s.Metric, selected(s) })
	for _, m := range d.metrics(selected) {
		if m.Kind != readings.Level {
			m.total = *d.totals[m.Metric]
		}
		t.rows = append(t.rows, []string{shortName(m.Metric), d.total(m), d.rate(m), spark(curve(m.Metric), sparkWidth),
			m.quantile(0.5), m.quantile(0.99)})
	}
	return t
}
