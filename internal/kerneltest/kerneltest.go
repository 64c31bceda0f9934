// Package kerneltest is what the tests that need a real kernel share. Only a feature that the kernel lacks skips a test;
// anything else that is missing fails it.
package kerneltest

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
)

// NeedRoot fails a test that loads BPF programs unless it may.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("loads BPF programs, which takes root (sudo make test)")
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
}

// NeedLinux skips a test of a feature that the kernel has only from a version on. It is the only way to skip a test.
func NeedLinux(t testing.TB, major, minor uint32, feature string) {
	t.Helper()
	version, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	if version < major<<16|minor<<8 {
		t.Skipf("needs Linux %d.%d: %s", major, minor, feature)
	}
}

var (
	kernelFeature = regexp.MustCompile(`^needs Linux \d+\.\d+: \S`)
	logStart      = regexp.MustCompile(`^ +\S+\.go:\d+: `)
)

// LacksFeature tells whether the reason for which a test was skipped names a feature that the kernel lacks.
func LacksFeature(reason string) bool { return kernelFeature.MatchString(reason) }

// Reason returns the last message of the lines that a test logged, for a skipped test the one it gave to Skip.
func Reason(log []string) string {
	for i := len(log) - 1; i >= 0; i-- {
		if start := logStart.FindString(log[i]); start != "" {
			message := strings.Join(log[i:], " ")
			return strings.Join(strings.Fields(message[len(start):]), " ")
		}
	}
	return "no reason given"
}

// Hierarchy is where the default (v2) cgroup hierarchy is mounted.
func Hierarchy(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		mount, fileSystem, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(fileSystem, "cgroup2 ") {
			return strings.Fields(mount)[4] // proc_pid_mountinfo(5)
		}
	}
	t.Fatal("no cgroup2 file system is mounted")
	return ""
}
