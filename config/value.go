package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// set reads the key's value from text, in the file's notation. A list is separated by commas; headers are as the
// OpenTelemetry variables have them. The errors say what to write, and never show a header's value.
func (k key) set(text string) error {
	switch p := k.value.Addr().Interface().(type) {
	case *[]string:
		*p = nil
		for item := range strings.SplitSeq(text, ",") {
			if err := k.add(strings.TrimSpace(item)); err != nil {
				return err
			}
		}
		return nil
	case *map[string]string:
		return parseHeaders(p, text)
	}
	if err := k.known(text); err != nil {
		return err
	}
	switch p := k.value.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		return p.UnmarshalText([]byte(text))
	case *bool:
		switch text = strings.ToLower(text); text {
		case "true", "false":
			*p = text == "true"
			return nil
		}
		return fmt.Errorf("%q is not a boolean (write true or false)", text)
	case *int:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a positive whole number (write one up to %d)", text, math.MaxInt32)
		}
		*p = int(n)
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration (write a number and its unit, such as 10s)", text)
		}
		if d < time.Millisecond {
			return fmt.Errorf("%q is too short (write 1ms or more)", text)
		}
		*p = d
	default:
		k.value.SetString(text)
	}
	return nil
}

// add appends an item to the list that is the key's value.
func (k key) add(item string) error {
	if err := k.known(item); err != nil {
		return err
	}
	list := k.value.Addr().Interface().(*[]string)
	if slices.Contains(*list, item) {
		return fmt.Errorf("%s is listed twice (remove one)", item)
	}
	*list = append(*list, item)
	return nil
}

// known checks text against the values that the key can have.
func (k key) known(text string) error {
	if values := k.enum(); values != nil && !slices.Contains(values, text) {
		return fmt.Errorf("%q is not known (%s)", text, cmp.Or(k.tag.Get("instead"), hint(text, values)))
	}
	return nil
}

// parseHeaders reads key1=value1,key2=value2, where the values are percent-encoded: the notation of W3C Baggage, as the
// OTLP exporter specification has it.
func parseHeaders(headers *map[string]string, text string) error {
	*headers = make(map[string]string)
	for entry := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(entry, "=")
		name = strings.TrimSpace(name)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil || !headerName.MatchString(name) {
			// The name is not shown either: it is the value's beginning if the = is not where it should be.
			return errors.New("a header is not name=value with the value percent-encoded " +
				"(write name1=value1,name2=value2, and %2C for a comma)")
		}
		if err := checkHeaderValue(name, value); err != nil {
			return err
		}
		(*headers)[name] = value
	}
	return nil
}

var headerName = regexp.MustCompile("^[0-9A-Za-z!#$%&'*+.^_`|~-]+$")

// checkHeaderName refuses a name that gRPC or HTTP would refuse with every request.
func checkHeaderName(name string) error {
	if !headerName.MatchString(name) {
		return fmt.Errorf("%q is not the name of a header (write letters, digits and -)", name)
	}
	return nil
}

// checkHeaderValue does the same for the value of the header.
func checkHeaderValue(name, value string) error {
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("the value of the header %s has a character that it can't have (write printable ASCII)", name)
	}
	return nil
}

// checkEndpoint checks that endpoint is a URL that the exporter of the protocol (any, if it is empty) reads as it is
// meant. The Go SDK takes 127.0.0.1:4317 for localhost and http://host for port 443. The error says what to write.
func checkEndpoint(endpoint, protocol string) error {
	port := "4317"
	if protocol == HTTPProtobuf {
		port = "4318"
	}
	if strings.ContainsAny(endpoint, "@?#") {
		// Not shown: these parts hold credentials.
		return errors.New("the URL has a user, a query or a fragment, which are not sent " +
			"(write scheme, host and port only, and credentials as headers)")
	}
	if !strings.Contains(endpoint, "://") {
		return fmt.Errorf("%q has no scheme (write http:// before host and port, as in http://localhost:%s, or https:// for TLS)",
			endpoint, port)
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return fmt.Errorf("%q is not a URL: %w (write it as in http://localhost:%s)", endpoint, errors.Unwrap(err), port)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q has the scheme %s (write http, or https for TLS)", endpoint, u.Scheme)
	}
	if u.Hostname() == "" {
		return fmt.Errorf("%q has no host (write it as in %s://localhost:%s)", endpoint, u.Scheme, port)
	}
	if u.Port() == "" {
		return fmt.Errorf("%q has no port (write %s://%s:%s%s, or the port that the receiver listens on)",
			endpoint, u.Scheme, strings.TrimSuffix(u.Host, ":"), port, u.Path)
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no valid port (write one from 1 to 65535)", endpoint)
	}
	if protocol == GRPC && strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("%q has a path, which gRPC has not (write %s://%s, or set the protocol to %s)",
			endpoint, u.Scheme, u.Host, HTTPProtobuf)
	}
	return nil
}

// ByteSize is a number of bytes.
type ByteSize int64

var byteUnits = []struct {
	name string
	size ByteSize
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// UnmarshalText reads a positive whole number with a unit, or of bytes: 64MiB, 64MB, 500000.
func (b *ByteSize) UnmarshalText(text []byte) error {
	number, size := string(text), ByteSize(1)
	for _, unit := range byteUnits {
		if rest, ok := strings.CutSuffix(number, unit.name); ok {
			number, size = strings.TrimSpace(rest), unit.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt64/int64(size) {
		return fmt.Errorf("%q is not a size (write a whole number and KiB, MiB or GiB, such as 64MiB)", text)
	}
	*b = ByteSize(n) * size
	return nil
}

// String returns the size exactly, in the unit that needs the smallest number.
func (b ByteSize) String() string {
	best := byteUnits[len(byteUnits)-1]
	for _, unit := range byteUnits {
		if b != 0 && b%unit.size == 0 && unit.size > best.size {
			best = unit
		}
	}
	return strconv.FormatInt(int64(b/best.size), 10) + best.name
}
