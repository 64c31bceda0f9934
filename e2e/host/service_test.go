//go:build host

package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
)

// sidecar is the command under test, beside the test binary.
const sidecar = "/payload/sidecar"

// startCollector starts a Collector where the sidecar looks for one by default.
func startCollector(t *testing.T) *harness.Collector {
	t.Helper()
	c := harness.NewCollector(t, "/payload/otelcol")
	c.Endpoint = "127.0.0.1:4317"
	c.Start(t)
	return c
}

// has fails the test unless the Collector comes to have so many executions of a program.
func has(t *testing.T, c *harness.Collector, program string, n int) {
	t.Helper()
	var got int64
	harness.Eventually(t, fmt.Sprintf("%d executions of %s", n, program), func() bool {
		counters, _ := c.Received(t)
		got = counters.Sum("linux.process.executions", "process.executable.name="+program)
		return got >= int64(n)
	})
	if got != int64(n) {
		t.Errorf("%d executions of %s, want %d", got, program, n)
	}
}

// status is what of sidecar status --output json these tests look at.
type status struct {
	Running bool
	Service *struct {
		Active, Enabled, Result, File string
		PID, Restarts                 int
	}
	Sidecar *struct {
		State         string
		PID           int
		Configuration string
		ReloadError   string `json:"reload_error"`
		Probes        []struct{ Name, State string }
		Export        *struct{ Accepted, Error string }
	}
	Error string
}

func statusOf(t *testing.T, args ...string) (s status) {
	t.Helper()
	output, err := exec.Command(sidecar, append([]string{"status", "--output", "json"}, args...)...).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err := json.Unmarshal(output, &s); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if s.Running != (err == nil) {
		t.Errorf("running: %t, exit code: %v", s.Running, err)
	}
	return s
}

func (s status) probe(name string) string {
	if s.Sidecar != nil {
		for _, p := range s.Sidecar.Probes {
			if p.Name == name {
				return p.State
			}
		}
	}
	return ""
}

// uninstalls removes what a test that failed left installed.
func uninstalls(t *testing.T, instance string) {
	t.Cleanup(func() { _ = exec.Command(sidecar, "uninstall", "--purge", "--service", instance).Run() })
}

// runs runs a command that must succeed, and returns what it printed.
func runs(t *testing.T, name string, args ...string) string {
	t.Helper()
	output, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, output)
	}
	return string(output)
}

// refuses runs a command that must fail and say something.
func refuses(t *testing.T, says, name string, args ...string) {
	t.Helper()
	output, err := exec.Command(name, args...).CombinedOutput()
	if err == nil || !strings.Contains(string(output), says) {
		t.Errorf("%s %s: %v, and does not say %q:\n%s", name, strings.Join(args, " "), err, says, output)
	}
	t.Logf("%s", output)
}

// traces is what there is on this host that an installation could have left: files, users, programs, the unit.
func traces(t *testing.T) []string {
	t.Helper()
	var all []string
	// What the tools that make users keep, and what systemd keeps of its own.
	others := regexp.MustCompile(`^/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$|\.lock$|^/run/(systemd|udev|log|user|docker|containerd)|^/var/lib/(systemd|private|docker|containerd|dpkg|apt)|^/etc/ssl`)
	for _, root := range []string{"/etc", "/usr/local", "/opt", "/var/lib", "/run"} {
		if err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case others.MatchString(path) && entry.IsDir():
				return fs.SkipDir
			case !others.MatchString(path):
				all = append(all, path)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, strings.Split(string(passwd), "\n")...)
	all = append(all, strings.Split(string(groups), "\n")...)
	cgroups, err := filepath.Glob("/sys/fs/cgroup/system.slice/sidecar*")
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, cgroups...)
	return append(all, programs(t)...)
}

// programs are the tracing programs that are loaded. A program goes a moment after the last that refers to it.
func programs(t *testing.T) (names []string) {
	t.Helper()
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, fs.ErrNotExist) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		id = next
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue
		}
		if info, err := program.Info(); err == nil && info.Type == ebpf.Tracing {
			names = append(names, "program "+info.Name)
		}
		program.Close()
	}
}

