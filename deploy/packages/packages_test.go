// Package packages tests the .deb and .rpm packages: what is in them, and what dpkg and rpm do with them.
package packages

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

var (
	// packages is a folder with the packages of 1.0.0 for both architectures, and of 1.1.0 for amd64.
	packages string
	// system is the root of a system that has Debian's essential packages, and systemd, which does not run. Tests copy it.
	system string
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests install packages in a system that they make, which takes root (sudo make test)")
		return 1
	}
	folder, err := os.MkdirTemp("", "sidecar-packages")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	packages, system = filepath.Join(folder, "packages"), filepath.Join(folder, "system")
	// The machine's own release, from the machine's own mirror.
	const debootstrap = `cd /etc/apt && mmdebstrap --quiet --variant=minbase --include=systemd '' "$0" $(find sources.list* -type f)`
	for _, command := range []*exec.Cmd{
		exec.Command("make", "-C", "../..", "packages", "VERSION=v1.0.0", "PACKAGES="+packages),
		exec.Command("./build.sh", packages, "v1.1.0", "amd64"),
		exec.Command("sh", "-c", debootstrap, system),
	} {
		if output, err := command.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %v\n%s", command, err, output)
			return 1
		}
	}
	return m.Run()
}

func deb(version, architecture string) string {
	return filepath.Join(packages, fmt.Sprintf("sidecar_%s_%s.deb", version, architecture))
}

func rpm(version, architecture string) string {
	return filepath.Join(packages, fmt.Sprintf("sidecar-%s-1.%s.rpm", version, architecture))
}

// output runs a command and returns what it prints on standard output.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stdout, all bytes.Buffer
	command := exec.Command(name, args...)
	command.Stdout, command.Stderr = io.MultiWriter(&stdout, &all), &all
	if err := command.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, &all)
	}
	return stdout.String()
}

// What both packages have, folders left out: mode, owner and group.
var files = map[string]string{
	"/etc/default/sidecar":                           "-rw-r----- root root",
	"/usr/bin/sidecar":                               "-rwxr-xr-x root root",
	"/usr/lib/systemd/system/sidecar.service":        "-rw-r--r-- root root",
	"/usr/share/bash-completion/completions/sidecar": "-rw-r--r-- root root",
}

func TestDebContents(t *testing.T) {
	want := map[string]string{
		"/etc/sidecar/config.yaml":             "-rw-r----- root root",
		"/usr/share/doc/sidecar/changelog.gz":  "-rw-r--r-- root root",
		"/usr/share/doc/sidecar/copyright":     "-rw-r--r-- root root",
		"/usr/share/lintian/overrides/sidecar": "-rw-r--r-- root root",
	}
	maps.Copy(want, files)
	for architecture, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		t.Run(architecture, func(t *testing.T) {
			path := deb("1.0.0", architecture)
			got := make(map[string]string)
			for archive := tar.NewReader(strings.NewReader(output(t, "dpkg-deb", "--fsys-tarfile", path))); ; {
				header, err := archive.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if header.Typeflag == tar.TypeDir {
					continue
				}
				name := strings.TrimPrefix(header.Name, ".")
				got[name] = fmt.Sprintf("%v %s %s", header.FileInfo().Mode(), header.Uname, header.Gname)
			}
			same(t, got, want)
			folder := t.TempDir()
			output(t, "dpkg-deb", "--raw-extract", path, folder)
			checkBinary(t, folder, machine)
			conffiles, err := os.ReadFile(filepath.Join(folder, "DEBIAN/conffiles"))
			if err != nil {
				t.Fatal(err)
			}
			if want := "/etc/default/sidecar\n/etc/sidecar/config.yaml\n"; string(conffiles) != want {
				t.Errorf("conffiles:\n%swant\n%s", conffiles, want)
			}
			if got := output(t, "dpkg-deb", "--field", path, "Architecture"); got != architecture+"\n" {
				t.Errorf("it is for %s", got)
			}
		})
	}
}

func TestRPMContents(t *testing.T) {
	want := map[string]string{
		"/etc/sidecar/config.yaml":            "-rw-r----- root sidecar",
		"/usr/share/licenses/sidecar/LICENSE": "-rw-r--r-- root root",
	}
	maps.Copy(want, files)
	for architecture, machine := range map[string]elf.Machine{"x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64} {
		t.Run(architecture, func(t *testing.T) {
			path := rpm("1.0.0", architecture)
			query := func(format string) string {
				return output(t, "rpm", "--query", "--package", "--queryformat", format, path)
			}
			got := make(map[string]string)
			for line := range strings.Lines(query(`[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME}\n]`)) {
				if name, rest, _ := strings.Cut(strings.TrimSpace(line), " "); !strings.HasPrefix(rest, "d") {
					got[name] = rest
				}
			}
			same(t, got, want)
			folder := t.TempDir()
			output(t, "sh", "-c", `rpm2cpio "$0" | cpio --quiet --no-absolute-filenames -idm -D "$1"`, path, folder)
			checkBinary(t, folder, machine)
			flags := query(`[%{FILEFLAGS:fflags} %{FILENAMES}\n]`)
			for _, file := range []string{"/etc/default/sidecar", "/etc/sidecar/config.yaml"} {
				if !strings.Contains(flags, "cn "+file+"\n") { // configuration, noreplace
					t.Errorf("%s is no configuration that an upgrade leaves alone:\n%s", file, flags)
				}
			}
			if got := query("%{ARCH}"); got != architecture {
				t.Errorf("it is for %s", got)
			}
		})
	}
}

