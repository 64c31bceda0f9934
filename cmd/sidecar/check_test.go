package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestCheckWithoutOTLP has no endpoint to go to.
func TestCheckWithoutOTLP(t *testing.T) {
	for name, value := range map[string]string{"OTEL_METRICS_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			var output bytes.Buffer
			run([]string{"check"}, &output, &output)
			if s := output.String(); !strings.Contains(s, "kernel") || strings.Contains(s, "endpoint") {
				t.Error(s)
			}
		})
	}
}

func TestMountedCgroups(t *testing.T) {
	const (
		v1   = "36 25 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
		v2   = "35 25 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
		proc = "22 1 0:21 / /proc rw - proc proc rw\n"
	)
	for name, test := range map[string]struct{ mounts, outcome, found string }{
		"v1":      {proc + v1, checkWarning, "v1 only"},
		"v2":      {v2 + proc, checkOK, "v2"},
		"both":    {v1 + v2, checkOK, "v1 and v2"},
		"neither": {proc, checkWarning, "no cgroup file system is mounted"},
	} {
		if f := mountedCgroups([]byte(test.mounts)); f.Outcome != test.outcome || !strings.HasPrefix(f.Found, test.found) {
			t.Errorf("%s: got %+v", name, f)
		}
	}
}
