package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// dashboard is what the test needs of deploy/grafana/sidecar.json.
type dashboard struct {
	Templating struct {
		List []struct {
			Name, Type string
			Query      any // of a variable that is asked for: an object
		}
	}
	Panels []struct {
		Type, Title string
		Targets     []struct{ Expr, LegendFormat string }
	}
}

// TestDashboardAndAlerts asks a real Prometheus what deploy/grafana and deploy/prometheus ask, while it has what the sidecar saw of a
// load: each panel has data, and the alerts that the load calls for fire.
func TestDashboardAndAlerts(t *testing.T) {
	var d dashboard
	content, err := os.ReadFile("../deploy/grafana/sidecar.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &d); err != nil {
		t.Fatal(err)
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	p := newPrometheus(t)
	p.start(t)
	endpoint := startShipped(t, "prometheus.yaml", "PROMETHEUS_URL="+p.url())
	startSidecar(t, "export: {interval: 1s}\n", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+endpoint)
	l := newDashboardLoad(t)
	n := 5 + rand.IntN(20)
	l.run(n)

	variables := map[string]string{"$__rate_interval": "1m", "$__range": "5m"}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		asked, _ := v.Query.(map[string]any)["query"].(string)
		match := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`).FindStringSubmatch(asked)
		if match == nil {
			t.Fatalf("variable %s asks %q", v.Name, asked)
		}
		series := p.query(t, fill(match[1], variables))
		if len(series) == 0 {
			t.Errorf("variable %s: no series of %s", v.Name, match[1])
		}
		variables["$"+v.Name] = ".*"
		for _, s := range series {
			if value := s.Metric[match[2]]; value != "" {
				variables["$"+v.Name] = value
			}
		}
	}
	t.Logf("variables: %v", variables)

	panels, queries := 0, 0
	for _, panel := range d.Panels {
		if panel.Type == "row" {
			continue
		}
		panels++
		for _, target := range panel.Targets {
			queries++
			for _, label := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if !strings.Contains(target.Expr, label[1]) {
					t.Errorf("panel %q: the legend has %s, and the query has not", panel.Title, label[1])
				}
			}
			query := fill(target.Expr, variables)
			var series []answer
			for deadline := time.Now().Add(harness.Patience / 4); ; time.Sleep(time.Second) {
				if series = p.query(t, query); slices.ContainsFunc(series, answer.hasData) {
					break
				}
				if time.Now().After(deadline) {
					t.Errorf("panel %q has no data: %s", panel.Title, query)
					break
				}
			}
		}
	}
	t.Logf("%d panels, %d queries", panels, queries)

	// The values behind the panels are exact.
	for query, want := range map[string]int{
		fmt.Sprintf(`linux_process_executions_total{container_id=%q, process_executable_name=%q}`, l.container, l.executable): n,
		fmt.Sprintf(`sum(linux_oom_kills_total{container_id=%q})`, l.container):                                               n,
	} {
		harness.Eventually(t, fmt.Sprintf("%s is %d", query, want), func() bool {
			series := p.query(t, query)
			return len(series) == 1 && series[0].Value[1] == strconv.Itoa(want)
		})
	}

	rules := p.rules(t)
	for name, query := range rules {
		fires := len(p.query(t, query)) > 0
		if slices.Contains([]string{"OOMKill", "Crashes"}, name) && !fires {
			t.Errorf("the load does not make %s fire: %s", name, query)
		}
	}
	t.Logf("%d alerts", len(rules))
}

// fill puts values for the variables of a query.
func fill(query string, variables map[string]string) string {
	for name, value := range variables {
		query = strings.ReplaceAll(query, name, value)
	}
	return query
}

// hasData tells whether a panel would show something.
func (a answer) hasData() bool {
	if a.Histogram[1] != nil {
		return !strings.HasPrefix(a.Histogram.String(), "0 ")
	}
	return a.Value[1] != nil && a.Value[1] != "NaN"
}

// rules are the queries of the alerts.
func (p *prometheus) rules(t testing.TB) map[string]string {
	t.Helper()
	response, err := http.Get(p.url() + "/api/v1/rules")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var reply struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Query string }
			}
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&reply); err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{}
	for _, group := range reply.Data.Groups {
		for _, rule := range group.Rules {
			queries[rule.Name] = rule.Query
		}
	}
	if len(queries) == 0 {
		t.Error("Prometheus has no rules")
	}
	return queries
}

// TestAlerts has promtool check the alerts, and each of them fire and not fire.
func TestAlerts(t *testing.T) {
	binary, err := collectorBinary()
	if err != nil {
		t.Fatal(err)
	}
	directory, err := filepath.Abs("../deploy/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	for _, arguments := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		command := exec.Command(filepath.Join(filepath.Dir(binary), "promtool"), arguments...)
		command.Dir = directory
		if output, err := command.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", arguments, err, output)
		}
	}
	names := func(file, pattern string) (all []string) {
		content, err := os.ReadFile(filepath.Join(directory, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(content), -1) {
			all = append(all, match[1])
		}
		return all
	}
	rules, tested := names("alerts.yaml", `- alert: (\w+)`), names("alerts_test.yaml", `alertname: (\w+)`)
	if len(rules) == 0 || !slices.Equal(rules, tested) {
		t.Errorf("alerts %v, of which %v are tested", rules, tested)
	}
}

// dashboardLoad does in a container what the panels show.
type dashboardLoad struct {
	t          testing.TB
	group      *kerneltest.Cgroup
	container  string
	executable string
	procs      string
}

func newDashboardLoad(t testing.TB) *dashboardLoad {
	t.Helper()
	l := &dashboardLoad{t: t, executable: fmt.Sprintf("known-%x", rand.Uint32())}
	l.container = fmt.Sprintf("%016x%016x%016x%016x", rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64())
	l.group = kerneltest.NamedCgroup(t, "/docker-"+l.container+".scope")
	_, l.procs = l.group.LimitMemory(t, 16<<20)
	return l
}

// run does it so many times.
func (l *dashboardLoad) run(times int) {
	l.t.Helper()
	files := l.t.TempDir()
	program := filepath.Join(files, l.executable)
	copyFile(l.t, "/bin/true", program)
	limited := ""
	if l.procs != "none" {
		limited = "echo 0 >" + l.procs + "; "
	}
	connect(l.t)
	for range times {
		for _, script := range []string{
			"exec " + program,
			"exit 3",
			"ulimit -c 0; kill -SEGV $$",
			limited + "exec tail /dev/zero", // takes all memory that it gets
			"dd if=/dev/zero of=" + files + "/written bs=64k count=8 oflag=direct; dd if=" + files + "/written of=/dev/null bs=64k iflag=direct",
		} {
			command := exec.Command("/bin/sh", "-c", script)
			l.group.Enter(command)
			_ = command.Run() // how it ended is what is counted
		}
	}
}

// connect makes a connection, one that is refused, one whose SYN has to be sent again, and a packet that nobody waits for.
func connect(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("tcp", harness.OwnAddress()+":0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	connection.Close()
	listener.Close()
	if connection, err := net.Dial("tcp", address); err == nil {
		connection.Close()
		t.Fatalf("%s is still open", address)
	}
	packet, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer packet.Close()
	if _, err := packet.Write([]byte("nobody")); err != nil {
		t.Fatal(err)
	}

	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	to := netip.MustParseAddrPort(address)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for { // until nobody is let in: that SYN is dropped, and sent again after a second
		connection, err := net.DialTimeout("tcp", address, 1500*time.Millisecond)
		if err != nil {
			return
		}
		defer connection.Close()
	}
}