// same compares what is at each path.
func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	for path := range want {
		if _, ok := got[path]; !ok {
			t.Errorf("%s is missing", path)
		}
	}
	for path, g := range got {
		if w := want[path]; g != w {
			t.Errorf("%s: %s, want %q", path, g, w)
		}
	}
}

// checkBinary checks what a package was unpacked to.
func checkBinary(t *testing.T, folder string, machine elf.Machine) {
	t.Helper()
	file, err := elf.Open(filepath.Join(folder, "usr/bin/sidecar"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if file.Machine != machine {
		t.Errorf("the binary is for %v", file.Machine)
	}
	unit, err := os.ReadFile(filepath.Join(folder, "usr/lib/systemd/system/sidecar.service"))
	if err != nil {
		t.Fatal(err)
	}
	// Type=notify-reload is unknown to Debian 12's systemd, and to that of Enterprise Linux 9.
	for _, line := range []string{"Type=notify", `ExecStart="/usr/bin/sidecar" run --service sidecar --config "/etc/sidecar/config.yaml"`} {
		if !strings.Contains(string(unit), "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, unit)
		}
	}
}

func TestLintian(t *testing.T) {
	output(t, "lintian", "--allow-root", "--no-cfg", "--fail-on", "error,warning", deb("1.0.0", "amd64"))
}

// TestVersions checks that dpkg and rpm order the versions of git describe as git does.
func TestVersions(t *testing.T) {
	var versions []string
	for _, v := range []string{
		"8d3c8aa", "v1.2.0-rc1", "v1.2.0-rc1-3-g8d3c8aa", "v1.2.0-rc2", "v1.2.0", "v1.2.0-dirty", "v1.2.1", "1.2.1-3-g8d3c8aa", "v1.2.1-12-g0a3c8aa", "v1.10.0",
	} {
		versions = append(versions, strings.TrimSpace(output(t, "./version.sh", v)))
	}
	t.Log(versions)
	for i, v := range versions[1:] {
		before := versions[i]
		output(t, "dpkg", "--compare-versions", before, "lt", v)
		if got := output(t, "rpm", "--eval", fmt.Sprintf("%%{lua: print(rpm.vercmp(%q, %q))}", before, v)); got != "-1\n" {
			t.Errorf("rpm compares %s with %s: %s", before, v, got)
		}
	}
	for _, v := range []string{"", "dev", "1.0 beta", "v1_0", "1.0;id"} {
		if out, err := exec.Command("./version.sh", v).CombinedOutput(); err == nil || !strings.Contains(string(out), "write VERSION=") {
			t.Errorf("%q: %v, %s", v, err, out)
		}
	}
}

// root is a copy of the system.
type root struct {
	*testing.T
	path   string
	before map[string]string // what was there
}

// newRoot makes a root, where it runs shell commands first.
func newRoot(t *testing.T, commands string) *root {
	t.Helper()
	r := &root{T: t, path: filepath.Join(t.TempDir(), "root")}
	output(t, "cp", "-a", system, r.path)
	r.run("sh", "-c", commands)
	r.before = r.state()
	return r
}

// run runs a command in it.
func (r *root) run(name string, args ...string) string {
	r.Helper()
	return output(r.T, "chroot", append([]string{r.path, name}, args...)...)
}

// apart are files of dpkg, rpm and useradd themselves: their databases, logs and backups.
var apart = regexp.MustCompile(`^/(var/lib/(dpkg|rpm)|var/log|var/cache|tmp)(/|$)|^/etc/((passwd|group|shadow|gshadow|subuid|subgid)-|\.pwd\.lock)$`)

// state is what is at each path: mode, owners and content.
func (r *root) state() map[string]string {
	r.Helper()
	state := make(map[string]string)
	if err := filepath.WalkDir(r.path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, r.path)
		if apart.MatchString(name) {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%v %d %d", info.Mode(), stat.Uid, stat.Gid)
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %x", sha256.Sum256(content))
		}
		state[name] = text
		return nil
	}); err != nil {
		r.Fatal(err)
	}
	return state
}

// gone checks that all is as it was, but for some paths.
func (r *root) gone(but ...string) {
	r.Helper()
	now := r.state()
	for _, path := range but {
		if now[path] == "" || now[path] == r.before[path] {
			r.Errorf("%s is as it was", path)
		}
		now[path] = r.before[path]
	}
	maps.DeleteFunc(now, func(_, text string) bool { return text == "" })
	same(r.T, now, r.before)
}

