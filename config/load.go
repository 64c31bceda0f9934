package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Load returns the configuration of the file at path, if that is not empty, and of the environment; env is as
// [os.LookupEnv]. Variables that are empty count as not set, and so do keys of the file that have no value.
//
// The error has a line for everything that is wrong, in order: file:line:column, or the name of the variable, then what
// is wrong and in parentheses what to write. No header's value is in it.
func Load(path string, env func(string) (string, bool), catalogue Catalogue) (*Config, error) {
	var data []byte
	if path != "" {
		var err error
		if data, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
	}
	return load(path, data, env, catalogue)
}

func load(path string, data []byte, env func(string) (string, bool), catalogue Catalogue) (*Config, error) {
	l := &loader{env: env, origins: make(map[string]origin)}
	config, root := defaults(catalogue)
	l.file(data, root)
	l.environment(root)
	l.finish(config)
	if len(l.problems) == 0 {
		return config, nil
	}
	slices.SortStableFunc(l.problems, func(a, b problem) int { return a.origin.compare(b.origin) })
	var errs []error
	for _, p := range l.problems {
		errs = append(errs, fmt.Errorf("%s: %s", p.origin.in(path), p.text))
	}
	return nil, errors.Join(errs...)
}

// loader gathers one configuration and all that is wrong with it.
type loader struct {
	env      func(string) (string, bool)
	origins  map[string]origin // of the values that are set, by path
	problems []problem
}

type problem struct {
	origin origin
	text   string
}

const endpointPath = "export.endpoint"

// origin is where a value is from: a variable, or a place in the file.
type origin struct {
	variable     string
	line, column int
}

// compare orders the file before the variables.
func (o origin) compare(other origin) int {
	return cmp.Or(strings.Compare(o.variable, other.variable),
		cmp.Compare(o.line, other.line), cmp.Compare(o.column, other.column))
}

func (o origin) in(path string) string {
	if o.variable != "" {
		return o.variable
	}
	return fmt.Sprintf("%s:%d:%d", path, o.line, o.column)
}

func (l *loader) report(o origin, format string, args ...any) {
	l.problems = append(l.problems, problem{o, fmt.Sprintf(format, args...)})
}

// set sets a key, or reports why that is not possible.
func (l *loader) set(k key, text string, o origin) bool {
	err := k.set(text)
	if k.path == endpointPath {
		err = checkEndpoint(text, "") // whether it goes with the protocol is known once that is
	}
	if err != nil {
		l.reportAt(k.path, o, err)
		return false
	}
	l.origins[k.path] = o
	return true
}

// reportAt reports an error with a key: in the file, its path is part of the message.
func (l *loader) reportAt(path string, o origin, err error) {
	if o.variable == "" {
		err = fmt.Errorf("%s: %w", path, err)
	}
	l.report(o, "%v", err)
}

// file reads the one document of a YAML file.
func (l *loader) file(data []byte, root key) {
	var document, second yaml.Node
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err == nil {
		err = loader.Load(&document)
	}
	if err == nil {
		l.decode(document.Content[0], root)
		err = loader.Load(&second)
	}
	var syntax *yaml.LoadError
	switch {
	case errors.Is(err, io.EOF):
	case err == nil:
		l.report(at(&second), "a second document begins here (keep one)")
	case errors.As(err, &syntax):
		o := origin{line: syntax.Mark.Line, column: syntax.Mark.Column}
		if o.line == 0 { // of bytes that are no text, only the offset is known
			before := data[:min(syntax.Mark.Index, len(data))]
			o.line = bytes.Count(before, []byte("\n")) + 1
			o.column = len(before) - bytes.LastIndexByte(before, '\n')
		}
		text := syntax.Message
		if syntax.ContextMsg != "" {
			text = syntax.ContextMsg + ": " + text
		}
		l.report(o, "not YAML: %s", text)
	default:
		l.report(origin{line: 1, column: 1}, "not YAML: %v", err)
	}
}

// environment sets the keys that have variables.
func (l *loader) environment(root key) {
	for _, k := range root.leaves() {
		for _, name := range k.variables() {
			if text, ok := l.env(name); ok && text != "" {
				l.variable(k, name, text)
				break
			}
		}
	}
}

// variable sets a key from a variable. The specification has enumerated values in any case, and durations in
// milliseconds, where a timeout of 0 is none at all.
func (l *loader) variable(k key, name, text string) {
	if k.enum() != nil {
		text = strings.ToLower(text)
	}
	if _, ok := k.value.Interface().(time.Duration); ok && strings.HasPrefix(name, "OTEL_") {
		ms, err := strconv.ParseUint(text, 10, 31)
		switch {
		case err == nil && ms == 0 && strings.HasSuffix(name, "_TIMEOUT"):
			ms = math.MaxInt32
		case err != nil || ms == 0:
			l.report(origin{variable: name}, "%q is not a positive number of milliseconds (write 10000 for 10 s)", text)
			return
		}
		text = strconv.FormatUint(ms, 10) + "ms"
	}
	l.set(k, text, origin{variable: name})
}

// finish completes and checks what depends on several keys.
func (l *loader) finish(c *Config) {
	if slices.Contains(c.Exporters, "none") {
		if len(c.Exporters) > 1 {
			l.report(origin{variable: "OTEL_METRICS_EXPORTER"}, "none is not the only exporter (write none, or the others)")
		}
		c.Exporters = nil
	}

	e := &c.Export
	if e.CycleTimeout == 0 {
		e.CycleTimeout = max(30*time.Second, e.Timeout)
	}
	cert, key := l.origins["export.tls.cert_file"], l.origins["export.tls.key_file"]
	switch {
	case e.TLS.CertFile != "" && e.TLS.KeyFile == "":
		l.reportAt("export.tls.cert_file", cert, errors.New("a certificate needs its key (set export.tls.key_file too)"))
	case e.TLS.CertFile == "" && e.TLS.KeyFile != "":
		l.reportAt("export.tls.key_file", key, errors.New("a key needs its certificate (set export.tls.cert_file too)"))
	}

	o, set := l.origins[endpointPath]
	e.EndpointSet = set
	if !set {
		if e.Protocol == HTTPProtobuf {
			e.Endpoint = "http://localhost:4318/v1/metrics"
		}
		return
	}
	if err := checkEndpoint(e.Endpoint, e.Protocol); err != nil {
		l.reportAt(endpointPath, o, err)
		return
	}
	// By the specification, the variable for metrics only has the whole URL; the others, that of the receiver.
	if e.Protocol == HTTPProtobuf && o.variable != "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT" {
		if u, err := url.JoinPath(e.Endpoint, "v1/metrics"); err == nil {
			e.Endpoint = u
		}
	}
}