// leavesNothing fails the test if there is more than before when it ends.
func leavesNothing(t *testing.T) {
	t.Helper()
	before := traces(t)
	t.Cleanup(func() { nothingSince(t, before) })
}

func nothingSince(t *testing.T, before []string) {
	t.Helper()
	var left []string
	for range 50 {
		left = slices.DeleteFunc(traces(t), func(trace string) bool { return slices.Contains(before, trace) })
		if len(left) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("left behind: %s", strings.Join(left, ", "))
}

// executions executes a program of a new name a random number of times, and returns the two.
func executions(t *testing.T) (name string, n int) {
	t.Helper()
	name = fmt.Sprintf("run-%08x", rand.Uint32())
	path := filepath.Join(t.TempDir(), name)
	content, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	n = 20 + rand.IntN(80)
	for range n {
		runs(t, path)
	}
	t.Logf("%d executions of %s", n, name)
	return name, n
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const configuration = "/etc/sidecar/config.yaml"

// few is a configuration with three probes and more, so that an emulated machine has less to load.
func few(more string) string {
	return "export: {interval: 1s}\nprobes: {" + more + `scheduler: {enabled: false}, tcp: {enabled: false}, drops: {enabled: false}, memory: {enabled: false}}` + "\n"
}

// TestService is the life of a service, from install to uninstall.
func TestService(t *testing.T) {
	before := traces(t)
	uninstalls(t, "sidecar")
	collector := startCollector(t)
	dryRun := runs(t, sidecar, "install", "--dry-run")
	t.Log(runs(t, sidecar, "install"))
	unit, err := os.ReadFile("/etc/systemd/system/sidecar.service")
	if err != nil || string(unit) != dryRun {
		t.Errorf("the unit is not what --dry-run said, %v:\n%s\n%s", err, unit, dryRun)
	}
	if info, err := os.Stat(configuration); err != nil || info.Mode() != 0o640 {
		t.Errorf("%s: %v, %v", configuration, info, err)
	}
	if s := statusOf(t); s.Running || s.Service == nil || s.Service.Active != "inactive" || s.Service.Enabled != "enabled" {
		t.Errorf("installed: %+v", s)
	}
	refuses(t, "installed already", sidecar, "install")

	runs(t, sidecar, "start")
	s := statusOf(t)
	if !s.Running || s.Service.Active != "active" || s.probe("process") != "attached" || s.Sidecar.PID != s.Service.PID {
		t.Errorf("started: %+v", s)
	}
	t.Log(runs(t, sidecar, "status"))
	t.Log(runs(t, "systemctl", "status", "--no-pager", "sidecar"))
	if account, err := user.Lookup("sidecar"); err != nil || ownerOf(t, s.Service.PID) != account.Uid {
		t.Errorf("it does not run as its user: %v", err)
	}
	name, n := executions(t)
	has(t, collector, name, n)

	exposure := runs(t, "systemd-analyze", "security", "--no-pager", "sidecar.service")
	t.Log(exposure)
	level := regexp.MustCompile(`exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(exposure)
	if level == nil {
		t.Fatal("systemd-analyze tells no exposure level")
	}
	if figure, err := strconv.ParseFloat(level[1], 64); err != nil || figure > 2.0 {
		t.Errorf("exposure level %s, want at most 2.0", level[1])
	}

	writeFile(t, configuration, few("signals: {enabled: false}, "))
	restarted := make(chan error)
	go func() { restarted <- exec.Command(sidecar, "restart").Run() }()
	name, n = executions(t) // also between the one and the other
	if err := <-restarted; err != nil {
		t.Fatal(err)
	}
	if s := statusOf(t); !s.Running || s.probe("signals") != "disabled" {
		t.Errorf("restarted with another configuration: %+v", s)
	}
	has(t, collector, name, n)

	writeFile(t, configuration, few(""))
	runs(t, sidecar, "reload")
	if s := statusOf(t); !s.Running || s.probe("signals") != "attached" || s.Service.Restarts != 0 {
		t.Errorf("reloaded: %+v", s)
	}
	writeFile(t, configuration, few("block: {enabled: false}, "))
	runs(t, "systemctl", "reload", "sidecar")
	if s := statusOf(t); !s.Running || s.probe("block") != "disabled" {
		t.Errorf("reloaded by systemctl: %+v", s)
	}
	writeFile(t, configuration, few("blok: {enabled: false}, "))
	refuses(t, "did you mean block?", sidecar, "reload")
	if s := statusOf(t); !s.Running || s.probe("block") != "disabled" || s.Sidecar.ReloadError == "" {
		t.Errorf("a reload of what is wrong: %+v", s)
	}
	name, n = executions(t)
	has(t, collector, name, n)
	writeFile(t, configuration, few(""))

	pid := statusOf(t).Service.PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	name, n = executions(t) // while no sidecar runs
	harness.Eventually(t, "systemd brings it back", func() bool {
		s := statusOf(t)
		return s.Running && s.Service.PID != pid && s.Service.Restarts == 1
	})
	has(t, collector, name, n)

	if warnings := runs(t, "journalctl", "--unit", "sidecar", "--priority", "3", "--output", "cat", "--no-pager"); !strings.Contains(warnings, "nothing is changed") {
		t.Errorf("the journal has no error of the reload that failed:\n%s", warnings)
	}

	runs(t, sidecar, "stop")
	harness.Eventually(t, "no program is loaded", func() bool { return len(programs(t)) == 0 })
	if s := statusOf(t); s.Running || s.Service.Active != "inactive" {
		t.Errorf("stopped: %+v", s)
	}
	runs(t, sidecar, "start")
	t.Log(runs(t, sidecar, "uninstall")) // while it runs
	refuses(t, "could not be found", "systemctl", "status", "sidecar")
	nothingSince(t, append(before, "/etc/sidecar", configuration))
	refuses(t, "not installed", sidecar, "uninstall")
	refuses(t, "not installed", sidecar, "start")

	runs(t, sidecar, "install")
	runs(t, sidecar, "uninstall", "--purge")
	nothingSince(t, before)
}

func ownerOf(t *testing.T, pid int) string {
	t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(info.Sys().(*syscall.Stat_t).Uid)
}

// TestWatchdog checks that a sidecar whose collections do not end is killed and started again: it prints to a pipe that nobody
// reads.
func TestWatchdog(t *testing.T) {
	leavesNothing(t)
	folder := t.TempDir()
	pipe := filepath.Join(folder, "pipe")
	if err := syscall.Mkfifo(pipe, 0o666); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile(pipe, os.O_RDWR, 0) // so that opening it does not wait
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	uninstalls(t, "sidecar")
	runs(t, sidecar, "install")
	writeFile(t, configuration, few(""))
	dropIn := "/run/systemd/system/sidecar.service.d/stuck.conf"
	if err := os.MkdirAll(filepath.Dir(dropIn), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(dropIn)) })
	writeFile(t, dropIn, "[Service]\nWatchdogSec=10\nStandardOutput=file:"+pipe+
		"\nEnvironment=OTEL_METRICS_EXPORTER=console OTEL_METRIC_EXPORT_INTERVAL=100 OTEL_METRIC_EXPORT_TIMEOUT=500\n")
	runs(t, "systemctl", "daemon-reload")
	runs(t, sidecar, "start")
	harness.Eventually(t, "the watchdog acts", func() bool {
		return strings.Contains(runs(t, "journalctl", "--unit", "sidecar", "--output", "cat", "--no-pager"), "Watchdog timeout")
	})
	go func() { _, _ = io.Copy(io.Discard, full) }() // as long as the pipe is open
	harness.Eventually(t, "systemd brings it back", func() bool { return statusOf(t).Running })
}

// TestInstallElsewhere checks what is no plain installation: a named user, a binary in a home folder, a second instance.
func TestInstallElsewhere(t *testing.T) {
	leavesNothing(t)
	runs(t, "useradd", "--create-home", "jane")
	t.Cleanup(func() { runs(t, "userdel", "--remove", "jane") })
	content, err := os.ReadFile(sidecar)
	if err != nil {
		t.Fatal(err)
	}
	const home = "/home/jane"
	mine := filepath.Join(home, "sidecar")
	if err := os.WriteFile(mine, content, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, home+"/my config.yaml", few(""))
	runs(t, "chown", "--recursive", "jane:", home)

	uninstalls(t, "sidecar")
	uninstalls(t, "edge")
	runs(t, mine, "install", "--user", "jane", "--config", home+"/my config.yaml", "--working-directory", home, "--now")
	s := statusOf(t)
	if !s.Running || s.Sidecar.Configuration != home+"/my config.yaml" {
		t.Errorf("as jane: %+v", s)
	}
	jane, err := user.Lookup("jane")
	if err != nil || ownerOf(t, s.Service.PID) != jane.Uid {
		t.Errorf("it does not run as jane: %v", err)
	}
	if folder, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", s.Service.PID)); err != nil || folder != home {
		t.Errorf("it runs in %s, %v", folder, err)
	}
	if binary, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.Service.PID)); err != nil || binary != "/usr/local/bin/sidecar" {
		t.Errorf("the binary that jane can change runs: %s, %v", binary, err)
	}

	if err := os.Mkdir("/etc/edge", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, "/etc/edge/config.yaml", few(""))
	runs(t, sidecar, "install", "--service", "edge", "--now")
	if s := statusOf(t, "--service", "edge"); !s.Running || s.Sidecar.Configuration != "/etc/edge/config.yaml" {
		t.Errorf("edge: %+v", s)
	}
	runs(t, sidecar, "uninstall")
	if s := statusOf(t, "--service", "edge"); !s.Running {
		t.Errorf("edge, when the other is gone: %+v", s)
	}
	runs(t, sidecar, "restart", "--service", "edge") // the binary is there
	runs(t, sidecar, "install", "--service", "edge", "--force", "--now")
	if s := statusOf(t, "--service", "edge"); !s.Running {
		t.Errorf("edge, installed over itself: %+v", s)
	}
	runs(t, sidecar, "uninstall", "--service", "edge", "--purge")
}

// TestInstallRefused checks that what cannot be is said, and leaves nothing.
func TestInstallRefused(t *testing.T) {
	leavesNothing(t)
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	writeFile(t, bad, "probes: {process: {enabled: maybe}}\n")
	secret := filepath.Join(t.TempDir(), "secret.yaml")
	writeFile(t, secret, "")
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		says string
		args []string
	}{
		{"there is no user nosuch", []string{sidecar, "install", "--user", "nosuch"}},
		{"bad.yaml:1:", []string{sidecar, "install", "--config", bad}},
		{"permission denied", []string{sidecar, "install", "--config", secret}},
		{"use sudo", []string{"setpriv", "--reuid", "65534", "--clear-groups", sidecar, "install"}},
		{"CAP_BPF and CAP_PERFMON", []string{"setpriv", "--bounding-set=-bpf", sidecar, "install"}},
		{"is a package's", []string{sidecar, "install", "--service", "dbus", "--force"}},
		{"letters, digits", []string{sidecar, "install", "--service", "../x"}},
	} {
		t.Run(test.says, func(t *testing.T) {
			leavesNothing(t)
			refuses(t, test.says, test.args[0], test.args[1:]...)
		})
	}
}

// TestStartFails checks that install --now takes all back if the service does not come up.
func TestStartFails(t *testing.T) {
	leavesNothing(t)
	dropIn := "/run/systemd/system/sidecar.service.d/broken.conf"
	if err := os.MkdirAll(filepath.Dir(dropIn), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(dropIn)) })
	writeFile(t, dropIn, "[Service]\nEnvironment=SIDECAR_MEMORY_LIMIT=1KiB\n")
	refuses(t, "memory_limit", sidecar, "install", "--now")
}
