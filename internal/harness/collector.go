package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// Collector is a real Collector that writes what it receives to a file.
type Collector struct {
	*Process // nil until it is started
	Endpoint string
	binary   string
	File     string // where it writes
}

// OwnAddress is one of the 16 million of this host, for one program; a free port could be another's by the time it starts.
func OwnAddress() string {
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
}

// NewCollector prepares a Collector, of a binary that e2e/collector built, without starting it, so that its endpoint is known before.
func NewCollector(t testing.TB, binary string) *Collector {
	t.Helper()
	return &Collector{Endpoint: OwnAddress() + ":4317", binary: binary, File: filepath.Join(t.TempDir(), "metrics.jsonl")}
}

// HTTPURL is where it takes OTLP over HTTP.
func (c *Collector) HTTPURL() string {
	return "http://" + strings.Replace(c.Endpoint, ":4317", ":4318", 1)
}

// Start starts the Collector and waits until it listens.
func (c *Collector) Start(t testing.TB) {
	t.Helper()
	configuration := fmt.Sprintf(`
receivers: {otlp: {protocols: {grpc: {endpoint: "%s"}, http: {endpoint: "%s"}}}}
exporters: {file: {path: "%s", append: true, flush_interval: 100ms}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {metrics: {receivers: [otlp], exporters: [file]}}
`, c.Endpoint, strings.TrimPrefix(c.HTTPURL(), "http://"), c.File)
	path := filepath.Join(t.TempDir(), "collector.yaml")
	if err := os.WriteFile(path, []byte(configuration), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Process = Start(t, exec.Command(c.binary, "--config", path))
	c.Listens(t, c.Endpoint)
}

// Totals is what a Collector has received: the last value of every series, a series being its metric, attributes and start.
type Totals map[string]*metrics.NumberDataPoint

// Requests reads the Collector's file.
func (c *Collector) Requests(t testing.TB) (requests []*collectormetrics.ExportMetricsServiceRequest) {
	t.Helper()
	file, err := os.Open(c.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewReaderSize(file, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil { // the end, or a line that is still being written
			return requests
		}
		var request collectormetrics.ExportMetricsServiceRequest
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(line, &request); err != nil {
			t.Fatalf("%s: %v", c.File, err)
		}
		requests = append(requests, &request)
	}
}

// Received is what the Collector has, from its file.
func (c *Collector) Received(t testing.TB) (counters Totals, histograms map[string]*metrics.ExponentialHistogramDataPoint) {
	t.Helper()
	counters, histograms = Totals{}, map[string]*metrics.ExponentialHistogramDataPoint{}
	for _, request := range c.Requests(t) {
		for _, resource := range request.ResourceMetrics {
			for _, scope := range resource.ScopeMetrics {
				for _, m := range scope.Metrics {
					for _, p := range m.GetSum().GetDataPoints() {
						key := Identity(m.Name, p.Attributes, p.StartTimeUnixNano)
						before := counters[key]
						if m.GetSum().IsMonotonic && before != nil && before.GetAsInt() > p.GetAsInt() {
							t.Errorf("%s fell from %d to %d", key, before.GetAsInt(), p.GetAsInt())
						}
						counters[key] = p
					}
					for _, p := range m.GetExponentialHistogram().GetDataPoints() {
						histograms[Identity(m.Name, p.Attributes, p.StartTimeUnixNano)] = p
					}
				}
			}
		}
	}
	return counters, histograms
}

// Identity is what a series is known by.
func Identity(metric string, attributes []*common.KeyValue, start uint64) string {
	return fmt.Sprintf("%s{%s}@%d", metric, strings.Join(Labels(attributes), ","), start)
}

// Labels are attributes as "key=value", sorted.
func Labels(attributes []*common.KeyValue) []string {
	var all []string
	for _, a := range attributes {
		value := a.Value.GetStringValue()
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_IntValue:
			value = fmt.Sprint(v.IntValue)
		case *common.AnyValue_BoolValue:
			value = fmt.Sprint(v.BoolValue)
		}
		all = append(all, a.Key+"="+value)
	}
	slices.Sort(all)
	return all
}

// Sum adds up the series of a metric that have all of the labels ("key=value").
func (all Totals) Sum(metric string, with ...string) (total int64) {
	for key, point := range all {
		if strings.HasPrefix(key, metric+"{") && HasAll(point.Attributes, with) {
			total += point.GetAsInt()
		}
	}
	return total
}

// HasAll tells whether all of the labels are among the attributes.
func HasAll(attributes []*common.KeyValue, with []string) bool {
	have := Labels(attributes)
	for _, label := range with {
		if !slices.Contains(have, label) {
			return false
		}
	}
	return true
}
