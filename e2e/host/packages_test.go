//go:build host

package host

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
)

// try runs a command and returns what it says, and whether it succeeded.
func try(name string, args ...string) (string, error) {
	command := exec.Command(name, args...)
	command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
	output, err := command.CombinedOutput()
	return strings.TrimSpace(string(output)), err
}

// must runs a command that is to succeed.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	output, err := try(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, output)
	}
	return output
}

// TestPackage installs the .deb, upgrades it while the service runs and while it does not, removes and purges it.
func TestPackage(t *testing.T) {
	apt := func(args ...string) {
		t.Helper()
		must(t, "apt-get", append([]string{"-y", "--allow-downgrades"}, args...)...)
	}
	install := func(version string) {
		t.Helper()
		apt("install", fmt.Sprintf("./sidecar_%s_amd64.deb", version))
	}
	state := func() string {
		output, _ := try("systemctl", "is-active", "sidecar") // which fails where it is not active
		return output
	}
	runs := func(version string) {
		t.Helper()
		var status struct {
			Running bool
			Sidecar struct{ Version string }
		}
		if err := json.Unmarshal([]byte(must(t, "sidecar", "status", "--output", "json")), &status); err != nil {
			t.Fatal(err)
		}
		if !status.Running || status.Sidecar.Version != version || state() != "active" {
			t.Fatalf("%+v, the unit is %s; want %s running", status, state(), version)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			journal, _ := try("journalctl", "--no-pager", "--lines=50", "--unit=sidecar")
			t.Log(journal)
			_, _ = try("dpkg", "--purge", "sidecar")
		}
	})
	before := ours(t)

	install("1.0.0")
	runs("v1.0.0")
	if output, err := try("systemctl", "is-enabled", "sidecar"); err != nil {
		t.Errorf("it does not start with the host: %s", output)
	}

	// As an administrator would set the endpoint.
	collector := harness.NewCollector(t, "./otelcol")
	collector.Start(t)
	variables := "OTEL_EXPORTER_OTLP_ENDPOINT=http://" + collector.Endpoint + "\nOTEL_METRIC_EXPORT_INTERVAL=500\n"
	if err := os.WriteFile("/etc/default/sidecar", []byte(variables), 0o640); err != nil {
		t.Fatal(err)
	}
	must(t, "systemctl", "restart", "sidecar")
	program := filepath.Join(t.TempDir(), "known-package")
	must(t, "cp", "/bin/true", program)
	executed := 0
	execute := func() {
		t.Helper()
		for range 17 {
			must(t, program)
		}
		executed += 17
		harness.Eventually(t, fmt.Sprintf("%d executions arrive", executed), func() bool {
			counters, _ := collector.Received(t)
			return counters.Sum("linux.process.executions", "process.executable.name=known-package") == int64(executed)
		})
	}
	execute()

	install("1.1.0")
	runs("v1.1.0")
	execute()
	if content, err := os.ReadFile("/etc/default/sidecar"); err != nil || string(content) != variables {
		t.Errorf("the upgrade changed /etc/default/sidecar: %s, %v", content, err)
	}

	must(t, "systemctl", "stop", "sidecar")
	install("1.0.0")
	if got := state(); got != "inactive" {
		t.Errorf("another version was installed while it was stopped, and now it is %s", got)
	}
	must(t, "systemctl", "start", "sidecar")
	runs("v1.0.0")

	apt("remove", "sidecar")
	if got := state(); got != "inactive" {
		t.Errorf("removed, and it is %s", got)
	}
	if output, err := try("systemctl", "status", "sidecar"); err == nil || !strings.Contains(output, "could not be found") {
		t.Errorf("removed, and systemctl finds the unit: %v\n%s", err, output)
	}
	if content, err := os.ReadFile("/etc/default/sidecar"); err != nil || string(content) != variables {
		t.Errorf("removed, and /etc/default/sidecar: %s, %v", content, err)
	}

	install("1.1.0")
	must(t, "systemctl", "is-active", "sidecar")
	runs("v1.1.0")
	execute()

	apt("purge", "sidecar")
	if after := ours(t); after != before {
		t.Errorf("purged, and there is\n%s\nwhere there was\n%s", after, before)
	}
	if account, err := user.Lookup("sidecar"); err == nil {
		t.Errorf("purged, and there is the user %+v", account)
	}
	if group, err := user.LookupGroup("sidecar"); err == nil {
		t.Errorf("purged, and there is the group %+v", group)
	}
}

// ours are the files, the cgroups and the units that are named after the sidecar.
func ours(t *testing.T) string {
	t.Helper()
	files := must(t, "find", "/", "-path", "/proc", "-prune", "-o", "-path", "/payload", "-prune", "-o", "-path", "/var/log", "-prune",
		"-o", "-name", "*sidecar*", "-print")
	return files + "\n" + must(t, "systemctl", "list-units", "--all", "--no-legend", "sidecar*")
}
