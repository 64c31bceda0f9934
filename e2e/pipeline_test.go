package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
)

// composed is what the parser of docker compose makes of docker/compose.yaml.
var composed = sync.OnceValues(func() (project struct {
	Services map[string]struct {
		Image   string
		Command []string
		Volumes []struct{ Source, Target string }
	}
}, err error) {
	collector, err := collectorBinary()
	if err != nil {
		return project, err
	}
	command := exec.Command(filepath.Join(filepath.Dir(collector), "compose"), "../docker/compose.yaml")
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		return project, err
	}
	return project, json.Unmarshal(output, &project)
})

// TestCompose holds docker/compose.yaml to what the other tests run: the versions of the images, and files that are there.
func TestCompose(t *testing.T) {
	project, err := composed()
	if err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile("collector/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := func(path string) []string {
		return regexp.MustCompile(path + ` v(\d+)\.(\d+)\.(\d+)`).FindStringSubmatch(string(module))
	}
	collector, prometheus := version("go.opentelemetry.io/collector/otelcol"), version("github.com/prometheus/prometheus")
	minor, _ := strconv.Atoi(prometheus[2]) // its module is v0.312.0 where the program is v3.12.0
	want := map[string]string{
		"sidecar":    "sidecar:latest",
		"collector":  "otel/opentelemetry-collector-contrib:" + strings.Join(collector[1:], "."),
		"prometheus": fmt.Sprintf("prom/prometheus:v%d.%d.%s", minor/100, minor%100, prometheus[3]),
	}
	got := map[string]string{}
	for name, service := range project.Services {
		got[name] = service.Image
		for _, volume := range service.Volumes {
			if _, err := os.Stat(volume.Source); filepath.IsAbs(volume.Source) && volume.Source != "/etc/machine-id" && err != nil {
				t.Errorf("service %s: %v", name, err)
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("images %v, want those that are tested: %v", got, want)
	}
}

// startShipped starts a Collector with a configuration of docker/collector.
func startShipped(t testing.TB, configuration string, environment ...string) (endpoint string) {
	t.Helper()
	binary, err := collectorBinary()
	if err != nil {
		t.Fatal(err)
	}
	address := harness.OwnAddress()
	command := exec.Command(binary, "--config", "../docker/collector/"+configuration, "--set=service.telemetry.metrics.level=none")
	if configuration == "kubernetes.yaml" { // this is no pod, which would have a service account
		command.Args = append(command.Args, "--set=processors.k8s_attributes.auth_type=kubeConfig")
	}
	command.Env = append(append(os.Environ(), "LISTEN="+address), environment...)
	harness.Start(t, command).Listens(t, address+":4317")
	return address + ":4317"
}

// prometheus is a real one, with the flags that docker/compose.yaml gives it.
type prometheus struct {
	*harness.Process
	address, directory string
}

func newPrometheus(t testing.TB) *prometheus {
	t.Helper()
	p := &prometheus{address: harness.OwnAddress() + ":9090", directory: t.TempDir()}
	copyFile(t, "../docker/prometheus.yaml", filepath.Join(p.directory, "prometheus.yaml"))
	copyFile(t, "../deploy/prometheus/alerts.yaml", filepath.Join(p.directory, "alerts.yaml"))
	return p
}

func (p *prometheus) url() string { return "http://" + p.address }

func (p *prometheus) start(t testing.TB) {
	t.Helper()
	project, err := composed()
	if err != nil {
		t.Fatal(err)
	}
	binary, _ := collectorBinary()
	command := exec.Command(filepath.Join(filepath.Dir(binary), "prometheus"), "--web.listen-address="+p.address, "--log.level=warn")
	for _, flag := range project.Services["prometheus"].Command {
		flag = strings.Replace(flag, "=/etc/prometheus", "="+p.directory, 1)
		command.Args = append(command.Args, strings.Replace(flag, "=/prometheus", "="+p.directory+"/data", 1))
	}
	p.Process = harness.Start(t, command)
	p.Listens(t, p.address)
	harness.Eventually(t, "Prometheus is ready", func() bool {
		response, err := http.Get(p.url() + "/-/ready")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// answer is one series of an answer, of a query for an instant or, as [1h] is, for all samples.
type answer struct {
	Metric     map[string]string
	Value      sample
	Values     []sample
	Histogram  histogramSample
	Histograms []histogramSample
}

// sample is a time and a value.
type sample [2]any

// histogramSample is a time and a histogram.
type histogramSample [2]json.RawMessage

func (h histogramSample) String() string {
	var value struct {
		Count, Sum string
		Buckets    [][4]any // which of its ends a bucket includes, the ends, the count
	}
	if err := json.Unmarshal(h[1], &value); err != nil {
		return err.Error()
	}
	text := value.Count + " " + value.Sum
	for _, bucket := range value.Buckets {
		upper, _ := strconv.ParseFloat(bucket[2].(string), 64)
		text += fmt.Sprintf(" %.6g:%v", upper, bucket[3])
	}
	return text
}

// query asks Prometheus, and fails the test unless it answers.
func (p *prometheus) query(t testing.TB, query string) []answer {
	t.Helper()
	response, err := http.PostForm(p.url()+"/api/v1/query", url.Values{"query": {query}})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var reply struct {
		Error           string
		Warnings, Infos []string
		Data            struct{ Result json.RawMessage }
	}
	if err := json.NewDecoder(response.Body).Decode(&reply); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if reply.Error != "" || len(reply.Warnings) > 0 || len(reply.Infos) > 0 {
		t.Errorf("%s: %s %v %v", query, reply.Error, reply.Warnings, reply.Infos)
		return nil
	}
	var result []answer
	if err := json.Unmarshal(reply.Data.Result, &result); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return result
}

// values is a value for each series: a number, or a histogram's count, sum and buckets.
type values map[string]string

// key tells a series by its metric and its attributes, in the names that Prometheus has for them. What Prometheus or the
// resource have besides is left out.
func key(metric string, attributes map[string]string) string {
	var labels []string
	for name, value := range attributes {
		name = strings.ReplaceAll(name, ".", "_")
		switch name {
		case "job", "instance", "__name__", "service_name", "service_instance_id":
			continue
		}
		if strings.HasPrefix(name, "otel_scope_") {
			continue
		}
		labels = append(labels, name+"="+value)
	}
	slices.Sort(labels)
	return metric + "{" + strings.Join(labels, ",") + "}"
}

// The metrics that are sent, and the names that Prometheus gives them.
const (
	sentCounter, counterName     = "linux.process.executions", "linux_process_executions_total"
	sentHistogram, histogramName = "linux.scheduler.run_queue.duration", "linux_scheduler_run_queue_duration_seconds"
)

// values are those that Prometheus has of the metrics that are sent.
func (p *prometheus) values(t testing.TB) values {
	t.Helper()
	all := values{}
	for _, series := range p.query(t, counterName) {
		all.add(t, key(sentCounter, series.Metric), series.Value[1].(string))
	}
	for _, series := range p.query(t, histogramName) {
		all.add(t, key(sentHistogram, series.Metric), series.Histogram.String())
	}
	return all
}

func (v values) add(t testing.TB, key, value string) {
	t.Helper()
	if before, twice := v[key]; twice && before != value {
		t.Errorf("%s is there twice, with %s and %s", key, before, value)
	}
	v[key] = value
}

// valuesOf are those of requests, with the attributes of the resource.
func valuesOf(t testing.TB, requests []*collectormetrics.ExportMetricsServiceRequest) values {
	t.Helper()
	all := values{}
	for _, request := range requests {
		for _, r := range request.ResourceMetrics {
			for _, s := range r.ScopeMetrics {
				for _, m := range s.Metrics {
					for _, p := range m.GetSum().GetDataPoints() {
						all.add(t, key(m.Name, flat(r.Resource.Attributes, p.Attributes)), strconv.FormatInt(p.GetAsInt(), 10))
					}
					for _, p := range m.GetExponentialHistogram().GetDataPoints() {
						text := fmt.Sprintf("%d %v", p.Count, p.GetSum())
						for i, n := range p.Positive.BucketCounts {
							upper := math.Exp2(float64(p.Positive.Offset+int32(i)+1) / float64(int(1)<<p.Scale))
							text += fmt.Sprintf(" %.6g:%d", upper, n)
						}
						all.add(t, key(m.Name, flat(r.Resource.Attributes, p.Attributes)), text)
					}
				}
			}
		}
	}
	return all
}

func flat(lists ...[]*common.KeyValue) map[string]string {
	all := map[string]string{}
	for _, list := range lists {
		for _, a := range list {
			all[a.Key] = a.Value.GetStringValue()
		}
	}
	return all
}

// same holds values against those that were sent.
func same(t testing.TB, what string, got, want values) {
	t.Helper()
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s: %s is %q, want %q", what, key, got[key], value)
		}
	}
	for key := range got {
		if _, sent := want[key]; !sent {
			t.Errorf("%s: %s was not sent", what, key)
		}
	}
	t.Logf("%s: %d series", what, len(got))
}

// workloads are those of one host: two containers of a pod, one of another, one of no pod, a unit, and none of these.
func workloads() []map[string]string {
	hex := func() string {
		return fmt.Sprintf("%016x%016x%016x%016x", rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64())
	}
	uid := func() string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", rand.Uint32(), rand.Uint32()) }
	pod := uid()
	return []map[string]string{
		{"k8s.pod.uid": pod, "container.id": hex()},
		{"k8s.pod.uid": pod, "container.id": hex()},
		{"k8s.pod.uid": uid(), "container.id": hex()},
		{"container.id": hex()},
		{"systemd.unit": "ssh.service"},
		{},
	}
}

// newRequests are as the sidecars of two hosts send them: the same metrics, told apart by attributes of the points alone.
func newRequests(began, now time.Time, hosts ...[]map[string]string) (requests []*collectormetrics.ExportMetricsServiceRequest) {
	for i, workloads := range hosts {
		var counts []*metrics.NumberDataPoint
		var durations []*metrics.ExponentialHistogramDataPoint
		for _, workload := range workloads {
			for _, executable := range []string{"sh", "sleep"} {
				counts = append(counts, &metrics.NumberDataPoint{
					Attributes:        append(keyValues(workload), keyValues(map[string]string{"process.executable.name": executable})...),
					StartTimeUnixNano: uint64(began.UnixNano()),
					TimeUnixNano:      uint64(now.UnixNano()),
					Value:             &metrics.NumberDataPoint_AsInt{AsInt: 1 + rand.Int64N(1_000_000)},
				})
			}
			point := &metrics.ExponentialHistogramDataPoint{
				Attributes:        keyValues(workload),
				StartTimeUnixNano: uint64(began.UnixNano()),
				TimeUnixNano:      uint64(now.UnixNano()),
				Scale:             3,
				Sum:               new(float64(1+rand.IntN(1000)) / 8),
				Positive:          &metrics.ExponentialHistogramDataPoint_Buckets{Offset: int32(-160 + rand.IntN(100))},
			}
			for range 1 + rand.IntN(100) {
				n := 1 + rand.Uint64N(1000)
				point.Count += n
				point.Positive.BucketCounts = append(point.Positive.BucketCounts, n)
			}
			durations = append(durations, point)
		}
		requests = append(requests, &collectormetrics.ExportMetricsServiceRequest{ResourceMetrics: []*metrics.ResourceMetrics{{
			Resource: &resource.Resource{Attributes: keyValues(map[string]string{
				"service.name": "sidecar", "service.instance.id": fmt.Sprint("instance-", i), "host.name": fmt.Sprint("host-", i),
			})},
			ScopeMetrics: []*metrics.ScopeMetrics{{
				Scope: &common.InstrumentationScope{Name: "github.com/ebpf-sidecar/sidecar/probes/test", Version: "1"},
				Metrics: []*metrics.Metric{
					{Name: sentCounter, Unit: "{execution}", Data: &metrics.Metric_Sum{Sum: &metrics.Sum{
						IsMonotonic: true, AggregationTemporality: metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE,
						DataPoints: counts,
					}}},
					{Name: sentHistogram, Unit: "s", Data: &metrics.Metric_ExponentialHistogram{
						ExponentialHistogram: &metrics.ExponentialHistogram{
							AggregationTemporality: metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE,
							DataPoints:             durations,
						}}},
				},
			}},
		}}})
	}
	return requests
}

func keyValues(attributes map[string]string) (list []*common.KeyValue) {
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		value := &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: attributes[name]}}
		list = append(list, &common.KeyValue{Key: name, Value: value})
	}
	return list
}