// has checks mode, owner and group of what is at a path.
func (r *root) has(path, want string) {
	r.Helper()
	if got := strings.TrimSpace(r.run("stat", "--format", "%A %U %G", path)); got != want {
		r.Errorf("%s: %s, want %s", path, got, want)
	}
}

func (r *root) exists(path string) bool {
	_, err := os.Lstat(filepath.Join(r.path, path))
	return err == nil
}

// change appends a line to a file.
func (r *root) change(path string) {
	r.Helper()
	r.run("sh", "-c", `echo "# changed" >>"$0"`, path)
}

func (r *root) changed(path string) bool {
	r.Helper()
	content, err := os.ReadFile(filepath.Join(r.path, path))
	if err != nil {
		r.Fatal(err)
	}
	return bytes.HasSuffix(content, []byte("# changed\n"))
}

const (
	config  = "/etc/sidecar/config.yaml"
	enabled = "/etc/systemd/system/multi-user.target.wants/sidecar.service"
)

// installed checks what an installation has made.
func (r *root) installed(version string) {
	r.Helper()
	if got := r.run("sidecar", "version"); !strings.HasPrefix(got, "sidecar v"+version+" ") {
		r.Errorf("it has %s, want %s", got, version)
	}
	r.has(config, "-rw-r----- root sidecar")
	r.has("/etc/default/sidecar", "-rw-r----- root root")
	account := r.run("getent", "passwd", "sidecar")
	if fields := strings.Split(strings.TrimSpace(account), ":"); fields[5] != "/nonexistent" || !strings.HasSuffix(fields[6], "/nologin") {
		r.Errorf("the user: %s", account)
	}
	if content, err := os.ReadFile(filepath.Join(r.path, "etc/shadow")); err != nil || !strings.Contains(string(content), "\nsidecar:!") {
		r.Errorf("the user can log in, or: %v", err)
	}
	r.run("sidecar", "config", "validate", config)
}

// TestDebian installs, upgrades, removes and purges with dpkg.
func TestDebian(t *testing.T) {
	r := newRoot(t, "")
	install := func(version string) {
		t.Helper()
		output(t, "cp", deb(version, "amd64"), filepath.Join(r.path, "tmp/sidecar.deb"))
		r.run("dpkg", "--install", "/tmp/sidecar.deb")
	}
	install("1.0.0")
	r.installed("1.0.0")
	if !r.exists(enabled) {
		t.Error("the service is not enabled")
	}

	r.change(config)
	r.change("/etc/default/sidecar")
	install("1.1.0")
	r.installed("1.1.0")
	if !r.changed(config) || !r.changed("/etc/default/sidecar") {
		t.Error("the upgrade took the configuration back")
	}

	r.run("systemctl", "disable", "sidecar.service")
	install("1.1.0")
	if r.exists(enabled) {
		t.Error("installing again enabled what was disabled")
	}

	r.run("dpkg", "--remove", "sidecar")
	if r.exists("/usr/bin/sidecar") || r.exists("/usr/lib/systemd/system/sidecar.service") || !r.changed(config) {
		t.Error("removed: the program is there, or the configuration is not")
	}
	install("1.1.0") // with the configuration there
	r.installed("1.1.0")
	r.run("sh", "-c", "mkdir /var/lib/sidecar && touch /var/lib/sidecar/state")
	r.run("dpkg", "--purge", "sidecar")
	r.gone()
}

// TestRPM installs, upgrades and removes with rpm.
func TestRPM(t *testing.T) {
	r := newRoot(t, "mkdir /usr/share/licenses")
	do := func(args ...string) {
		t.Helper()
		output(t, "rpm", append([]string{"--root", r.path, "--dbpath", "/var/lib/rpm", "--nodeps", "--force-debian"}, args...)...)
	}
	do("--install", rpm("1.0.0", "x86_64"))
	r.installed("1.0.0")
	do("--verify", "sidecar")
	if !r.exists(enabled) { // Debian has no presets, which means: all
		t.Error("the presets were not asked")
	}

	r.change(config)
	r.run("systemctl", "disable", "sidecar.service")
	do("--upgrade", rpm("1.1.0", "x86_64"))
	r.installed("1.1.0")
	if !r.changed(config) {
		t.Error("the upgrade took the configuration back")
	}
	if r.exists(enabled) {
		t.Error("the upgrade enabled what was disabled")
	}

	r.run("systemctl", "enable", "sidecar.service")
	do("--erase", "sidecar")
	if r.exists(enabled) {
		t.Error("what was removed is enabled")
	}
	// The user stays, as on Fedora, and a configuration that was changed.
	r.gone("/etc/sidecar", config+".rpmsave", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")

	r = newRoot(t, "echo 'disable *' >/usr/lib/systemd/system-preset/99-default-disable.preset") // as Fedora has it
	do("--install", rpm("1.0.0", "x86_64"))
	if r.exists(enabled) {
		t.Error("the service is enabled where the presets say disable")
	}
}
