//go:build guest

// Package guest boots virtual machines with systemd, one of them with Docker's engine, and runs the tests of ../host in them.
//
//	go test -tags guest -count=1 -timeout 40m -v ./e2e/guest                                            both guests
//	SIDECAR_HOST_RUN=TestSystemd go test -tags guest -count=1 -v -run TestGuest/trixie ./e2e/guest      one test in one of them
//	e2e/guest/run.sh trixie host.test -- -test.run=TestName                                             one binary by hand
//
// SIDECAR_VM_TIMEOUT is the seconds that a boot and its tests may take (900). Consoles are kept in ~/.cache/sidecar/vm, disks in
// ~/.cache/sidecar/guest. Needs root, qemu-system-x86, e2fsprogs and, for disks that are not in the cache yet, mmdebstrap and
// a Debian mirror: see image.sh.
//
// What is in /payload, beside the test binary: sidecar and otelcol, the binaries; image, what docker build takes; and the .deb of
// versions 1.0.0 and 1.1.0.
package guest

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebpf-sidecar/sidecar/internal/guest"
)

// guests are the machines, each with the build tags of the tests that it has what they need for.
var guests = []struct{ name, tags string }{
	{name: "trixie", tags: "host,docker"},
	{name: "bookworm", tags: "host"},
}

// root is the module's, seen from this folder, where go test runs.
const root = "../.."

func TestGuest(t *testing.T) {
	seconds := cmp.Or(os.Getenv("SIDECAR_VM_TIMEOUT"), "900")
	only := cmp.Or(os.Getenv("SIDECAR_HOST_RUN"), ".")
	sidecar := filepath.Join(t.TempDir(), "sidecar")
	guest.Command(t, root, "make", "build", "BINARY="+sidecar, "VERSION=guest")
	image := filepath.Join(t.TempDir(), "image")
	guest.Command(t, root, "make", "image-context", "IMAGE="+image, "VERSION=guest")
	guest.Command(t, root, "cp", "docker/Dockerfile", image)
	packages := t.TempDir()
	for _, version := range []string{"v1.0.0", "v1.1.0"} {
		guest.Command(t, root, "deploy/packages/build.sh", packages, version, "amd64")
	}
	debs, err := filepath.Glob(filepath.Join(packages, "*.deb"))
	if err != nil || len(debs) != 2 {
		t.Fatalf("the packages are %v: %v", debs, err)
	}
	collector := strings.TrimSpace(guest.Command(t, root, "e2e/collector/build.sh"))
	for _, g := range guests {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			top, _, _ := strings.Cut(only, "/")
			binaries, suites := guest.Build(t, root, g.tags, top, "./e2e/host")
			log := guest.Log(t, g.name)
			o := guest.Boot("./run.sh", log, "-t", seconds, "-f", sidecar, "-f", collector, "-f", image, "-f", debs[0], "-f", debs[1],
				g.name, binaries[0], "--", "-test.run="+only)
			o.Name = g.name
			t.Logf("the tests:\n%s\n%s", o.Output(), guest.Table([]guest.Outcome{o}, suites))
			for _, problem := range o.Problems(suites) {
				t.Errorf("%s\n(console: %s)", problem, log)
			}
		})
	}
}
