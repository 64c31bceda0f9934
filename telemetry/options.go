package telemetry

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// Options says what to export and where to. At least one of OTLP and Console is needed.
type Options struct {
	// Version and Revision are the build's, exported by sidecar.build.info.
	Version, Revision string
	// Instance tells this sidecar from others on the host: service.instance.id is made from it and the machine's id. Empty
	// for the only one.
	Instance string

	// Instruments lists what the Source's snapshots may contain. Instruments that are switched off may be listed:
	// what has no points is not exported.
	Instruments []Instrument

	Interval time.Duration // between exports; 0 means 60 s
	// FirstExport is when the first export begins; 0 means after 1 s, whatever the interval: who starts the sidecar wants to
	// see whether it works.
	FirstExport time.Duration
	// ExportTimeout bounds one cycle, all its requests together (OTEL_METRIC_EXPORT_TIMEOUT); 0 means 30 s.
	ExportTimeout time.Duration

	// ExplicitBuckets is for receivers that know no exponential histogram.
	ExplicitBuckets bool

	OTLP    *OTLP
	Console *Console
	Logger  *slog.Logger // nil means slog.Default
}

// Instrument is an instrument and the scope that its metric is exported under.
type Instrument struct {
	Scope probes.Scope
	*probes.Instrument
}

// Protocol is how OTLP is spoken, by its name in OTEL_EXPORTER_OTLP_PROTOCOL.
type Protocol string

// The protocols of OTLP that are spoken.
const (
	GRPC Protocol = "grpc"
	HTTP Protocol = "http/protobuf"
)

// OTLP says where an OTLP receiver is and how to speak to it. It alone counts: the OTEL_EXPORTER_OTLP_* variables that
// name the same things are for the caller to put here, and are not read a second time.
type OTLP struct {
	// Endpoint is the whole URL, such as http://localhost:4317 (gRPC) or https://host:4318/v1/metrics (HTTP; no
	// path is added). That it has a scheme, a host and a port is for the caller to see to.
	Endpoint    string
	Protocol    Protocol          // empty means GRPC
	Headers     map[string]string // never logged
	Timeout     time.Duration     // of one request, its repetitions included; 0 means 10 s
	Compression string            // "gzip"; "none" or empty for none
	TLS         TLS               // for https
}

// TLS names the files of a TLS client, all PEM and all optional.
type TLS struct {
	CAFile             string // the authorities to trust, instead of the system's
	CertFile, KeyFile  string // the client's certificate, read again for every connection
	ServerName         string // to expect in the server's certificate, instead of the endpoint's host
	InsecureSkipVerify bool   // accept any certificate
}

// Console says where to print a table of all metrics every interval. A writer that blocks, such as a stopped terminal,
// holds up the export too.
type Console struct {
	Writer io.Writer
}

const (
	defaultFirstExport    = time.Second
	defaultInterval       = 60 * time.Second // the OTel specification's, as the next two
	defaultExportTimeout  = 30 * time.Second
	defaultRequestTimeout = 10 * time.Second
)

// withDefaults returns o with every zero value replaced.
func (o Options) withDefaults() (Options, error) {
	if o.Interval == 0 {
		o.Interval = defaultInterval
	}
	if o.FirstExport == 0 {
		o.FirstExport = defaultFirstExport
	}
	if o.ExportTimeout == 0 {
		o.ExportTimeout = defaultExportTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.OTLP == nil && o.Console == nil {
		return o, errors.New("telemetry: no exporter: set OTLP, Console or both")
	}
	if o.Interval < 0 || o.ExportTimeout < 0 {
		return o, errors.New("telemetry: the interval and the timeout must be positive")
	}
	if o.OTLP != nil {
		otlp, err := o.OTLP.withDefaults()
		if err != nil {
			return o, err
		}
		o.OTLP = &otlp
	}
	return o, nil
}

func (o OTLP) withDefaults() (OTLP, error) {
	if o.Protocol == "" {
		o.Protocol = GRPC
	}
	if o.Timeout == 0 {
		o.Timeout = defaultRequestTimeout
	}
	if o.Timeout < 0 {
		return o, errors.New("OTLP timeout: must be positive")
	}
	if o.Compression != "" && o.Compression != "none" && o.Compression != "gzip" {
		return o, fmt.Errorf("OTLP compression %q: write gzip or none", o.Compression)
	}
	if o.Protocol != GRPC && o.Protocol != HTTP {
		return o, fmt.Errorf("OTLP protocol %q: write %s or %s", o.Protocol, GRPC, HTTP)
	}
	return o, nil
}
