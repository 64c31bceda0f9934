package top

import (
	"fmt"
	"slices"
	"strings"

	"charm.land/bubbles/v2/key"
	"github.com/charmbracelet/x/ansi"

	"github.com/ebpf-sidecar/sidecar/readings"
)

// itself is what the sidecar costs, how full its tables are, and what went wrong.
type itself struct{ cursor } // on the line at the top

func (*itself) name() string { return "Sidecar" }

func (*itself) keys() []key.Binding { return []key.Binding{scrollKey} }

func (v *itself) press(key string, _ *data) page {
	v.cursor.press(key)
	return nil
}

func (v *itself) draw(d *data, width, height int) []string {
	probes, tables := d.sidecar()
	cost := table{header: [][]string{{"PROBE", "AN EVENT", "CPU", "EVENTS", "RATE", "MISSED"}}, selected: -1}
	measured := true
	for _, p := range probes {
		measured = measured && (p.total > 0 || p.events == 0)
		cost.rows = append(cost.rows, []string{p.title(), readings.Format("s", p.perEvent()), p.cost(),
			readings.Format("", p.events), readings.FormatRate("", p.rate), readings.Format("", p.missed)})
	}
	use := table{header: [][]string{{"TABLE", "SERIES", "LIMIT", "OVERFLOW"}}, selected: -1}
	for _, t := range tables {
		use.rows = append(use.rows, []string{t.probe + " " + t.name, readings.Format("", t.series),
			readings.Format("", t.limit), readings.Format("", t.overflow)})
	}
	note := "CPU is of one CPU; measuring it is in it."
	if !measured {
		note = "What events cost is not measured: that takes root, or CAP_SYS_ADMIN."
	}
	narrow := min(width, 100)
	lines := append(cost.lines(narrow, len(cost.rows)+1, d.style), d.dim.Render(note), "")
	lines = append(lines, use.lines(narrow, len(use.rows)+1, d.style)...)
	lines = append(append(lines, ""), d.export()...)
	if len(d.messages) > 0 {
		lines = append(append(lines, "", d.bold.Render("Messages")), d.warnings(width)...)
	}
	v.at = max(0, min(v.at, len(lines)-height))
	return lines[v.at:min(len(lines), v.at+height)]
}

// warnings are the messages, the latest first, on as many lines as they need.
func (d *data) warnings(width int) []string {
	var lines []string
	for _, m := range slices.Backward(d.messages) {
		for line := range strings.SplitSeq(ansi.Wrap(readings.Escape(m), width, ""), "\n") {
			lines = append(lines, d.warning.Render(line))
		}
	}
	return lines
}

// export is how the values came here.
func (d *data) export() []string {
	var collection, request, points, age, memory sum
	for i := range d.frame.Readings {
		r := &d.frame.Readings[i]
		if to := map[string]*sum{
			"sidecar.collection.duration":                  &collection,
			"otel.sdk.exporter.operation.duration":         &request,
			"otel.sdk.exporter.metric_data_point.exported": &points,
			"sidecar.export.unacknowledged.age":            &age,
			"go.memory.used":                               &memory,
		}[r.Name]; to != nil && (to != &points || r.Attribute("error.type") == "") { // the points that arrived
			to.add(r)
		}
	}
	acknowledged := "all acknowledged"
	if age.total.Number > 0 {
		acknowledged = "unacknowledged for " + readings.Format("s", age.total.Number)
	}
	return []string{
		fmt.Sprintf("collection  p50 %s  p99 %s", readings.Format("s", quantile(collection.total, 0.5)), readings.Format("s", quantile(collection.total, 0.99))),
		fmt.Sprintf("export      p50 %s  p99 %s  %s points, %s",
			readings.Format("s", quantile(request.total, 0.5)), readings.Format("s", quantile(request.total, 0.99)),
			readings.Format("", points.total.Number), acknowledged),
		fmt.Sprintf("memory      %s of Go's", readings.Format("By", memory.total.Number)),
	}
}
