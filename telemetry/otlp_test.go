package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.opentelemetry.io/otel"
	service "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// transports are all ways to reach a receiver.
var transports = []struct {
	name  string
	serve func(testing.TB, *receiver) OTLP
}{
	{"grpc", func(t testing.TB, r *receiver) OTLP {
		return OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}
	}},
	{"grpc gzip", func(t testing.TB, r *receiver) OTLP {
		return OTLP{Endpoint: r.serve(t, "127.0.0.1:0"), Compression: "gzip"}
	}},
	{"grpc mTLS", func(t testing.TB, r *receiver) OTLP {
		server, client := certificates(t)
		url := r.serve(t, "127.0.0.1:0", grpc.Creds(credentials.NewTLS(server)))
		return OTLP{Endpoint: strings.Replace(url, "http", "https", 1), TLS: client}
	}},
	{"http", func(t testing.TB, r *receiver) OTLP {
		return OTLP{Endpoint: r.serveHTTP(t, nil) + "/v1/metrics", Protocol: HTTP}
	}},
	{"http gzip", func(t testing.TB, r *receiver) OTLP {
		return OTLP{Endpoint: r.serveHTTP(t, nil) + "/v1/metrics", Protocol: HTTP, Compression: "gzip"}
	}},
	{"http mTLS", func(t testing.TB, r *receiver) OTLP {
		server, client := certificates(t)
		return OTLP{Endpoint: r.serveHTTP(t, server) + "/v1/metrics", Protocol: HTTP, TLS: client}
	}},
}

func (r *receiver) serveHTTP(t testing.TB, config *tls.Config) string {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/v1/metrics" {
			http.NotFound(w, q)
			return
		}
		body := io.Reader(q.Body)
		if q.Header.Get("Content-Encoding") == "gzip" {
			body, _ = gzip.NewReader(q.Body)
		}
		b, err := io.ReadAll(body)
		var request service.ExportMetricsServiceRequest
		if err = errors.Join(err, proto.Unmarshal(b, &request)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		resp, err := r.Export(q.Context(), &request)
		var h *httpError
		if errors.As(err, &h) {
			http.Error(w, h.text, h.status)
			return
		}
		b, _ = proto.Marshal(resp)
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(b)
	}))
	s.TLS = config
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes
	if config != nil {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.URL
}

// certificates returns a server's configuration that asks for a client's certificate, and the client's files.
func certificates(t testing.TB) (*tls.Config, TLS) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"receiver.example"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	client := TLS{
		CAFile: filepath.Join(t.TempDir(), "ca"), CertFile: filepath.Join(t.TempDir(), "cert"), KeyFile: filepath.Join(t.TempDir(), "key"),
		ServerName: "receiver.example",
	}
	for name, b := range map[string][]byte{client.CAFile: certificate, client.CertFile: certificate, client.KeyFile: private} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certificate, private)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certificate)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}, client
}

