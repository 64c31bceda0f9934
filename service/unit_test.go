package service

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebpf-sidecar/sidecar/internal/golden"
)

func example() Unit {
	return Unit{
		Instance: DefaultName, Binary: binaryPath, Config: "/etc/sidecar/config.yaml", User: DefaultUser,
		WorkingDirectory: "/var/lib/sidecar", MemoryMax: 256 << 20, NotifyReload: true, Made: Made{binaryPath, DefaultUser},
	}
}

func TestUnit(t *testing.T) {
	text, err := example().Text()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "sidecar.service", []byte(text))
}

// TestUnitQuotes checks that a path is one argument, whatever is in it.
func TestUnitQuotes(t *testing.T) {
	unit := example()
	unit.Instance = "edge"
	unit.NotifyReload = false
	unit.Config = `/home/a b/100%/$x"\.yaml`
	unit.WorkingDirectory = "/srv/50%"
	text, err := unit.Text()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`ExecStart="/usr/local/bin/sidecar" run --service edge --config "/home/a b/100%%/$$x\"\\.yaml"`,
		`ExecReload="/usr/local/bin/sidecar" reload --service edge`,
		"WorkingDirectory=/srv/50%%",
		"ProtectHome=read-only",
		"RuntimeDirectory=edge",
		"EnvironmentFile=-/etc/default/edge",
		"Type=notify",
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
	unit.Config = "/etc/a\nExecStartPre=/bin/evil"
	if text, err := unit.Text(); err == nil {
		t.Errorf("a path with a line break makes\n%s", text)
	}
}

func TestMade(t *testing.T) {
	text, err := example().Text()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.service")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if made, ours, err := readMade(path); err != nil || !ours || made != example().Made {
		t.Errorf("%+v, %t, %v", made, ours, err)
	}
	foreign, _, _ := strings.Cut(text, madeSection)
	if err := os.WriteFile(path, []byte(foreign), 0o644); err != nil {
		t.Fatal(err)
	}
	if made, ours, err := readMade(path); err != nil || ours || made != (Made{}) {
		t.Errorf("another's unit: %+v, %t, %v", made, ours, err)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"sidecar", "edge-2", "A_b"} {
		if err := new(Instance).Set(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "-x", "a/b", "..", "a b", "a%n", "a@b", strings.Repeat("x", 65)} {
		if err := new(Instance).Set(name); err == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
}

// TestOwnedByRoot checks that nobody but root can put another program in a service's place.
func TestOwnedByRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test gives files away, which takes root (sudo make test)")
	}
	if err := ownedByRoot("/usr/bin/env"); err != nil {
		t.Error(err)
	}
	folder := t.TempDir() // below /tmp, where all may write
	if err := ownedByRoot(folder); err == nil {
		t.Errorf("%s passes", folder)
	}
	if inPlace(filepath.Join(folder, "sidecar")) {
		t.Errorf("a binary in %s is in place", folder)
	}
}
