package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestCommandLine holds what is refused before anything is done.
func TestCommandLine(t *testing.T) {
	const temporality = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
	for _, test := range []struct {
		arguments   string
		temporality string
		code        int
		says        string
	}{
		{"config", "", exitOK, "validate"},
		{"config validte", "", exitUsage, "validte"},
		{"completion", "", exitOK, "bash"},
		{"completion csh", "", exitUsage, "csh"},
		{"check --config /nonexistent --output yaml", "", exitUsage, "write one of text, json"},
		{"probes --config /nonexistent --output yaml", "", exitUsage, "write one of text, json"},
		{"top --config /nonexistent --output yaml", "", exitUsage, "write one of csv, json, text"},
		{"top --interval 10ms", "", exitUsage, "write 100ms or more"},
		{"config validate", "delta", exitUsage, "cumulativetodelta"},
		{"run", "delta", exitUsage, "cumulativetodelta"},
	} {
		t.Run(test.arguments, func(t *testing.T) {
			t.Setenv(temporality, test.temporality)
			var output bytes.Buffer
			if code := run(strings.Fields(test.arguments), &output, &output); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if !strings.Contains(output.String(), test.says) {
				t.Errorf("does not say %q:\n%s", test.says, &output)
			}
		})
	}
}