// TestUntrusted has a server whose certificate nobody vouches for.
func TestUntrusted(t *testing.T) {
	r := new(receiver)
	server, client := certificates(t)
	url := r.serveHTTP(t, server) + "/v1/metrics"
	for name, test := range map[string]struct {
		tls  TLS
		want string // in the error; empty for none
	}{
		"no authority":  {TLS{CertFile: client.CertFile, KeyFile: client.KeyFile}, "certificate"},
		"another name":  {TLS{CAFile: client.CAFile, CertFile: client.CertFile, KeyFile: client.KeyFile, ServerName: "x"}, "receiver.example"},
		"no client":     {TLS{CAFile: client.CAFile, ServerName: client.ServerName}, "certificate"},
		"not verifying": {TLS{CertFile: client.CertFile, KeyFile: client.KeyFile, InsecureSkipVerify: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckExport(t.Context(), OTLP{Endpoint: url, Protocol: HTTP, TLS: test.tls})
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestCheckExport(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			r := new(receiver)
			o := transport.serve(t, r)
			if err := CheckExport(t.Context(), o); err != nil {
				t.Error(err)
			}
			if _, n := r.take(); n != 1 {
				t.Errorf("%d requests", n)
			}
			r.answer = func(*service.ExportMetricsServiceRequest) (*service.ExportMetricsServiceResponse, error) {
				if o.Protocol == HTTP {
					return nil, &httpError{http.StatusUnauthorized, "who are you"}
				}
				return nil, status.Error(codes.Unauthenticated, "who are you")
			}
			if err := CheckExport(t.Context(), o); err == nil || !strings.Contains(err.Error(), "who are you") || errorType(err) != map[bool]string{true: "401", false: "UNAUTHENTICATED"}[o.Protocol == HTTP] {
				t.Errorf("got %v", err)
			}
			goleakNow(t)
		})
	}
}

// TestEnvironmentIsNotRead sets all variables of the SDK's exporters to what would break the export. What they name is
// in OTLP, and only there.
func TestEnvironmentIsNotRead(t *testing.T) {
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_METRICS_"} {
		for name, value := range map[string]string{
			"ENDPOINT": "https://192.0.2.1:1/x", "HEADERS": "authorization=hunter2,hunter2", "COMPRESSION": "gzip", "TIMEOUT": "1",
			"CERTIFICATE": "/nonexistent/ca", "CLIENT_CERTIFICATE": "/nonexistent/cert", "CLIENT_KEY": "/nonexistent/key", "INSECURE": "false",
		} {
			t.Setenv(prefix+name, value)
		}
	}
	// A certificate that can be read makes the SDK use TLS.
	_, client := certificates(t)
	t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", client.CAFile)
	t.Setenv("OTEL_GO_X_CARDINALITY_LIMIT", "2")
	t.Setenv("OTEL_METRIC_EXPORT_TIMEOUT", "1")

	var header, encoding atomic.Value
	note := func(h map[string][]string) {
		header.Store(slices.Concat(h["authorization"], h["Authorization"]))
		encoding.Store(slices.Concat(h["grpc-encoding"], h["Content-Encoding"]))
	}
	overGRPC, overHTTP := new(receiver), new(receiver)
	for r, o := range map[*receiver]OTLP{
		overGRPC: {Endpoint: overGRPC.serve(t, "127.0.0.1:0", grpc.UnaryInterceptor(
			func(ctx context.Context, q any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				md, _ := metadata.FromIncomingContext(ctx)
				note(md)
				return next(ctx, q)
			}))},
		overHTTP: {Protocol: HTTP, Endpoint: headerServer(t, overHTTP, note) + "/v1/metrics"},
	} {
		t.Run(string(o.Protocol), func(t *testing.T) {
			points := make([]probes.Point, 3000)
			for i := range points {
				points[i] = probes.Point{Attributes: attrs("i", int64(i)), Start: bootTime}
			}
			p, log := start(t, Options{OTLP: &o}, newSource(t, metricOf(executions, points...)))
			flush(t, p)
			requests, _ := r.take()
			if n := len(metricsByName(requests)["linux.process.executions"].GetSum().GetDataPoints()); n != len(points) {
				t.Errorf("%d points, want %d", n, len(points))
			}
			if len(header.Load().([]string)) != 0 || len(encoding.Load().([]string)) != 0 {
				t.Errorf("header %v, encoding %v", header.Load(), encoding.Load())
			}
			if log.text() != "" {
				t.Error(log.text())
			}

			o.Headers = map[string]string{"authorization": "sesame"}
			p, _ = start(t, Options{OTLP: &o}, newSource(t))
			flush(t, p)
			if got := header.Load().([]string); !slices.Equal(got, []string{"sesame"}) {
				t.Errorf("header %v", got)
			}
		})
	}
}

// TestCheckExportIsSilent has headers in the environment that the SDK cannot read and would log.
func TestCheckExportIsSilent(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "hunter2")
	var logged atomic.Value
	for _, transport := range transports {
		otel.SetLogger(funcr.New(func(_, args string) { logged.Store(args) }, funcr.Options{}))
		if err := CheckExport(t.Context(), transport.serve(t, new(receiver))); err != nil {
			t.Errorf("%s: %v", transport.name, err)
		}
		if got := logged.Load(); got != nil {
			t.Errorf("%s: %v", transport.name, got)
		}
	}
}

// TestRedirection has an endpoint that leads elsewhere: with some statuses the request is sent there, with others only its
// address is asked for.
func TestRedirection(t *testing.T) {
	for code, repeated := range map[int]bool{http.StatusPermanentRedirect: true, http.StatusFound: false} {
		r := new(receiver)
		moved := httptest.NewServer(http.RedirectHandler(r.serveHTTP(t, nil)+"/v1/metrics", code))
		t.Cleanup(moved.Close)
		source := newSource(t, manySeries(10)...)
		p, _ := start(t, Options{OTLP: &OTLP{Endpoint: moved.URL, Protocol: HTTP, Compression: "gzip"}}, source)
		if err := p.Flush(t.Context()); (err == nil) != repeated {
			t.Errorf("%d: %v", code, err)
		}
		requests, n := r.take()
		if repeated {
			checkManySeries(t, requests, 10)
		} else if n != 0 || source.acks() != 0 {
			t.Errorf("%d: %d requests, %d acknowledged", code, n, source.acks())
		}
	}
}

func headerServer(t testing.TB, r *receiver, note func(map[string][]string)) string {
	inner := r.serveHTTP(t, nil)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		note(q.Header)
		b, _ := io.ReadAll(q.Body)
		resp, err := http.Post(inner+q.URL.Path, q.Header.Get("Content-Type"), bytes.NewReader(b))
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(func() { s.Close(); http.DefaultClient.CloseIdleConnections() })
	return s.URL
}

// TestConnectsAgain has a receiver that goes away and comes back.
func TestConnectsAgain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	o := OTLP{Endpoint: "http://" + address, Timeout: 20 * time.Second}
	for range 2 {
		t.Run("", func(t *testing.T) {
			r := new(receiver)
			r.serve(t, address)
			if err := CheckExport(t.Context(), o); err != nil {
				t.Error(err)
			}
		})
	}
}
