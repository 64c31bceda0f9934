package top

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/ebpf-sidecar/sidecar/readings"
)

// TestFits draws every page in every size: no line is wider than the screen, there are as many as it has, and nothing but
// text and colours is in them.
func TestFits(t *testing.T) {
	m := newModel(Options{Messages: testMessages})
	sizes := [][2]int{{0, 0}, {1, 1}, {2, 40}, {200, 60}, {80, 24}, {500, 100}}
	for i := range 100 {
		sizes = append(sizes, [2]int{i * 7 % 120, i * 11 % 50})
	}
	press := func(keys ...string) {
		for _, key := range keys {
			code, ok := map[string]rune{"enter": tea.KeyEnter, "down": tea.KeyDown, "right": tea.KeyRight, "esc": tea.KeyEscape}[key]
			msg := tea.KeyPressMsg{Code: code}
			if !ok {
				msg = tea.KeyPressMsg{Code: []rune(key)[0], Text: key}
			}
			m.Update(msg)
		}
	}
	check := func() {
		t.Helper()
		for _, size := range sizes {
			m.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
			lines := m.lines()
			if len(lines) != size[1] {
				t.Fatalf("%d lines in %v", len(lines), size)
			}
			for _, line := range lines {
				if w := ansi.StringWidth(line); w > size[0] {
					t.Fatalf("a line of %d in %v: %q", w, size, line)
				}
				for _, r := range ansi.Strip(line) {
					if unicode.IsControl(r) || r == '\u202e' {
						t.Fatalf("%q is in %q", r, line)
					}
				}
			}
		}
	}
	check()
	frames := testFrames(40)
	m.Update(frameMsg{frames[0]})
	for _, keys := range [][]string{
		{"1"}, {"down", "down"}, {"2"}, {"right", "right", "t"}, {"enter"}, {"down", "down", "down", "down", "down", "down", "enter"},
		{"esc", "esc"}, {"right", "right", "right", "right"}, {"/", "e", "v", "i", "l"}, {"enter", "enter"}, {"esc", "esc"},
		{"/", "n", "o", "n", "e"}, {"enter"}, {"1"}, {"3"}, {"4"}, {"esc"}, {"3"}, {"down"}, {"right"}, {"?"}, {"q", "p"},
	} {
		press(keys...)
		check()
	}
	press("p")
	for _, f := range frames[1:] {
		m.Update(frameMsg{f})
	}
	check()
}

// TestLongPause checks that a paused screen stays as it is when the history has moved on.
func TestLongPause(t *testing.T) {
	m := newModel(Options{Messages: testMessages})
	press := func(key rune) { m.Update(tea.KeyPressMsg{Code: key, Text: string(key)}) }
	frames := testFrames(10 + maxFrames)
	for _, f := range frames[:10] {
		m.Update(frameMsg{f})
	}
	press('p')
	press('3')
	before := strings.Join(m.lines(), "\n")
	for _, f := range frames[10:] {
		m.Update(frameMsg{f})
	}
	if after := strings.Join(m.lines(), "\n"); after != before {
		t.Errorf("%s\nbecame\n%s", before, after)
	}
	press('p')
	if after := strings.Join(m.lines(), "\n"); !strings.Contains(after, "5m0s") {
		t.Errorf("after the pause it is\n%s", after)
	}
}

// TestSortedBy checks that workloads stay sorted by the same metric when another one comes before it.
func TestSortedBy(t *testing.T) {
	frame := func(metrics ...string) *readings.Frame {
		f := &readings.Frame{Length: 1}
		for _, name := range metrics {
			m := &readings.Metric{Scope: "probes/x", Name: name}
			f.Readings = append(f.Readings, readings.Reading{Series: &readings.Series{Metric: m}})
		}
		return f
	}
	w := new(workloads)
	w.press("right", &data{frame: frame("b", "c")})
	for _, test := range []struct {
		metrics []string
		want    int
	}{{[]string{"b", "c"}, 1}, {[]string{"a", "b", "c"}, 2}, {[]string{"a", "b"}, 0}, {[]string{"c"}, 0}} {
		_, metrics := w.visible(&data{frame: frame(test.metrics...)})
		if got := w.column(metrics); got != test.want {
			t.Errorf("of %v it is sorted by that in %d, want %d", test.metrics, got, test.want)
		}
	}
}

