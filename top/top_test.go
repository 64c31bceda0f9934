package top

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebpf-sidecar/sidecar/internal/golden"
	"github.com/ebpf-sidecar/sidecar/internal/terminal"
	"github.com/ebpf-sidecar/sidecar/readings"
)

// screenVariable makes the test binary draw the test's frames, in the terminal that it runs in.
const screenVariable = "SIDECAR_TOP_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(screenVariable) == "" {
		os.Exit(m.Run())
	}
	frames := make(chan *readings.Frame)
	go func() {
		more := make(chan os.Signal, 1)
		signal.Notify(more, syscall.SIGUSR1) // for the next frame
		for i, f := range testFrames(121) {
			if i >= 120 {
				<-more
			}
			frames <- f
		}
	}()
	err := Run(context.Background(), Options{
		Frames: frames, Messages: testMessages, Interval: time.Second, Input: os.Stdin, Output: os.Stdout, Environment: os.Environ(),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func testMessages() []string {
	return []string{`level=WARN msg="probe not running" probe=block error="no` + "\x1b]0;title\a" + `"`}
}

// testFrames are a machine's first seconds: busy and idle workloads, hostile names, and waits that get longer.
func testFrames(n int) []*readings.Frame {
	const (
		probes = "github.com/ebpf-sidecar/sidecar/probes/"
		self   = "github.com/ebpf-sidecar/sidecar/telemetry"
	)
	begin := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	store := readings.NewStore(begin)
	add := func(scope, name, unit string, kind readings.Kind, v readings.Value, attributes ...string) {
		p := readings.Point{Start: begin, Value: v}
		for i := 0; i < len(attributes); i += 2 {
			p.Attributes = append(p.Attributes, readings.Attribute{Key: attributes[i], Value: attributes[i+1]})
		}
		store.Add(readings.Metric{Scope: scope, Name: name, Unit: unit, Kind: kind}, p)
	}
	number := func(v float64) readings.Value { return readings.Value{Number: v} }
	waits := make(map[string]*readings.Histogram)
	wait := func(who string, ns, count float64) {
		if waits[who] == nil {
			waits[who] = &readings.Histogram{Scale: 3}
		}
		index := int32(math.Ceil(math.Log2(ns*1e-9)*8)) - 1
		waits[who].Add(&readings.Histogram{Scale: 3, Offset: index, Counts: []uint64{uint64(count)}, Sum: ns * 1e-9 * count})
	}
	workloads := []struct {
		attributes []string
		programs   []string
		weight     float64
	}{
		{[]string{"systemd.unit", "nginx.service"}, []string{"nginx", "openssl"}, 40},
		{[]string{"container.id", strings.Repeat("0123456789abcdef", 4), "k8s.pod.uid", "0a1b2c3d-1111-2222-3333-444455556666"}, []string{"java", "sh"}, 25},
		{[]string{"container.id", strings.Repeat("fedcba9876543210", 4), "systemd.unit", "docker.service"}, []string{"redis-server"}, 10},
		{nil, []string{"kworker"}, 5},
		{[]string{"systemd.unit", "evil\x1b[2J\x1b]0;x\a\u202eecivres.service"}, []string{"a\nb\tc", "\u0301\u0302\u0303", "漢字漢字漢字", ""}, 2},
		{[]string{"otel.metric.overflow", "true"}, nil, 1},
	}
	var frames []*readings.Frame
	for i := 1; i <= n; i++ {
		at := float64(i)
		events := map[string]float64{}
		for j, w := range workloads {
			who := strings.Join(w.attributes, " ")
			rate := w.weight * (1 + math.Sin(at/10+float64(j)))
			for k := range 30 {
				share := math.Exp(-math.Pow(float64(k)-12-at/12, 2) / 18)
				wait(who, 1000*math.Exp2(float64(k)*0.7), math.Floor(20*rate*share))
			}
			wait(who, 0, 0)
			h := *waits[who]
			h.Counts = append([]uint64(nil), h.Counts...)
			events["scheduler"] += float64(h.Count())
			add(probes+"scheduler", "linux.scheduler.run_queue.duration", "s", readings.Distribution,
				readings.Value{Number: float64(h.Count()), Histogram: &h}, w.attributes...)
			add(probes+"scheduler", "linux.scheduler.context_switches", "{context_switch}", readings.Counter,
				number(math.Floor(700*w.weight*at)), append([]string{"process.context_switch.type", "voluntary"}, w.attributes...)...)
			for k, name := range w.programs {
				total := math.Floor(w.weight * at / float64(k+1))
				events["process"] += total
				add(probes+"process", "linux.process.executions", "{execution}", readings.Counter, number(total),
					append([]string{"process.executable.name", name}, w.attributes...)...)
				add(probes+"process", "linux.process.exits", "{process}", readings.Counter, number(math.Floor(total*0.9)),
					append([]string{"process.exit.code", fmt.Sprint(k)}, w.attributes...)...)
			}
		}
		add(probes+"block", "system.disk.io", "By", readings.Counter, number(at*5e6), "system.device", "sda")
		for name, state := range map[string]string{"process": "attached", "scheduler": "attached", "block": "unsupported"} {
			for _, s := range []string{"attached", "disabled", "unsupported", "failed"} {
				in := 0.0
				if s == state {
					in = 1
				}
				add(self, "sidecar.probe.state", "{probe}", readings.Level, number(in), "sidecar.probe.name", name, "sidecar.probe.state", s)
			}
			if events[name] > 0 {
				add(self, "sidecar.probe.events", "{event}", readings.Counter, number(events[name]), "sidecar.probe.name", name)
				add(self, "sidecar.probe.cpu.time", "s", readings.Counter, number(events[name]*150e-9), "sidecar.probe.name", name)
				add(self, "sidecar.probe.missed", "{event}", readings.Counter, number(1), "sidecar.probe.missed.reason", "update", "sidecar.probe.name", name)
				add(self, "sidecar.series", "{series}", readings.Level, number(17), "sidecar.probe.name", name, "sidecar.table.name", name+"s")
				add(self, "sidecar.series.limit", "{series}", readings.Level, number(2000), "sidecar.probe.name", name, "sidecar.table.name", name+"s")
				add(self, "sidecar.series.overflow", "{event}", readings.Counter, number(3), "sidecar.probe.name", name, "sidecar.table.name", name+"s")
			}
		}
		took := readings.Histogram{Scale: 3, Offset: -80, Counts: []uint64{uint64(i)}}
		for _, name := range []string{"sidecar.collection.duration", "otel.sdk.exporter.operation.duration"} {
			add(self, name, "s", readings.Distribution, readings.Value{Number: at, Histogram: &took})
		}
		add(self, "otel.sdk.exporter.metric_data_point.exported", "{data_point}", readings.Counter, number(at*100))
		add(self, "sidecar.export.unacknowledged.age", "s", readings.Level, number(0))
		add("go.opentelemetry.io/contrib/instrumentation/runtime", "go.memory.used", "By", readings.Level, number(12<<20), "go.memory.type", "other")
		frames = append(frames, store.Frame(begin.Add(time.Duration(i)*time.Second)))
	}
	return frames
}

// open draws the tests' frames in a terminal. The environment is added to that of the program in it.
func open(t *testing.T, width, height int, style string, environment ...string) *terminal.Terminal {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return terminal.New(t, width, height, style, strings.Join(append(environment, screenVariable+"=1", binary), " "))
}

// shows waits until the screen is that of the golden file; what it comes to in the end is compared.
func shows(t *testing.T, screen func() string, name string) {
	t.Helper()
	want, _ := os.ReadFile(filepath.Join("testdata", name))
	got := screen()
	patience := 15 * time.Second
	if golden.Updating() {
		patience = 2 * time.Second
	}
	for deadline := time.Now().Add(patience); got != string(want) && time.Now().Before(deadline); got = screen() {
		time.Sleep(50 * time.Millisecond)
	}
	golden.Check(t, name, []byte(got))
}

// TestScreens looks at every view in a terminal.
func TestScreens(t *testing.T) {
	for _, size := range []struct{ width, height int }{{80, 24}, {200, 60}} {
		t.Run(fmt.Sprintf("%dx%d", size.width, size.height), func(t *testing.T) {
			t.Parallel()
			term := open(t, size.width, size.height, "default")
			show := func(name string) { t.Helper(); shows(t, term.Screen, fmt.Sprintf("%s.%d.txt", name, size.width)) }
			show("overview")
			term.Press("Down", "Down")
			show("overview-scheduler")
			term.Press("2")
			show("workloads")
			term.Press("Right", "Right", "t", "Down")
			show("workloads-totals")
			term.Press("Enter")
			show("workload")
			term.Press("End", "Enter")
			show("workload-distribution")
			term.Press("Escape")
			show("workload")
			term.Press("Escape")
			show("workloads-totals")
			term.Press("/", "e", "v", "i", "l")
			show("workloads-filter")
			term.Press("Enter", "Enter")
			show("workload-hostile")
			term.Press("3")
			show("distribution")
			term.Press("Tab")
			show("sidecar")
			term.Press("?")
			show("help")
			term.Press("q") // help goes, the program stays
			show("sidecar")
		})
	}
}

// TestColours looks at the colours of terminals that have many, few and none, and of one with a light background.
func TestColours(t *testing.T) {
	for name, test := range map[string]struct {
		style       string
		environment string
	}{
		"256":      {"default", ""},
		"16":       {"default", "TERM=linux"},
		"no-color": {"default", "NO_COLOR=1"},
		"light":    {"fg=black,bg=white", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			term := open(t, 80, 24, test.style, test.environment)
			shows(t, term.Screen, "overview.80.txt") // how cells came to be as they are is in a capture with colours, too
			term.Press("3")
			shows(t, term.ColouredScreen, "colours-"+name+".ansi")
		})
	}
}

// TestPause checks that a paused screen stays as it is, and shows the latest values after that.
func TestPause(t *testing.T) {
	t.Parallel()
	term := open(t, 80, 24, "default")
	shows(t, term.Screen, "overview.80.txt")
	term.Press("p")
	shows(t, term.Screen, "paused.txt")
	if err := exec.Command("kill", "-USR1", term.PID()).Run(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // for what should not be
	shows(t, term.Screen, "paused.txt")
	term.Press("p")
	shows(t, term.Screen, "unpaused.txt")
}

// TestResize makes the terminal small and large again, and quits.
func TestResize(t *testing.T) {
	t.Parallel()
	term := open(t, 80, 24, "default")
	term.Press("2")
	shows(t, term.Screen, "workloads.80.txt")
	for _, size := range [][2]int{{1, 1}, {10, 3}, {40, 10}} {
		term.Resize(size[0], size[1])
	}
	shows(t, term.Screen, "workloads.40.txt")
	term.Resize(80, 24)
	shows(t, term.Screen, "workloads.80.txt")
	term.Press("q")
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		code, ended := term.Ended()
		if ended && code == "0" {
			break
		}
		if ended || time.Now().After(deadline) {
			t.Fatalf("it has ended: %t, with %s", ended, code)
		}
	}
}
