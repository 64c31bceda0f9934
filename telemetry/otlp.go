package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
)

const (
	// A request is repeated after these, until its timeout.
	firstRetry = time.Second
	maxRetry   = 5 * time.Second
	// maxReconnect is how long a connection waits at most for its next attempt. gRPC's own 120 s would hide a
	// receiver that came up for many intervals.
	maxReconnect = 3 * time.Second
	// A connection whose peer is silently gone is given up when data stays unacknowledged for so long. gRPC sets
	// TCP_USER_TIMEOUT from it; without it the kernel tries for a quarter of an hour.
	deadPeer = 20 * time.Second
	// Servers close a connection that is probed more often than every five minutes.
	idleProbe = 6 * time.Minute
)

// newOTLPExporter returns the SDK's exporter, set up by o alone: every option that the SDK would read from the
// environment is given.
func newOTLPExporter(ctx context.Context, o OTLP) (sdkmetric.Exporter, error) {
	// The SDK reads all of OTEL_EXPORTER_OTLP_* again, and logs what it cannot read, headers included. None of it
	// counts here.
	otel.SetLogger(logr.Discard())
	u, err := url.Parse(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("OTLP endpoint: %w", err)
	}
	var config *tls.Config
	if u.Scheme == "https" {
		if config, err = o.TLS.Config(); err != nil {
			return nil, err
		}
	}
	if o.Protocol == HTTP {
		return newHTTPExporter(ctx, o, u, config)
	}
	return newGRPCExporter(ctx, o, u, config)
}

// CheckExport sends one request without a metric, to find out whether the receiver takes them.
func CheckExport(ctx context.Context, o OTLP) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	exporter, err := newOTLPExporter(ctx, o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	err = exporter.Export(ctx, &metricdata.ResourceMetrics{Resource: resource.Empty()})
	return errors.Join(err, exporter.Shutdown(context.WithoutCancel(ctx)))
}

// Config returns the TLS configuration of a client. It reads the files, and says which one it cannot use.
func (t TLS) Config() (*tls.Config, error) {
	config := &tls.Config{ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("TLS certificate authorities: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("TLS certificate authorities: no PEM certificate in %s", t.CAFile)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("TLS client certificate: set both the certificate's file and the key's")
	}
	if t.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			certificate, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("TLS client certificate: %w", err)
			}
			return &certificate, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		// Read for every connection: certificates are renewed while the sidecar runs.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return config, nil
}

// grpcExporter is the SDK's exporter and the connection that it was given.
type grpcExporter struct {
	*otlpmetricgrpc.Exporter
	conn *grpc.ClientConn
}

func newGRPCExporter(ctx context.Context, o OTLP, u *url.URL, config *tls.Config) (sdkmetric.Exporter, error) {
	transport := insecure.NewCredentials()
	if config != nil {
		transport = credentials.NewTLS(config)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 500 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnect},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: idleProbe, Timeout: deadPeer}),
		grpc.WithUnaryInterceptor(sendEncoded),
	}
	if o.Compression == "gzip" {
		options = append(options, grpc.WithDefaultCallOptions(grpc.UseCompressor(grpcgzip.Name)))
	}
	// passthrough, so that the name is looked up for every connection: gRPC's own resolver waits up to 120 s after a
	// name that was not found.
	conn, err := grpc.NewClient("passthrough:///"+u.Host, options...)
	if err != nil {
		return nil, fmt.Errorf("OTLP endpoint %s: %w", o.Endpoint, err)
	}
	exporter, err := otlpmetricgrpc.New(ctx,
		otlpmetricgrpc.WithGRPCConn(conn), // so that nothing about connections is taken from the environment
		otlpmetricgrpc.WithHeaders(o.Headers),
		otlpmetricgrpc.WithTimeout(o.Timeout),
		otlpmetricgrpc.WithMaxRequestSize(0), // delivery has cut it; to check is to measure it once more
		otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig{
			Enabled: true, InitialInterval: firstRetry, MaxInterval: maxRetry, MaxElapsedTime: o.Timeout,
		}),
	)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &grpcExporter{exporter, conn}, nil
}

func (e *grpcExporter) Shutdown(ctx context.Context) error {
	return errors.Join(e.Exporter.Shutdown(ctx), e.conn.Close())
}