// send sends requests as OTLP.
func send(t testing.TB, endpoint string, requests []*collectormetrics.ExportMetricsServiceRequest) (err error) {
	t.Helper()
	connection, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	for _, request := range requests {
		response, err := collectormetrics.NewMetricsServiceClient(connection).Export(context.Background(), request)
		if err != nil {
			return err
		}
		if n := response.GetPartialSuccess().GetRejectedDataPoints(); n != 0 {
			t.Errorf("%d points were rejected: %s", n, response.GetPartialSuccess().GetErrorMessage())
		}
	}
	return nil
}

// TestPrometheusLosesNothing sends known series through docker/collector/prometheus.yaml to Prometheus with docker/prometheus.yaml:
// each arrives once, as it was sent, from 0 at its start.
func TestPrometheusLosesNothing(t *testing.T) {
	p := newPrometheus(t)
	endpoint := startShipped(t, "prometheus.yaml", "PROMETHEUS_URL="+p.url())
	began := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	requests := newRequests(began, time.Now(), workloads(), workloads())
	if err := send(t, endpoint, requests); status.Code(err) != codes.Unavailable {
		t.Errorf("without Prometheus the sidecar hears %v, and would not keep and send the values again", err)
	}
	p.start(t)
	if err := send(t, endpoint, requests); err != nil {
		t.Fatal(err)
	}
	same(t, "Prometheus", p.values(t), valuesOf(t, requests))

	samples := append(p.query(t, counterName+"[1h]"), p.query(t, histogramName+"[1h]")...)
	for _, series := range samples {
		var at, value string
		switch {
		case len(series.Values) == 2:
			at, value = fmt.Sprint(time.UnixMilli(int64(math.Round(series.Values[0][0].(float64)*1000))).UTC()), series.Values[0][1].(string)
		case len(series.Histograms) == 2:
			seconds, _ := strconv.ParseFloat(string(series.Histograms[0][0]), 64)
			at, value = fmt.Sprint(time.UnixMilli(int64(math.Round(seconds*1000))).UTC()), series.Histograms[0].String()
		}
		if (value != "0" && value != "0 0") || at != fmt.Sprint(began.UTC()) {
			t.Errorf("%v begins at %s with %q, want 0 at %v", series.Metric, at, value, began.UTC())
		}
	}
}

