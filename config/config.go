// Package config is the configuration: what the file, the environment and the defaults add up to. A value comes from a
// variable if one is set, else from the file, else it is the default.
//
// The struct tags below are the one table that everything works from: the decoder, the environment, the documented
// default file, the reference and the JSON Schema.
//
//	yaml     the key in the file; a field without one is set by a variable only
//	default  its value in the file's notation
//	enum     the values that there are, separated by |
//	instead  what to do instead of setting another; without it, the values are listed
//	env      the OpenTelemetry variable that sets it; OTEL_EXPORTER_OTLP_X also stands for OTEL_EXPORTER_OTLP_METRICS_X,
//	         which wins. Every key with a single value, but for those below probes, has a variable of ours too, which
//	         wins over both: SIDECAR_ and its path, as in SIDECAR_EXPORT_ENDPOINT
//	doc      one line for people
//
// OTEL_EXPORTER_OTLP_INSECURE has no say: by the specification it is for endpoints without a scheme, and those are
// errors here.
package config

import (
	"log/slog"
	"time"
)

// Values of Export.Protocol.
const (
	GRPC         = "grpc"
	HTTPProtobuf = "http/protobuf"
)

// JSON is the value of Log.Format that is not the default.
const JSON = "json"

// ExplicitBuckets is the value of Export.Histograms that is not the default.
const ExplicitBuckets = "explicit_bucket_histogram"

// Values of Config.Exporters.
const (
	OTLP    = "otlp"
	Console = "console"
)

// Config is a valid configuration: Load returns no other.
type Config struct {
	// Probes has every probe and every metric of the catalogue.
	Probes      map[string]Probe `yaml:"probes" doc:"what is measured"`
	Attributes  []string         `yaml:"attributes" default:"container.id,k8s.pod.uid,systemd.unit,process.executable.name" enum:"container.id|k8s.pod.uid|systemd.unit|process.linux.cgroup|process.executable.name" doc:"what tells series apart, where it applies; process.linux.cgroup is unbounded"`
	SeriesLimit int              `yaml:"series_limit" default:"2000" doc:"series that one table of instruments holds; the rest add up in its overflow series"`
	MemoryLimit ByteSize         `yaml:"memory_limit" default:"64MiB" doc:"kernel memory of all probes together"`
	Export      Export           `yaml:"export" doc:"how metrics leave"`
	State       State            `yaml:"state" doc:"what outlives the process"`
	Log         Log              `yaml:"log" doc:"the log, on standard error"`

	// Exporters are those to send to, OTLP or Console; none at all is possible.
	Exporters []string `default:"otlp" enum:"otlp|console|none" env:"OTEL_METRICS_EXPORTER" doc:"where metrics go: otlp, console (a table on standard output), both, or none, which loads nothing either"`
	// Disabled says to export nothing and to load nothing.
	Disabled bool `env:"OTEL_SDK_DISABLED" doc:"load nothing and export nothing"`
}

// Probe is what of a probe is on.
type Probe struct {
	Enabled bool            `yaml:"enabled" doc:"load the probe"`
	Metrics map[string]bool `yaml:"metrics" doc:"its metrics"`
}