// httpExporter is the SDK's exporter and the transport that it was given.
type httpExporter struct {
	*otlpmetrichttp.Exporter
	transport *httpTransport
}

func newHTTPExporter(ctx context.Context, o OTLP, u *url.URL, config *tls.Config) (sdkmetric.Exporter, error) {
	transport := &httpTransport{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: o.Timeout}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: o.Timeout,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: deadPeer, PingTimeout: deadPeer},
		IdleConnTimeout:     90 * time.Second,
	}, compressor: gzip.NewWriter(io.Discard)}
	compression := otlpmetrichttp.NoCompression
	if o.Compression == "gzip" {
		compression = otlpmetrichttp.GzipCompression
	}
	exporter, err := otlpmetrichttp.New(ctx,
		otlpmetrichttp.WithEndpointURL(u.String()),
		otlpmetrichttp.WithHTTPClient(&http.Client{Transport: transport, CheckRedirect: checkRedirect}),
		// The client has its own TLS; one from the environment would be refused beside http://.
		otlpmetrichttp.WithTLSClientConfig(nil),
		otlpmetrichttp.WithHeaders(o.Headers),
		otlpmetrichttp.WithTimeout(o.Timeout),
		otlpmetrichttp.WithCompression(compression),
		otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{
			Enabled: true, InitialInterval: firstRetry, MaxInterval: maxRetry, MaxElapsedTime: o.Timeout,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("OTLP endpoint %s: %w", o.Endpoint, err)
	}
	return &httpExporter{exporter, transport}, nil
}

// Export adds the status to an error of the SDK, which leaves it out where it would repeat the request.
func (e *httpExporter) Export(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	e.transport.status.Store(0)
	err := e.Exporter.Export(ctx, rm)
	if err == nil || errors.As(err, new(*httpError)) {
		return err
	}
	if status := int(e.transport.status.Load()); repeatable(status) {
		return &httpError{status, err.Error()}
	}
	return err
}

func (e *httpExporter) Shutdown(ctx context.Context) error {
	err := e.Exporter.Shutdown(ctx)
	e.transport.CloseIdleConnections()
	return err
}

// httpTransport sends the encoded request, keeps the last status of a response, and turns a final refusal into an
// httpError: the SDK's errors have the status only as text, and the whole body.
type httpTransport struct {
	*http.Transport
	status     atomic.Int32
	compressor *gzip.Writer
	compressed spare
}

func (t *httpTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if request, ok := encodedIn(r.Context()); ok {
		_ = r.Body.Close()
		if r.Header.Get("Content-Encoding") == "gzip" {
			request = t.compress(request)
			defer request.Free()
		}
		r = r.Clone(r.Context()) // a RoundTripper leaves what it is given as it is
		r.ContentLength = int64(request.Len())
		r.Body = newEncodedBody(request)
		r.GetBody = func() (io.ReadCloser, error) { return newEncodedBody(request), nil }
	}
	resp, err := t.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	t.status.Store(int32(resp.StatusCode))
	if resp.StatusCode < 400 || repeatable(resp.StatusCode) {
		return resp, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
	return nil, &httpError{resp.StatusCode, string(body)}
}

// compress returns request in gzip's form.
func (t *httpTransport) compress(request mem.Buffer) mem.Buffer {
	memory := t.compressed.Get(0)
	b := bytes.NewBuffer(*memory)
	t.compressor.Reset(b)
	_, _ = t.compressor.Write(request.ReadOnlyData()) // a bytes.Buffer fails never
	_ = t.compressor.Close()
	*memory = b.Bytes()
	return mem.NewBuffer(memory, &t.compressed)
}

// checkRedirect refuses redirections that leave out the request: a page that answers them would look like a receiver that
// has accepted it.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if r.Method != http.MethodPost || len(via) > 5 {
		return fmt.Errorf("redirected to %s: make that the endpoint, if it is a receiver", r.URL.Redacted())
	}
	return nil
}

// repeatable tells the statuses after which the OTLP specification has a request repeated.
func repeatable(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// httpError is a response that is not a success.
type httpError struct {
	status int
	text   string
}

func (e *httpError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("HTTP %d %s %s", e.status, http.StatusText(e.status), e.text))
}