// TestPrometheusWithoutCollector has the sidecar export to Prometheus itself.
func TestPrometheusWithoutCollector(t *testing.T) {
	p := newPrometheus(t)
	p.start(t)
	startSidecar(t, "export: {interval: 500ms}\n", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="+p.url()+"/api/v1/otlp/v1/metrics")
	harness.Eventually(t, "Prometheus has histograms", func() bool {
		return slices.ContainsFunc(p.query(t, "linux_scheduler_run_queue_duration_seconds"), answer.hasData)
	})
}

// TestResourcesLoseNothing sends known series through docker/collector/resources.yaml: Prometheus has each of them, and the other
// receiver has them with the workloads as resources. What that one is sent would be fewer series in another Prometheus.
func TestResourcesLoseNothing(t *testing.T) {
	p, c := newPrometheus(t), startCollector(t)
	p.start(t)
	endpoint := startShipped(t, "resources.yaml", "PROMETHEUS_URL="+p.url(), "OTLP_URL="+c.HTTPURL())
	requests := newRequests(time.Now().Add(-time.Minute), time.Now(), workloads(), workloads())
	if err := send(t, endpoint, requests); err != nil {
		t.Fatal(err)
	}
	want := valuesOf(t, requests)
	same(t, "Prometheus", p.values(t), want)
	var got []*collectormetrics.ExportMetricsServiceRequest
	harness.Eventually(t, "the other receiver has written", func() bool {
		got = c.Requests(t)
		return len(valuesOf(t, got)) >= len(want)
	})
	same(t, "the other receiver", valuesOf(t, got), want)
	resources := 0
	for _, request := range got {
		resources += len(request.ResourceMetrics)
		for _, r := range request.ResourceMetrics {
			for _, s := range r.ScopeMetrics {
				for _, m := range s.Metrics {
					for _, point := range m.GetSum().GetDataPoints() {
						if attributes := flat(point.Attributes); attributes["container.id"] != "" || attributes["k8s.pod.uid"] != "" {
							t.Errorf("a point has %v, which should be its resource's", attributes)
						}
					}
				}
			}
		}
	}
	if resources != 2*5 { // the unit and the rest share theirs
		t.Errorf("%d resources, want 5 for each host", resources)
	}

	plain := newPrometheus(t)
	if err := os.WriteFile(filepath.Join(plain.directory, "prometheus.yaml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	plain.start(t)
	crossed := startShipped(t, "resources.yaml", "PROMETHEUS_URL="+p.url(), "OTLP_URL="+plain.url()+"/api/v1/otlp")
	err := send(t, crossed, newRequests(time.Now(), time.Now(), workloads()))
	merged := plain.values(t)
	t.Logf("a Prometheus that promotes nothing, behind groupbyattrs: %d series, and says: %v", len(merged), err)
	if sent := len(want) / 2; len(merged) >= sent { // those of one host
		t.Errorf("%d series of %d: docs/collector.md says that they are merged", len(merged), sent)
	}
}

// TestTextLosesBuckets holds what docs/collector.md says of the page that the Collector's Prometheus exporter serves as text: all
// counters, and of histograms no more than count and sum.
func TestTextLosesBuckets(t *testing.T) {
	binary, err := collectorBinary()
	if err != nil {
		t.Fatal(err)
	}
	address := harness.OwnAddress()
	configuration := fmt.Sprintf(`
receivers: {otlp: {protocols: {grpc: {endpoint: "%[1]s:4317"}}}}
exporters: {prometheus: {endpoint: "%[1]s:9464"}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {metrics: {receivers: [otlp], exporters: [prometheus]}}
`, address)
	path := filepath.Join(t.TempDir(), "collector.yaml")
	if err := os.WriteFile(path, []byte(configuration), 0o644); err != nil {
		t.Fatal(err)
	}
	harness.Start(t, exec.Command(binary, "--config", path)).Listens(t, address+":4317")
	requests := newRequests(time.Now(), time.Now(), workloads()) // of one host: its name is in target_info
	if err := send(t, address+":4317", requests); err != nil {
		t.Fatal(err)
	}
	response, err := http.Get("http://" + address + ":9464/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, want := values{}, values{}
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		line := regexp.MustCompile(`^(\w+)\{(.*)\} (\S+)`).FindStringSubmatch(lines.Text())
		if line == nil || line[1] == "target_info" {
			continue
		}
		labels := map[string]string{}
		for _, label := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(line[2], -1) {
			labels[label[1]] = label[2]
		}
		value, err := strconv.ParseFloat(line[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		got.add(t, key(line[1], labels), fmt.Sprint(value))
	}
	add := func(metric string, attributes map[string]string, value float64) {
		want.add(t, key(metric, attributes), fmt.Sprint(value))
	}
	for _, m := range requests[0].ResourceMetrics[0].ScopeMetrics[0].Metrics {
		for _, p := range m.GetSum().GetDataPoints() {
			add(counterName, flat(p.Attributes), float64(p.GetAsInt()))
		}
		for _, p := range m.GetExponentialHistogram().GetDataPoints() {
			attributes := flat(p.Attributes)
			add(histogramName+"_count", attributes, float64(p.Count))
			add(histogramName+"_sum", attributes, p.GetSum())
			attributes["le"] = "+Inf"
			add(histogramName+"_bucket", attributes, float64(p.Count))
		}
	}
	same(t, "the page", got, want)
}

// kubernetes is an API server that knows pods, and nothing else.
type kubernetes struct {
	pods  []map[string]any
	mu    sync.Mutex
	asked map[string]bool // the resources that were asked for
}

func (k *kubernetes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	k.asked[r.URL.Path] = true
	k.mu.Unlock()
	switch {
	case r.URL.Path != "/api/v1/pods":
		http.NotFound(w, r)
	case r.URL.Query().Get("sendInitialEvents") != "": // as before Kubernetes 1.32; a list is asked for then
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422})
	case r.URL.Query().Get("watch") != "":
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"kind": "PodList", "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": "1"}, "items": k.pods,
		})
	}
}