// TestFilter checks which workloads a filter lets through.
func TestFilter(t *testing.T) {
	all := []workload{{}, {overflow: "true"}, {container: "0123456789abcdef"}, {unit: "nginx.service"}, {pod: "uid"}, {cgroup: "/x"}}
	for filter, want := range map[string]string{
		"container": "container 0123456789ab", "89abcdef": "container 0123456789ab", "unit": "nginx.service", "pod": "pod uid",
		"host": "(host)", "over": "(overflow)", "cgroup": "/x",
	} {
		var names []string
		for _, w := range all {
			if d := (&data{filter: filter}); d.matches(w.text()) {
				names = append(names, w.name())
			}
		}
		if got := strings.Join(names, ", "); got != want {
			t.Errorf("%s lets through %s, want %s", filter, got, want)
		}
	}
}

// TestTotals checks that a metric's total has what series had that are gone, and that a paused one stays.
func TestTotals(t *testing.T) {
	begin := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	store := readings.NewStore(begin)
	m := newModel(Options{Messages: testMessages})
	show := func(units ...string) string {
		for _, unit := range units {
			p := readings.Point{Start: begin, Value: readings.Value{Number: 500},
				Attributes: []readings.Attribute{{Key: "systemd.unit", Value: unit}}}
			store.Add(readings.Metric{Scope: "probes/process", Name: "linux.process.exits"}, p)
			p.Number, p.Histogram = 5, &readings.Histogram{Scale: 3, Offset: -80, Counts: []uint64{5}}
			store.Add(readings.Metric{Scope: "probes/process", Name: "linux.process.lifetime", Kind: readings.Distribution}, p)
		}
		m.Update(frameMsg{store.Frame(begin.Add(time.Second))})
		var cells []string
		for _, row := range m.data().metricTable(everything, 8).rows {
			cells = append(cells, row[0]+" "+row[1])
		}
		return strings.Join(cells, ", ")
	}
	for i, want := range []string{
		"process.exits 1000, process.lifetime 10", "process.exits 1000, process.lifetime 10", "process.exits 1500, process.lifetime 15",
	} {
		if got := show([][]string{{"a", "b"}, {"a"}, {"a", "c"}}[i]...); got != want {
			t.Errorf("frame %d: %s, want %s", i, got, want)
		}
	}
	m.Update(tea.KeyPressMsg{Code: 'p', Text: "p"})
	if got := show("d"); got != "process.exits 1500, process.lifetime 15" {
		t.Errorf("while it is paused: %s", got)
	}
}

// TestManySeries draws a workload of so many executables as a table has room for, which takes no longer than a frame does.
func TestManySeries(t *testing.T) {
	m := newModel(Options{Messages: testMessages})
	metric := &readings.Metric{Scope: "probes/process", Name: "linux.process.executions"}
	frame := &readings.Frame{Length: time.Second}
	for i := range 4000 {
		series := &readings.Series{Metric: metric, Attributes: []readings.Attribute{{Key: "process.executable.name", Value: strconv.Itoa(i)}}}
		frame.Readings = append(frame.Readings, readings.Reading{Series: series, Added: readings.Value{Number: 1}})
	}
	for range maxFrames {
		m.Update(frameMsg{frame})
	}
	m.Update(tea.KeyPressMsg{Code: '2', Text: "2"})
	m.Update(tea.KeyPressMsg{Code: tea.KeyEnter})
	begin := time.Now()
	lines := strings.Join(m.lines(), "\n")
	if took := time.Since(begin); took > 3*time.Second || !strings.Contains(lines, "process.executions") {
		t.Errorf("%v for\n%s", took, lines)
	}
}

// TestZeros draws a distribution of nothing but zeros, in some of the frames.
func TestZeros(t *testing.T) {
	metric := &readings.Metric{Kind: readings.Distribution, Unit: "s"}
	none := change{&readings.Series{Metric: metric}, readings.Value{Number: 1, Histogram: &readings.Histogram{Zero: 1}}}
	frames := []past{{number: 0, length: 1, added: []change{none}}, {number: 1, length: 1}}
	m := newHeatMap(frames, everything, distribution(frames, everything), 4, 4)
	if lines := m.lines(newStyle(true, 0), "s", 2); ansi.Strip(lines[0]) != "      0   █  ██ p99.9" {
		t.Errorf("%q", lines)
	}
}

