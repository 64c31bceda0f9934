package top

import (
	"strings"

	"github.com/ebpf-sidecar/sidecar/readings"
)

// The attributes that are those of a workload (docs/metrics.md), and the one of the series that take what found no room.
const (
	containerID = "container.id"
	podUID      = "k8s.pod.uid"
	systemdUnit = "systemd.unit"
	linuxCgroup = "process.linux.cgroup"
	overflow    = "otel.metric.overflow"
)

// workload is who caused something.
type workload struct{ container, pod, unit, cgroup, overflow string }

// workloadOf returns the workload of a series.
func workloadOf(s *readings.Series) (w workload) {
	for _, a := range s.Attributes {
		if field := w.field(a.Key); field != nil {
			*field = a.Value
		}
	}
	return w
}

// field is where the value of an attribute belongs, nil for one that is not a workload's.
func (w *workload) field(key string) *string {
	switch key {
	case containerID:
		return &w.container
	case podUID:
		return &w.pod
	case systemdUnit:
		return &w.unit
	case linuxCgroup:
		return &w.cgroup
	case overflow:
		return &w.overflow
	}
	return nil
}

// others are the attributes of a series that are not those of its workload.
func others(s *readings.Series) (rest []readings.Attribute) {
	for _, a := range s.Attributes {
		if new(workload).field(a.Key) == nil {
			rest = append(rest, a)
		}
	}
	return rest
}

// name is short, and made to be read.
func (w workload) name() string {
	switch {
	case w.overflow != "":
		return "(overflow)"
	case w == workload{}:
		return "(host)"
	}
	var parts []string
	if w.unit != "" {
		parts = append(parts, readings.Printable(w.unit))
	}
	if w.pod != "" {
		parts = append(parts, "pod "+short(w.pod))
	}
	if w.container != "" {
		parts = append(parts, "container "+short(w.container))
	}
	if len(parts) == 0 {
		return readings.Printable(w.cgroup)
	}
	return strings.Join(parts, " ")
}

// isNamed tells whether it is a workload and not the host, nor what found no room.
func (w workload) isNamed() bool { return w != workload{} && w.overflow == "" }

// describe is all that is known of it, in lines.
func (w workload) describe() []string {
	switch {
	case w.overflow != "":
		return []string{"what found no room in a table, and what came from cgroups that were gone"}
	case w == workload{}:
		return []string{"what is in no container, pod or unit"}
	}
	var lines []string
	for _, a := range []readings.Attribute{{Key: containerID, Value: w.container}, {Key: podUID, Value: w.pod},
		{Key: systemdUnit, Value: w.unit}, {Key: linuxCgroup, Value: w.cgroup}} {
		if a.Value != "" {
			lines = append(lines, a.Key+" "+readings.Escape(a.Value))
		}
	}
	return lines
}

// text is what a filter is looked for in: the explanations of describe are not.
func (w workload) text() string {
	if w.overflow != "" || w == (workload{}) {
		return w.name()
	}
	return w.name() + " " + w.key()
}

// key tells it from all others.
func (w workload) key() string { return strings.Join(w.describe(), "\n") }

// short is as much of an identifier as people use.
func short(id string) string {
	if len(id) > 12 {
		id = id[:12]
	}
	return readings.Printable(id)
}