// TestKubernetesLosesNothing sends known series through docker/collector/kubernetes.yaml to Prometheus with docker/prometheus.yaml: each
// arrives once, with the names of its pod. A pod that has the sidecar's address gives its name to nobody.
func TestKubernetesLosesNothing(t *testing.T) {
	hosts := [][]map[string]string{workloads(), workloads()}
	k := &kubernetes{asked: map[string]bool{}}
	pod := func(name, uid, ip string) {
		k.pods = append(k.pods, map[string]any{
			"metadata": map[string]any{
				"name": name + "-7c9d8b6f5d-x2x4z", "namespace": "shop", "uid": uid, "labels": map[string]any{"pod-template-hash": "7c9d8b6f5d"},
				"ownerReferences": []map[string]any{{
					"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name + "-7c9d8b6f5d", "uid": uid, "controller": true,
				}},
			},
			"status": map[string]any{"podIP": ip},
		})
	}
	pod("sidecars-address", "00000000-0000-4000-8000-000000000000", "127.0.0.1")
	for i, host := range hosts {
		pod(fmt.Sprint("web-", i), host[0]["k8s.pod.uid"], fmt.Sprint("198.18.0.", i))
		pod(fmt.Sprint("database-", i), host[2]["k8s.pod.uid"], fmt.Sprint("198.18.1.", i))
	}
	api := httptest.NewServer(k)
	t.Cleanup(api.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: test,
contexts: [{name: test, context: {cluster: test}}], clusters: [{name: test, cluster: {server: "%s"}}]}`, api.URL)), 0o644); err != nil {
		t.Fatal(err)
	}
	p := newPrometheus(t)
	p.start(t)
	endpoint := startShipped(t, "kubernetes.yaml", "OTLP_URL="+p.url()+"/api/v1/otlp", "KUBECONFIG="+kubeconfig)
	requests := newRequests(time.Now().Add(-time.Minute), time.Now(), hosts...)
	if err := send(t, endpoint, requests); err != nil {
		t.Fatal(err)
	}
	// What is expected has the names besides.
	for i, request := range requests {
		for _, m := range request.ResourceMetrics[0].ScopeMetrics[0].Metrics {
			for _, point := range m.GetSum().GetDataPoints() {
				point.Attributes = append(point.Attributes, names(i, hosts[i], flat(point.Attributes))...)
			}
			for _, point := range m.GetExponentialHistogram().GetDataPoints() {
				point.Attributes = append(point.Attributes, names(i, hosts[i], flat(point.Attributes))...)
			}
		}
	}
	same(t, "Prometheus", p.values(t), valuesOf(t, requests))
	k.mu.Lock()
	defer k.mu.Unlock()
	if !maps.Equal(k.asked, map[string]bool{"/api/v1/pods": true}) {
		t.Errorf("asked for %v, while docs/collector.md says that pods are enough", k.asked)
	}
}

// names are what Kubernetes has for a workload of workloads.
func names(host int, workloads []map[string]string, attributes map[string]string) []*common.KeyValue {
	deployment := map[string]string{workloads[0]["k8s.pod.uid"]: "web", workloads[2]["k8s.pod.uid"]: "database"}[attributes["k8s.pod.uid"]]
	if deployment == "" {
		return nil
	}
	deployment = fmt.Sprint(deployment, "-", host)
	return keyValues(map[string]string{
		"k8s.namespace.name": "shop", "k8s.pod.name": deployment + "-7c9d8b6f5d-x2x4z", "k8s.deployment.name": deployment,
	})
}