// TestNarrow checks that nothing that tells what to do or what went wrong is cut in 80 columns, and that the title of a paused
// screen says so in any.
func TestNarrow(t *testing.T) {
	const message = `time=2026-01-02T15:04:05.678Z level=WARN msg="probe not running" probe=block state=failed error="load: what went wrong"`
	m := newModel(Options{Interval: 100 * time.Millisecond, Messages: func() []string { return []string{message} }})
	text := func() string { return ansi.Strip(strings.Join(m.lines(), "\n")) }
	if !strings.Contains(text(), `what went wrong"`) {
		t.Errorf("the message is cut before the first frame:\n%s", text())
	}
	m.Update(frameMsg{testFrames(1)[0]})
	m.Update(tea.KeyPressMsg{Code: '4', Text: "4"})
	if !strings.Contains(text(), `what went wrong"`) {
		t.Errorf("the message is cut:\n%s", text())
	}
	for _, line := range m.helpLines(m.data()) {
		if ansi.StringWidth(line) > m.width {
			t.Errorf("a line of the help is cut: %s", line)
		}
	}
	for _, p := range append(m.pages, new(detail)) {
		m.opened = []page{p}
		if line := m.footer(m.data()); ansi.StringWidth(line) > m.width {
			t.Errorf("keys are cut: %s", line)
		}
	}
	m.Update(tea.KeyPressMsg{Code: 'p', Text: "p"})
	for width := 7; width < 100; width++ {
		m.Update(tea.WindowSizeMsg{Width: width, Height: 24})
		if line, _, _ := strings.Cut(text(), "\n"); !strings.Contains(line, "paused") {
			t.Errorf("in %d columns the title is %q", width, line)
		}
	}
}

// TestItself checks what the sidecar says of itself: no cost is missing where nothing happened, and only points that arrived
// count.
func TestItself(t *testing.T) {
	of := func(name string, number float64, attribute ...string) readings.Reading {
		s := &readings.Series{Metric: &readings.Metric{Name: name}, Attributes: []readings.Attribute{{Key: attribute[0], Value: attribute[1]}}}
		return readings.Reading{Series: s, Total: readings.Value{Number: number}}
	}
	points := []readings.Reading{of("otel.sdk.exporter.metric_data_point.exported", 7, "", ""), of("otel.sdk.exporter.metric_data_point.exported", 9, "error.type", "timeout")}
	events := of("sidecar.probe.events", 1, "sidecar.probe.name", "p")
	for _, test := range []struct {
		readings []readings.Reading
		missing  bool
	}{
		{points, false},
		{append(points, of("sidecar.probe.events", 0, "sidecar.probe.name", "p")), false},
		{append(points, events), true},
		{append(points, events, of("sidecar.probe.cpu.time", 1e-6, "sidecar.probe.name", "p")), false},
	} {
		text := strings.Join(new(itself).draw(&data{frame: &readings.Frame{Readings: test.readings}}, 80, 24), "\n")
		if strings.Contains(text, "is not measured") != test.missing || !strings.Contains(text, " 7 points") {
			t.Errorf("%v: it says\n%s", test.readings, text)
		}
	}
}

// TestHistory checks that it is bounded, in frames and in memory.
func TestHistory(t *testing.T) {
	var h history
	for _, f := range testFrames(maxFrames + 10) {
		h.add(f)
	}
	if len(h.frames) != maxFrames || h.next != maxFrames+10 || h.frames[0].number != 10 {
		t.Errorf("%d frames from %d to %d", len(h.frames), h.frames[0].number, h.next)
	}
	large := &readings.Frame{Length: 1}
	series := &readings.Series{Metric: &readings.Metric{Kind: readings.Distribution}}
	for range 1000 {
		large.Readings = append(large.Readings, readings.Reading{Series: series,
			Added: readings.Value{Number: 1, Histogram: &readings.Histogram{Counts: make([]uint64, 160)}}})
	}
	for range maxFrames {
		h.add(large)
	}
	if h.memory > maxMemory || len(h.frames) > 30 {
		t.Errorf("%d bytes in %d frames", h.memory, len(h.frames))
	}
}

func TestDrawing(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{spark([]float64{0, 1, 2, 4}, 5), " ▁▃▅█"},
		{spark([]float64{9, 1, 1}, 2), "██"},
		{spark(nil, 2), "  "},
		{spark([]float64{0, 0}, 2), "▁▁"},
		{bar(0, 2), "  "},
		{bar(1e-9, 2), "▏ "},
		{bar(0.5, 2), "█ "},
		{bar(1, 2), "██"},
		{pad("漢字", 3, true), "漢…"},
		{pad("ab", 4, false), "  ab"},
		{percent(0), "0%"},
		{percent(0.00005), "<0.01%"},
		{percent(0.123456), "12.3%"},
		{short(strings.Repeat("0", 64)), "000000000000"},
	} {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
	if v := quantile(readings.Value{}, 0.5); !math.IsNaN(v) {
		t.Errorf("the median of no distribution is %v", v)
	}
}
