package top

import (
	"cmp"
	"maps"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/ebpf-sidecar/sidecar/readings"
)

// data is what the pages draw.
type data struct {
	style
	frame    *readings.Frame // nil before the first
	past     []past          // up to frame
	totals   totals          // up to frame
	filter   string          // lower case
	messages []string
}

// matches tells whether the filter lets a text through.
func (d *data) matches(text string) bool { return strings.Contains(strings.ToLower(text), d.filter) }

// probeOf is the name of the probe that a metric comes from, or nothing.
func probeOf(m *readings.Metric) string {
	if path.Base(path.Dir(m.Scope)) != "probes" {
		return ""
	}
	return path.Base(m.Scope)
}

// shortName is a metric's without what is the same in most.
func shortName(m *readings.Metric) string {
	return strings.TrimPrefix(strings.TrimPrefix(readings.Printable(m.Name), "linux."), "system.")
}

// sum is what some series of a metric are together.
type sum struct {
	*readings.Metric
	total, added readings.Value
}

func (s *sum) add(r *readings.Reading) {
	s.Metric = r.Metric
	s.total.Add(r.Total)
	s.added.Add(r.Added)
}

// totals are what was added to each metric since the start, to series that are gone since, too.
type totals map[*readings.Metric]*readings.Value

func (t totals) add(f *readings.Frame) {
	for i := range f.Readings {
		r := &f.Readings[i]
		if t[r.Metric] == nil {
			t[r.Metric] = new(readings.Value)
		}
		t[r.Metric].Add(r.Added)
	}
}

func (t totals) clone() totals {
	clone := make(totals, len(t))
	for m, v := range t {
		clone[m] = new(readings.Value)
		clone[m].Add(*v)
	}
	return clone
}

// quantile is that of all values, NaN if there is none.
func quantile(v readings.Value, q float64) float64 {
	if v.Histogram == nil {
		return math.NaN()
	}
	return v.Histogram.Quantile(q)
}

// metrics are those of the probes, with what their selected series are together.
func (d *data) metrics(selected selection) []*sum {
	var all []*sum
	for i := range d.frame.Readings {
		r := &d.frame.Readings[i]
		if probeOf(r.Metric) == "" || !selected(r.Series) {
			continue
		}
		if len(all) == 0 || all[len(all)-1].Metric != r.Metric {
			all = append(all, &sum{Metric: r.Metric})
		}
		all[len(all)-1].add(r)
	}
	return all
}

// byWorkload are the metrics that are told apart by workload; none where there is no workload but the host.
func (d *data) byWorkload() map[*readings.Metric]bool {
	metrics := make(map[*readings.Metric]bool)
	for i := range d.frame.Readings {
		if r := &d.frame.Readings[i]; workloadOf(r.Series).isNamed() {
			metrics[r.Metric] = true
		}
	}
	return metrics
}

// tableUse is how full a table of a probe's is.
type tableUse struct {
	probe, name             string
	series, limit, overflow float64
}

// probe is what the sidecar tells of one.
type probe struct {
	name, state  string
	events, rate float64
	cpu          float64 // seconds a second
	total        float64 // seconds
	missed       float64
}

// perEvent is what an event takes, in seconds; NaN if that is not measured.
func (p *probe) perEvent() float64 {
	if p.total == 0 || p.events == 0 {
		return math.NaN()
	}
	return p.total / p.events
}

// cost is the part of a CPU that it takes, if that is measured.
func (p *probe) cost() string {
	if p.total == 0 {
		return "-"
	}
	return percent(p.cpu)
}

// title is the name, and the state unless all is well.
func (p *probe) title() string {
	if p.state == "attached" {
		return p.name
	}
	return p.name + " (" + p.state + ")"
}

// sidecar is what the sidecar tells of itself: of the probes and tables that the filter lets through.
func (d *data) sidecar() (probes []*probe, tables []*tableUse) {
	byName, byTable := make(map[string]*probe), make(map[[2]string]*tableUse)
	for i := range d.frame.Readings {
		r := &d.frame.Readings[i]
		name, table := r.Attribute("sidecar.probe.name"), r.Attribute("sidecar.table.name")
		if name == "" {
			continue
		}
		if table != "" {
			key := [2]string{name, table}
			if byTable[key] == nil {
				byTable[key] = &tableUse{probe: readings.Printable(name), name: readings.Printable(table)}
			}
			switch t := byTable[key]; r.Name {
			case "sidecar.series":
				t.series = r.Total.Number
			case "sidecar.series.limit":
				t.limit = r.Total.Number
			case "sidecar.series.overflow":
				t.overflow = r.Total.Number
			}
			continue
		}
		if byName[name] == nil {
			byName[name] = &probe{name: readings.Printable(name)}
		}
		switch p := byName[name]; r.Name {
		case "sidecar.probe.state":
			if r.Total.Number == 1 {
				p.state = readings.Printable(r.Attribute("sidecar.probe.state"))
			}
		case "sidecar.probe.events":
			p.events, p.rate = r.Total.Number, d.frame.Rate(r)
		case "sidecar.probe.cpu.time":
			p.total, p.cpu = r.Total.Number, d.frame.Rate(r)
		case "sidecar.probe.missed":
			p.missed += r.Total.Number
		}
	}
	maps.DeleteFunc(byName, func(_ string, p *probe) bool { return !d.matches(p.name) })
	maps.DeleteFunc(byTable, func(_ [2]string, t *tableUse) bool { return !d.matches(t.probe + " " + t.name) })
	probes = slices.SortedFunc(maps.Values(byName), func(a, b *probe) int { return cmp.Compare(a.name, b.name) })
	tables = slices.SortedFunc(maps.Values(byTable), func(a, b *tableUse) int {
		return cmp.Or(cmp.Compare(a.probe, b.probe), cmp.Compare(a.name, b.name))
	})
	return probes, tables
}

// percent writes a part of one CPU.
func percent(part float64) string {
	if part > 0 && part < 0.0001 {
		return "<0.01%"
	}
	return readings.Format("", math.Round(part*10000)/100) + "%"
}

// quantile writes that of all values, nothing for what is no distribution.
func (s *sum) quantile(q float64) string {
	if s.Kind != readings.Distribution {
		return ""
	}
	return readings.Format(s.Unit, quantile(s.total, q))
}

func (d *data) total(s *sum) string {
	if s.Kind == readings.Distribution {
		return readings.Format("", s.total.Number)
	}
	return readings.Format(s.Unit, s.total.Number)
}

func (d *data) rate(s *sum) string {
	unit := s.Unit
	if s.Kind == readings.Distribution {
		unit = ""
	}
	return readings.FormatRate(unit, readings.PerSecond(s.added.Number, d.frame.Length))
}

// nothing says that a list is empty, and why.
func (d *data) nothing(of string) string {
	if d.filter != "" {
		return d.dim.Render("No " + of + " has " + readings.Printable(d.filter) + " in its name. Press / to change the filter, esc to clear it.")
	}
	return d.dim.Render("No " + of + " yet.")
}
