package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/ebpf-sidecar/sidecar/internal/golden"
)

var catalogue = Catalogue{
	"process": {Description: "processes and threads", Default: true, Metrics: map[string]Switch{
		"linux.process.executions": {Description: "programs executed", Default: true},
		"linux.process.exits":      {Description: "processes that ended", Default: true},
	}},
	"scheduler": {Description: "who waits for a CPU", Default: true, Metrics: map[string]Switch{
		"linux.scheduler.context_switches": {Description: "switches", Default: true},
		"linux.scheduler.preemptions":      {Description: "who took the CPU from whom"},
	}},
	"syscalls": {Description: "system calls", Metrics: map[string]Switch{
		"linux.syscall.duration": {Description: "how long they take", Default: true},
	}},
}

// environment is a set of variables to pass to Load.
type environment map[string]string

func (e environment) lookup(name string) (string, bool) {
	value, ok := e[name]
	return value, ok
}

// wanted returns the defaults with changes.
func wanted(change func(*Config)) *Config {
	c, _ := defaults(catalogue)
	c.Export.CycleTimeout = 30 * time.Second
	if change != nil {
		change(c)
	}
	return c
}

func TestDefaults(t *testing.T) {
	got, err := Load("", environment{}.lookup, catalogue)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Probes: map[string]Probe{
			"process":   {true, map[string]bool{"linux.process.executions": true, "linux.process.exits": true}},
			"scheduler": {true, map[string]bool{"linux.scheduler.context_switches": true, "linux.scheduler.preemptions": false}},
			"syscalls":  {false, map[string]bool{"linux.syscall.duration": true}},
		},
		Attributes:  []string{"container.id", "k8s.pod.uid", "systemd.unit", "process.executable.name"},
		SeriesLimit: 2000,
		MemoryLimit: 64 << 20,
		Export: Export{
			Endpoint: "http://localhost:4317", Protocol: GRPC, Interval: 10 * time.Second, Timeout: 10 * time.Second,
			Compression: "none", CycleTimeout: 30 * time.Second,
			Temporality: "cumulative", Histograms: "base2_exponential_bucket_histogram",
		},
		Log:       Log{Level: slog.LevelInfo, Format: "text"},
		Exporters: []string{OTLP},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestFile(t *testing.T) {
	env := environment{
		"HOST": "collector", "LIMIT": "7", "ON": "true", "EMPTY": "",
		"INJECTION": "a\nseries_limit: 1", "NESTED": "${env:HOST}", "NUMBER": "42",
	}
	endpoint := func(url string) func(*Config) {
		return func(c *Config) { c.Export.Endpoint, c.Export.EndpointSet = url, true }
	}
	header := func(value string) func(*Config) {
		return func(c *Config) { c.Export.Headers = map[string]string{"x-a": value} }
	}
	for name, test := range map[string]struct {
		yaml   string
		change func(*Config)
	}{
		"empty":                {"", nil},
		"comment":              {"# nothing\n", nil},
		"null":                 {"---\n", nil},
		"keys without a value": {"probes:\nseries_limit:\nexport:\n  endpoint: ~\n", nil},
		"everything": {`
probes:
  process: {enabled: false}
  scheduler: {metrics: {linux.scheduler.preemptions: true}}
attributes: [process.linux.cgroup]
series_limit: 64
memory_limit: 1GiB
export:
  endpoint: https://collector.example:443/otlp/
  protocol: http/protobuf
  interval: 1m30s
  timeout: 500ms
  headers: {Authorization: Bearer x=y, x-n: 1}
  compression: gzip
  tls: {ca_file: ca, cert_file: cert, key_file: key, insecure_skip_verify: true, server_name: name}
log: {level: debug, format: json}
`, func(c *Config) {
			c.Probes["process"] = Probe{false, c.Probes["process"].Metrics}
			c.Probes["scheduler"].Metrics["linux.scheduler.preemptions"] = true
			c.Attributes = []string{"process.linux.cgroup"}
			c.SeriesLimit = 64
			c.MemoryLimit = 1 << 30
			c.Export = Export{
				Endpoint: "https://collector.example:443/otlp/v1/metrics", EndpointSet: true, Protocol: HTTPProtobuf,
				Interval: 90 * time.Second, Timeout: 500 * time.Millisecond,
				Headers: map[string]string{"Authorization": "Bearer x=y", "x-n": "1"}, Compression: "gzip",
				TLS:          TLS{"ca", "cert", "key", true, "name"},
				CycleTimeout: 30 * time.Second, Temporality: "cumulative", Histograms: "base2_exponential_bucket_histogram",
			}
			c.Log = Log{slog.LevelDebug, JSON}
		}},
		"no attributes":       {"attributes: []", func(c *Config) { c.Attributes = nil }},
		"memory without unit": {"memory_limit: 500000", func(c *Config) { c.MemoryLimit = 500000 }},
		"http default": {"export: {protocol: http/protobuf}", func(c *Config) {
			c.Export.Protocol, c.Export.Endpoint = HTTPProtobuf, "http://localhost:4318/v1/metrics"
		}},
		"alias": {"probes: {process: &off {enabled: false}, scheduler: *off}", func(c *Config) {
			c.Probes["process"] = Probe{false, c.Probes["process"].Metrics}
			c.Probes["scheduler"] = Probe{false, c.Probes["scheduler"].Metrics}
		}},
		"variable":           {"export: {endpoint: 'http://${env:HOST}:4317'}", endpoint("http://collector:4317")},
		"variable, number":   {"series_limit: ${env:LIMIT}", func(c *Config) { c.SeriesLimit = 7 }},
		"variable, truth":    {"export:\n  tls:\n    insecure_skip_verify: ${env:ON}", func(c *Config) { c.Export.TLS.InsecureSkipVerify = true }},
		"variable, text":     {"export:\n  headers:\n    x-a: ${env:NUMBER}", header("42")},
		"default":            {"series_limit: ${env:UNSET:-8}", func(c *Config) { c.SeriesLimit = 8 }},
		"default of empty":   {"series_limit: ${env:EMPTY:-8}", func(c *Config) { c.SeriesLimit = 8 }},
		"default not needed": {"series_limit: ${env:LIMIT:-8}", func(c *Config) { c.SeriesLimit = 7 }},
		"empty default":      {"series_limit: ${env:UNSET:-}", nil},
		"dollars":            {"export:\n  headers:\n    x-a: $$${env:HOST}$${env:HOST}$1", header("$collector${env:HOST}$1")},
		"no second round":    {"export:\n  headers:\n    x-a: ${env:NESTED}", header("${env:HOST}")},
		"no injection":       {"export:\n  tls:\n    server_name: ${env:INJECTION}", func(c *Config) { c.Export.TLS.ServerName = "a\nseries_limit: 1" }},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := load("file.yaml", []byte(test.yaml), env.lookup, catalogue)
			if err != nil {
				t.Fatal(err)
			}
			if want := wanted(test.change); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestEnvironment sets variables above a file that sets the same things.
func TestEnvironment(t *testing.T) {
	const file = `
series_limit: 5
export: {endpoint: "http://file:1", interval: 5s, headers: {from: file}}
log: {level: error}
`
	fromFile := func(c *Config) {
		c.SeriesLimit = 5
		c.Export.Endpoint, c.Export.EndpointSet = "http://file:1", true
		c.Export.Interval = 5 * time.Second
		c.Export.Headers = map[string]string{"from": "file"}
		c.Log.Level = slog.LevelError
	}
	for name, test := range map[string]struct {
		env    environment
		change func(*Config)
	}{
		"nothing": {environment{}, func(*Config) {}},
		"empty variables": {environment{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_METRIC_EXPORT_INTERVAL": "", "OTEL_METRICS_EXPORTER": "", "SIDECAR_SERIES_LIMIT": "",
		}, func(*Config) {}},
		"general": {environment{
			"OTEL_EXPORTER_OTLP_ENDPOINT":           "https://general:2",
			"OTEL_EXPORTER_OTLP_HEADERS":            "a=1, b = x%2Cy%20z,c=k=v",
			"OTEL_EXPORTER_OTLP_TIMEOUT":            "1500",
			"OTEL_EXPORTER_OTLP_COMPRESSION":        "gzip",
			"OTEL_EXPORTER_OTLP_CERTIFICATE":        "ca",
			"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "cert",
			"OTEL_EXPORTER_OTLP_CLIENT_KEY":         "key",
			"OTEL_METRIC_EXPORT_INTERVAL":           "60000",
			"OTEL_METRIC_EXPORT_TIMEOUT":            "20000",
			"OTEL_METRICS_EXPORTER":                 "otlp, Console",
			"OTEL_SDK_DISABLED":                     "TRUE",
			"OTEL_LOG_LEVEL":                        "DEBUG",
		}, func(c *Config) {
			c.Export.Endpoint = "https://general:2"
			c.Export.Headers = map[string]string{"a": "1", "b": "x,y z", "c": "k=v"}
			c.Export.Timeout = 1500 * time.Millisecond
			c.Export.Compression = "gzip"
			c.Export.TLS = TLS{CAFile: "ca", CertFile: "cert", KeyFile: "key"}
			c.Export.Interval = time.Minute
			c.Export.CycleTimeout = 20 * time.Second
			c.Exporters = []string{OTLP, Console}
			c.Disabled = true
			c.Log.Level = slog.LevelDebug
		}},
		"metrics over general": {environment{
			"OTEL_EXPORTER_OTLP_ENDPOINT":         "no URL, but not for metrics",
			"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://metrics:3",
			"OTEL_EXPORTER_OTLP_PROTOCOL":         "http/json",
			"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
			"OTEL_EXPORTER_OTLP_TIMEOUT":          "1",
			"OTEL_EXPORTER_OTLP_METRICS_TIMEOUT":  "0",
			"OTEL_EXPORTER_OTLP_HEADERS":          "a=1",
			"OTEL_EXPORTER_OTLP_METRICS_HEADERS":  "b=2",
		}, func(c *Config) {
			c.Export.Endpoint = "http://metrics:3"
			c.Export.Timeout = (1<<31 - 1) * time.Millisecond
			c.Export.CycleTimeout = c.Export.Timeout
			c.Export.Headers = map[string]string{"b": "2"}
		}},
		"ours over theirs": {environment{
			"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT":     "http://metrics:3",
			"SIDECAR_EXPORT_ENDPOINT":                 "http://ours:4",
			"OTEL_METRIC_EXPORT_INTERVAL":             "60000",
			"SIDECAR_EXPORT_INTERVAL":                 "7s",
			"OTEL_LOG_LEVEL":                          "debug",
			"SIDECAR_LOG_LEVEL":                       "warn",
			"SIDECAR_LOG_FORMAT":                      "json",
			"SIDECAR_SERIES_LIMIT":                    "9",
			"SIDECAR_MEMORY_LIMIT":                    "1MiB",
			"SIDECAR_EXPORT_TLS_INSECURE_SKIP_VERIFY": "true",
		}, func(c *Config) {
			c.Export.Endpoint = "http://ours:4"
			c.Export.Interval = 7 * time.Second
			c.Log = Log{slog.LevelWarn, JSON}
			c.SeriesLimit = 9
			c.MemoryLimit = 1 << 20
			c.Export.TLS.InsecureSkipVerify = true
		}},
		"path added to the file's": {environment{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, func(c *Config) {
			c.Export.Protocol, c.Export.Endpoint = HTTPProtobuf, "http://file:1/v1/metrics"
		}},
		"path added to the general": {environment{
			"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://general:2/otlp/",
		}, func(c *Config) {
			c.Export.Protocol, c.Export.Endpoint = HTTPProtobuf, "http://general:2/otlp/v1/metrics"
		}},
		"path of metrics as it is": {environment{
			"OTEL_EXPORTER_OTLP_PROTOCOL":         "http/protobuf",
			"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://metrics:3/otlp/",
		}, func(c *Config) {
			c.Export.Protocol, c.Export.Endpoint = HTTPProtobuf, "http://metrics:3/otlp/"
		}},
		"a short cycle": {environment{"OTEL_METRIC_EXPORT_TIMEOUT": "5000"}, func(c *Config) { c.Export.CycleTimeout = 5 * time.Second }},
		"preferences": {environment{
			"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE":        "Cumulative",
			"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "EXPLICIT_BUCKET_HISTOGRAM",
		}, func(c *Config) { c.Export.Histograms = ExplicitBuckets }},
		"no exporter":  {environment{"OTEL_METRICS_EXPORTER": "none"}, func(c *Config) { c.Exporters = nil }},
		"not disabled": {environment{"OTEL_SDK_DISABLED": "False"}, func(*Config) {}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := load("file.yaml", []byte(file), test.env.lookup, catalogue)
			if err != nil {
				t.Fatal(err)
			}
			if want := wanted(func(c *Config) { fromFile(c); test.change(c) }); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestErrors loads a file, below variables, in which nearly everything is wrong.
func TestErrors(t *testing.T) {
	_, err := Load("testdata/wrong.yaml", environment{
		"OTEL_EXPORTER_OTLP_TIMEOUT":     "10s",
		"OTEL_METRIC_EXPORT_INTERVAL":    "0",
		"OTEL_METRIC_EXPORT_TIMEOUT":     "-1",
		"OTEL_METRICS_EXPORTER":          "prometheus",
		"OTEL_SDK_DISABLED":              "1",
		"OTEL_LOG_LEVEL":                 "verbose",
		"OTEL_EXPORTER_OTLP_HEADERS":     "authorization: Bearer t0psecret",
		"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd",
		"SIDECAR_EXPORT_ENDPOINT":        "http://me:t0psecret@collector:4317",
		"SIDECAR_EXPORT_TLS_SERVER_NAME": "fine",
		"SIDECAR_SERIES_LIMIT":           "-5",
		"SIDECAR_MEMORY_LIMIT":           "lots",
		"SKIP":                           "maybe",
	}.lookup, catalogue)
	if err == nil {
		t.Fatal("no error")
	}
	if strings.Contains(err.Error(), "t0psecret") {
		t.Error("the error shows a secret")
	}
	golden.Check(t, "wrong.golden", []byte(err.Error()+"\n"))
}

func TestError(t *testing.T) {
	for name, test := range map[string]struct {
		yaml string
		env  environment
		want string
	}{
		"syntax":          {"log: [a\nb: c", nil, "f.yaml:2:2: not YAML: while parsing a flow sequence: did not find expected ',' or ']'"},
		"tab":             {"log:\n\tlevel: info", nil, "f.yaml:2:1: not YAML: while scanning for the next token: found character that cannot start any token"},
		"no text":         {"log:\n  level: \x01", nil, "f.yaml:2:10: not YAML: control characters are not allowed (value: 1)"},
		"unknown anchor":  {"log: *x", nil, "f.yaml:1:6: not YAML: unknown anchor 'x' referenced"},
		"second document": {"log:\n---\nlog:\n", nil, "f.yaml:2:1: a second document begins here (keep one)"},
		"no mapping":      {"hello", nil, "f.yaml:1:1: the file is a single value (write keys below it, as name: value)"},
		"merge":           {"log: {<<: {level: info}}", nil, `f.yaml:1:7: unknown key "<<" in log (write one of level, format)`},
		"loop":            {"log: &x {level: *x}", nil, "f.yaml:1:6: log.level is a mapping (write a single value)"},
		"unclosed":        {"log: {level: '${env:X'}", nil, "f.yaml:1:14: log.level: ${ begins nothing known (write ${env:NAME} or ${env:NAME:-default}, or $${ for the text ${)"},
		"overflow":        {"memory_limit: 9999999TiB", nil, `f.yaml:1:15: memory_limit: "9999999TiB" is not a size (write a whole number and KiB, MiB or GiB, such as 64MiB)`},
		"unknown probe":   {"probes: {disk: {}}", nil, `f.yaml:1:10: unknown key "disk" in probes (write one of process, scheduler, syscalls)`},
		"path with gRPC":  {"export: {endpoint: 'http://a:1/v1/metrics'}", nil, `f.yaml:1:20: export.endpoint: "http://a:1/v1/metrics" has a path, which gRPC has not (write http://a:1, or set the protocol to http/protobuf)`},
		"key alone":       {"export: {tls: {key_file: a}}", nil, "f.yaml:1:26: export.tls.key_file: a key needs its certificate (set export.tls.cert_file too)"},
		"none and others": {"", environment{"OTEL_METRICS_EXPORTER": "none,otlp"}, "OTEL_METRICS_EXPORTER: none is not the only exporter (write none, or the others)"},
		"certificate alone": {"", environment{"OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE": "a"},
			"OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE: a certificate needs its key (set export.tls.key_file too)"},
		"secret in place of a name": {"", environment{"OTEL_EXPORTER_OTLP_HEADERS": "Authorization: Basic dXNlcjpwYXNzd29yZA=="},
			"OTEL_EXPORTER_OTLP_HEADERS: a header is not name=value with the value percent-encoded (write name1=value1,name2=value2, and %2C for a comma)"},
		"deltas": {"", environment{"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"},
			`OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: "delta" is not known (unset it, and let the Collector's cumulativetodelta processor make deltas)`},
		"unknown histograms": {"", environment{"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "explicit"},
			`OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION: "explicit" is not known (write one of base2_exponential_bucket_histogram, explicit_bucket_histogram)`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load("f.yaml", []byte(test.yaml), test.env.lookup, catalogue)
			if got := fmt.Sprint(err); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "absent.yaml"), environment{}.lookup, catalogue); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
}

func TestCheckEndpoint(t *testing.T) {
	for _, endpoint := range []string{"http://localhost:4317", "https://collector.example:443", "HTTP://[::1]:4317/", "http://127.0.0.1:1"} {
		for _, protocol := range []string{GRPC, HTTPProtobuf, ""} {
			if err := checkEndpoint(endpoint, protocol); err != nil {
				t.Errorf("%s: %v", endpoint, err)
			}
		}
	}
	if err := checkEndpoint("http://localhost:4318/otlp", HTTPProtobuf); err != nil {
		t.Error(err)
	}
	for endpoint, want := range map[string]string{
		"":                         `"" has no scheme (write http:// before host and port, as in http://localhost:4317, or https:// for TLS)`,
		"127.0.0.1:4317":           `"127.0.0.1:4317" has no scheme (write http:// before host and port, as in http://localhost:4317, or https:// for TLS)`,
		"localhost:4317":           `"localhost:4317" has no scheme (write http:// before host and port, as in http://localhost:4317, or https:// for TLS)`,
		"http://host":              `"http://host" has no port (write http://host:4317, or the port that the receiver listens on)`,
		"https://host/":            `"https://host/" has no port (write https://host:4317/, or the port that the receiver listens on)`,
		"http://host:":             `"http://host:" has no port (write http://host:4317, or the port that the receiver listens on)`,
		"http://:4317":             `"http://:4317" has no host (write it as in http://localhost:4317)`,
		"http://host:grpc":         `"http://host:grpc" is not a URL: invalid port ":grpc" after host (write it as in http://localhost:4317)`,
		"http://host:0":            `"http://host:0" has no valid port (write one from 1 to 65535)`,
		"http://host:65536":        `"http://host:65536" has no valid port (write one from 1 to 65535)`,
		"unix:///run/otel.sock":    `"unix:///run/otel.sock" has the scheme unix (write http, or https for TLS)`,
		"http://me:secret@host:1":  "the URL has a user, a query or a fragment, which are not sent (write scheme, host and port only, and credentials as headers)",
		"http://host:1?key=secret": "the URL has a user, a query or a fragment, which are not sent (write scheme, host and port only, and credentials as headers)",
	} {
		if got := fmt.Sprint(checkEndpoint(endpoint, GRPC)); got != want {
			t.Errorf("%q\ngot  %s\nwant %s", endpoint, got, want)
		}
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]struct {
		size ByteSize
		text string
	}{
		"1": {1, "1B"}, "500000": {500000, "500kB"}, "64MiB": {64 << 20, "64MiB"}, "64 MiB": {64 << 20, "64MiB"}, "64MB": {64e6, "64MB"},
		"2GiB": {2 << 30, "2GiB"}, "1024KiB": {1 << 20, "1MiB"}, "3TiB": {3 << 40, "3TiB"}, "1025B": {1025, "1025B"}, "7kB": {7000, "7kB"},
	} {
		var got ByteSize
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want.size || got.String() != want.text {
			t.Errorf("%s: %d, %s, %v; want %d, %s", text, int64(got), got, err, int64(want.size), want.text)
		}
	}
	for _, text := range []string{"", "0", "-1", "MiB", "64M", "64Mi", "1.5GiB", "64mib", "0x10", "8388608TiB"} {
		var got ByteSize
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error, but %s", text, got)
		}
	}
}

// TestDefaultFile checks that the file is all comments, and that it says the defaults when they are removed.
func TestDefaultFile(t *testing.T) {
	file := Default(catalogue)
	golden.Check(t, "default.yaml", file)
	got, err := load("default.yaml", file, environment{}.lookup, catalogue)
	if err != nil || !reflect.DeepEqual(got, wanted(nil)) {
		t.Errorf("commented out: %+v, %v", got, err)
	}
	other := Catalogue{"process": {Metrics: map[string]Switch{}}}
	for name, probe := range catalogue { // all the other way round, so that a missing line is noticed
		metrics := make(map[string]Switch)
		for metric, s := range probe.Metrics {
			metrics[metric] = Switch{Default: !s.Default}
		}
		other[name] = Switch{Default: !probe.Default, Metrics: metrics}
	}
	active := regexp.MustCompile("(?m)^# ").ReplaceAll(file, nil)
	got, err = load("default.yaml", active, environment{}.lookup, other)
	want := wanted(func(c *Config) { c.Export.EndpointSet = true })
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("active: %v\ngot  %+v\nwant %+v", err, got, want)
	}
	_, root := defaults(catalogue)
	for _, k := range root.leaves() {
		if k.path != "" && !regexp.MustCompile(`(?m)^#  *`+k.name+`:.*# .`).Match(file) {
			t.Errorf("%s is not explained", k.path)
		}
	}
}

func TestSchema(t *testing.T) {
	text, err := Schema(catalogue)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "schema.json", append(text, '\n'))
	var closed func(path string, schema map[string]any)
	closed = func(path string, schema map[string]any) {
		if text, _ := schema["description"].(string); path != "" && text == "" {
			t.Errorf("%s has no description", path)
		}
		properties, _ := schema["properties"].(map[string]any)
		if properties != nil && schema["additionalProperties"] != false {
			t.Errorf("%s: unknown keys are allowed", path)
		}
		for name, property := range properties {
			closed(join(path, name), property.(map[string]any))
		}
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	closed("", schema)
}

func TestHint(t *testing.T) {
	keys := []string{"series_limit", "memory_limit", "log", "linux.process.executions"}
	for name, want := range map[string]string{
		"serie_limit":   "did you mean series_limit?",
		"seriesLimit":   "did you mean series_limit?",
		"lgo":           "write one of series_limit, memory_limit, log, linux.process.executions",
		"logs":          "did you mean log?",
		"executions":    "did you mean linux.process.executions?",
		"something":     "write one of series_limit, memory_limit, log, linux.process.executions",
		"process.execs": "write one of series_limit, memory_limit, log, linux.process.executions",
	} {
		if got := hint(name, keys); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if got := hint("x", nil); got != "there is none" {
		t.Error(got)
	}
}

// FuzzLoad checks that loading never panics, that every line of an error says where, and that what loads is valid.
func FuzzLoad(f *testing.F) {
	wrong, err := os.ReadFile("testdata/wrong.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wrong, "10s")
	f.Add(regexp.MustCompile("(?m)^# ").ReplaceAll(Default(catalogue), nil), "")
	f.Add([]byte("export:\n  headers: &h {a: $${env:X:-y}}\n  endpoint: ${env:X}\n---\n"), "http://a:1")
	f.Add([]byte("log: {level: *a}\nprobes: {? [a] : b, \"\\n\": c}"), "a=b,c=%20")
	problem := regexp.MustCompile(`^(f\.yaml:[0-9]+:[0-9]+|[A-Z_]+): .`)
	f.Fuzz(func(t *testing.T, file []byte, variable string) {
		env := func(name string) (string, bool) {
			return variable, len(file)%2 == 0 || !strings.HasPrefix(name, "OTEL_")
		}
		config, err := load("f.yaml", file, env, catalogue)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !problem.MatchString(line) || strings.ContainsFunc(line, unicode.IsControl) {
					t.Errorf("%q", line)
				}
			}
			return
		}
		if err := checkEndpoint(config.Export.Endpoint, config.Export.Protocol); err != nil {
			t.Error(err)
		}
		for _, k := range (key{value: reflect.ValueOf(config).Elem()}).leaves() {
			if err := revalidate(k); err != nil {
				t.Errorf("%s: %v", k.name, err)
			}
		}
		for name, probe := range catalogue {
			if !slices.Equal(slices.Sorted(maps.Keys(config.Probes[name].Metrics)), slices.Sorted(maps.Keys(probe.Metrics))) {
				t.Errorf("%s: %v", name, config.Probes[name])
			}
		}
		if len(config.Probes) != len(catalogue) {
			t.Error(config.Probes)
		}
	})
}

// revalidate checks a value by writing it as text and reading that.
func revalidate(k key) error {
	before := k.value.Interface()
	switch value := before.(type) {
	case map[string]Probe:
		return nil
	case map[string]string:
		for name, text := range value {
			if err := errors.Join(checkHeaderName(name), checkHeaderValue(name, text)); err != nil {
				return err
			}
		}
		return nil
	case []string:
		if len(value) == 0 {
			return nil
		}
	}
	text := fmt.Sprint(before)
	switch value := before.(type) {
	case []string:
		text = strings.Join(value, ",")
	case slog.Level:
		text = strings.ToLower(text)
	}
	if err := k.set(text); err != nil {
		return err
	}
	if after := k.value.Interface(); !reflect.DeepEqual(before, after) {
		return fmt.Errorf("%v became %v", before, after)
	}
	return nil
}

// TestReference checks that every key is in the reference with the variables that set it, and no other.
func TestReference(t *testing.T) {
	documented := make(map[string]bool)
	for _, e := range Reference(catalogue) {
		if e.Doc == "" || e.Type == "" || e.Path == "" && len(e.Variables) == 0 {
			t.Errorf("not all is said: %+v", e)
		}
		documented[e.Path] = true
		for _, variable := range e.Variables {
			if documented[variable] {
				t.Errorf("%s is there twice", variable)
			}
			documented[variable] = true
			// What is read cannot be this, unless it is any text.
			if _, err := load("", nil, environment{variable: "\x00"}.lookup, catalogue); err == nil && e.Type != "text" {
				t.Errorf("%s is not read", variable)
			}
		}
	}
	_, root := defaults(catalogue)
	for _, k := range root.leaves() {
		if k.path != "" && !k.section() && !documented[k.path] {
			t.Errorf("%s is not in the reference", k.path)
		}
		for _, variable := range k.variables() {
			if !k.section() && !documented[variable] {
				t.Errorf("%s is not in the reference", variable)
			}
		}
	}
	for name, probe := range catalogue {
		for metric := range probe.Metrics {
			if path := "probes." + name + ".metrics." + metric; !documented[path] {
				t.Errorf("%s is not in the reference", path)
			}
		}
	}
}