// Export is the OTLP exporter's configuration.
type Export struct {
	// Endpoint is the URL that requests go to: for HTTPProtobuf it has the path.
	Endpoint string `yaml:"endpoint" default:"http://localhost:4317" env:"OTEL_EXPORTER_OTLP_ENDPOINT" doc:"the receiver: scheme, host and port; http/protobuf adds /v1/metrics"`
	// EndpointSet says that Endpoint is not the default.
	EndpointSet bool
	Protocol    string            `yaml:"protocol" default:"grpc" enum:"grpc|http/protobuf" env:"OTEL_EXPORTER_OTLP_PROTOCOL" doc:"grpc or http/protobuf"`
	Interval    time.Duration     `yaml:"interval" default:"10s" env:"OTEL_METRIC_EXPORT_INTERVAL" doc:"time from one export to the next"`
	Timeout     time.Duration     `yaml:"timeout" default:"10s" env:"OTEL_EXPORTER_OTLP_TIMEOUT" doc:"the longest that sending one batch may take, retries included"`
	Headers     map[string]string `yaml:"headers" env:"OTEL_EXPORTER_OTLP_HEADERS" doc:"sent with every request"`
	Compression string            `yaml:"compression" default:"none" enum:"none|gzip" env:"OTEL_EXPORTER_OTLP_COMPRESSION" doc:"none or gzip"`
	TLS         TLS               `yaml:"tls" doc:"for https endpoints"`

	// CycleTimeout is the longest that one collection and the export of all its batches may take. If it is not set, it
	// is 30 s, or Timeout if that is longer.
	CycleTimeout time.Duration `env:"OTEL_METRIC_EXPORT_TIMEOUT" doc:"the longest that one collection and the export of all its batches may take; unset, 30 s, or export.timeout if that is longer"`
	// Temporality has one value only.
	Temporality string `default:"cumulative" enum:"cumulative" instead:"unset it, and let the Collector's cumulativetodelta processor make deltas" env:"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE" doc:"the temporality of sums and histograms; the Collector's cumulativetodelta processor makes deltas"`
	// Histograms is the form that histograms are exported in. The specification's default is explicit buckets; ours is
	// what the kernel counts.
	Histograms string `default:"base2_exponential_bucket_histogram" enum:"base2_exponential_bucket_histogram|explicit_bucket_histogram" env:"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION" doc:"the form of histograms; explicit buckets are for receivers that know no exponential ones"`
}

// State is what outlives the process.
type State struct {
	Pin string `yaml:"pin" doc:"folder of a BPF file system, such as /sys/fs/bpf/sidecar, where maps and programs are pinned: they count on while no sidecar runs, until sidecar detach; as a service of systemd they do over restarts without it"`
}

// TLS is how a connection is secured. File names are as configured; nothing is read here.
type TLS struct {
	CAFile             string `yaml:"ca_file" env:"OTEL_EXPORTER_OTLP_CERTIFICATE" doc:"PEM file of the authorities to trust, instead of the system's"`
	CertFile           string `yaml:"cert_file" env:"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE" doc:"PEM file of the client's certificate"`
	KeyFile            string `yaml:"key_file" env:"OTEL_EXPORTER_OTLP_CLIENT_KEY" doc:"PEM file of its key"`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" doc:"trust any certificate"`
	ServerName         string `yaml:"server_name" doc:"name that the certificate must have, instead of the endpoint's host"`
}

// Log is what is logged, and how.
type Log struct {
	Level  slog.Level `yaml:"level" default:"info" enum:"debug|info|warn|error" env:"OTEL_LOG_LEVEL" doc:"debug, info, warn or error"`
	Format string     `yaml:"format" default:"text" enum:"text|json" doc:"text or json"`
}

// Catalogue is the probes that there are, by name. It is handed in, so that this package knows none.
type Catalogue map[string]Switch

// Switch is a probe or a metric that can be on or off.
type Switch struct {
	Description string
	Default     bool
	Metrics     map[string]Switch // of a probe, by name
}

// probes is the catalogue as configuration: everything as it is by default.
func (c Catalogue) probes() map[string]Probe {
	probes := make(map[string]Probe, len(c))
	for name, probe := range c {
		metrics := make(map[string]bool, len(probe.Metrics))
		for metric, s := range probe.Metrics {
			metrics[metric] = s.Default
		}
		probes[name] = Probe{Enabled: probe.Default, Metrics: metrics}
	}
	return probes
}

// descriptions are the catalogue's, by path in the file.
func (c Catalogue) descriptions() map[string]string {
	texts := make(map[string]string)
	for name, probe := range c {
		path := "probes." + name
		texts[path] = probe.Description
		for metric, s := range probe.Metrics {
			texts[path+".metrics."+metric] = s.Description
		}
	}
	return texts
}
