//go:build host

package host

import (
	"os/exec"
	"strings"
	"testing"
)

// TestPackage installs the .deb, upgrades it while the service runs and while it does not, removes and purges it.
func TestPackage(t *testing.T) {
	before := traces(t)
	apt := func(args ...string) {
		t.Helper()
		t.Log(runs(t, "env", append([]string{"DEBIAN_FRONTEND=noninteractive", "apt-get", "-y"}, args...)...))
	}
	isRunning := func(version string) {
		t.Helper()
		if text := runs(t, "sidecar", "status"); !strings.Contains(text, "running, version v"+version+",") {
			t.Fatalf("version %s does not run:\n%s", version, text)
		}
	}
	is := func(state string) { // systemctl fails unless it is active
		t.Helper()
		if output, _ := exec.Command("systemctl", "is-active", "sidecar").Output(); strings.TrimSpace(string(output)) != state {
			t.Errorf("it is %s, want %s", output, state)
		}
	}
	t.Cleanup(func() { _ = exec.Command("dpkg", "--purge", "sidecar").Run() }) // if the test failed
	collector := startCollector(t)

	apt("install", "/payload/sidecar_1.0.0_amd64.deb") // which starts it
	isRunning("1.0.0")
	if s := statusOf(t); s.Service.Enabled != "enabled" || s.Service.File != "/lib/systemd/system/sidecar.service" &&
		s.Service.File != "/usr/lib/systemd/system/sidecar.service" {
		t.Errorf("installed: %+v", s.Service)
	}
	refuses(t, "is a package's", sidecar, "install")
	name, n := executions(t)
	has(t, collector, name, n)

	const ours = "export: {interval: 1s}\n"
	writeFile(t, configuration, ours)
	upgrade := exec.Command("apt-get", "-y", "install", "/payload/sidecar_1.1.0_amd64.deb")
	if err := upgrade.Start(); err != nil {
		t.Fatal(err)
	}
	name, n = executions(t) // also between the one and the other
	if err := upgrade.Wait(); err != nil {
		t.Fatal(err)
	}
	isRunning("1.1.0")
	has(t, collector, name, n)
	if text := runs(t, "cat", configuration); text != ours {
		t.Errorf("the upgrade changed the configuration:\n%s", text)
	}

	script := func(name string, args ...string) { // as dpkg runs it
		t.Helper()
		runs(t, "env", append([]string{"DPKG_MAINTSCRIPT_PACKAGE=sidecar", "/var/lib/dpkg/info/sidecar." + name}, args...)...)
	}
	runs(t, "systemctl", "stop", "sidecar")
	script("preinst", "upgrade", "1.0.0", "1.1.0")
	script("postinst", "configure", "1.0.0")
	is("inactive")
	script("preinst", "install", "1.1.0", "1.1.0") // after a removal
	script("postinst", "configure", "1.1.0")
	isRunning("1.1.0")

	apt("remove", "sidecar") // while it runs
	is("inactive")
	refuses(t, "could not be found", "systemctl", "status", "sidecar")
	if text := runs(t, "cat", configuration); text != ours {
		t.Errorf("the removal changed the configuration:\n%s", text)
	}
	apt("purge", "sidecar")
	nothingSince(t, before)
}
