package service

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/joho/godotenv"
	"golang.org/x/sys/unix"
)

// DefaultUser is the system user that install makes for the service, and its group's name.
const DefaultUser = "sidecar"

// Options say how to install an instance. What is empty is the default.
type Options struct {
	Instance         Instance
	User             string // the service's; one that is named must exist
	WorkingDirectory string
	Config           string // the configuration file
	Binary           string // the running one
	DefaultConfig    []byte // what to write where there is no configuration
	// MemoryMax bounds kernel and process memory for the configuration, in bytes. It is called when the file is there.
	MemoryMax func(config string) (uint64, error)
	Now       bool // start it
	Force     bool // over an installation that is there
	Log       io.Writer
}

// withDefaults returns o with every empty value replaced and all paths absolute.
func (o Options) withDefaults() (Options, error) {
	if o.User == "" {
		o.User = DefaultUser
	}
	if o.WorkingDirectory == "" {
		o.WorkingDirectory = o.Instance.State()
	}
	if o.Config == "" {
		o.Config = o.Instance.Configuration()
	}
	var errs [3]error
	o.WorkingDirectory, errs[0] = filepath.Abs(o.WorkingDirectory)
	o.Config, errs[1] = filepath.Abs(o.Config)
	o.Binary, errs[2] = filepath.Abs(o.Binary)
	return o, errors.Join(errs[:]...)
}

// DryRun returns the unit file that Install would write, as far as that is known without doing anything.
func DryRun(o Options) (string, error) {
	o, err := o.withDefaults()
	if err != nil {
		return "", err
	}
	unit := o.unit()
	if !inPlace(o.Binary) {
		unit.Binary, unit.Made.Binary = binaryPath, binaryPath
	}
	if _, err := user.Lookup(o.User); err != nil && o.User == DefaultUser {
		unit.Made.User = o.User
	}
	config := o.Config
	if _, err := os.Stat(config); errors.Is(err, fs.ErrNotExist) {
		config = ""
	}
	if unit.MemoryMax, err = o.MemoryMax(config); err != nil {
		return "", err
	}
	if host, err := findSystemd(); err == nil {
		unit.NotifyReload = host.notifiesReload()
	} else {
		unit.NotifyReload = true
	}
	return unit.Text()
}

// notifiesReload says whether there is Type=notify-reload.
func (s systemd) notifiesReload() bool { return s.version >= 253 }

func (o Options) unit() Unit {
	return Unit{
		Instance: o.Instance, Binary: o.Binary, Config: o.Config, User: o.User, WorkingDirectory: o.WorkingDirectory,
	}
}

// undo is what takes back what was done, from the last to the first.
type undo []func() error

func (u *undo) add(f func() error) { *u = append(*u, f) }

func (u *undo) run() error {
	var errs []error
	for i := len(*u) - 1; i >= 0; i-- {
		errs = append(errs, (*u)[i]())
	}
	return errors.Join(errs...)
}

// Install makes an instance a service that starts with the host. What fails leaves nothing behind.
func Install(o Options) (err error) {
	o, err = o.withDefaults()
	if err != nil {
		return err
	}
	host, err := findSystemd()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("only root installs services: use sudo")
	}
	if err := o.mayInstall(); err != nil {
		return err
	}
	var done undo
	defer func() {
		if err != nil {
			err = errors.Join(err, done.run())
		}
	}()
	unit := o.unit()
	unit.NotifyReload = host.notifiesReload()
	if unit.Made, err = madeForOthers(o.Instance); err != nil {
		return err
	}
	if before, ours, err := readMade(o.Instance.UnitFile()); err == nil && ours {
		unit.Made = before
	}
	account, made, err := findUser(o.User, &done)
	if err != nil {
		return err
	}
	if made {
		unit.Made.User = o.User
	}
	path, made, undoBinary, err := placeBinary(o.Binary, o.Force || unit.Made.Binary != "")
	if err != nil {
		return err
	}
	done.add(undoBinary)
	unit.Binary = path
	if made {
		unit.Made.Binary = path
	}
	if err := o.writeConfig(account, &done); err != nil {
		return err
	}
	if unit.MemoryMax, err = o.MemoryMax(o.Config); err != nil {
		return err
	}
	if err := o.tryOut(unit.Binary, account); err != nil {
		return err
	}
	if err := o.register(unit, &done); err != nil {
		return err
	}
	if o.Now {
		if err := Restart(o.Instance); err != nil {
			return err
		}
	}
	o.tell(unit)
	return nil
}

// mayInstall returns an error if the unit is there, unless it may be replaced.
func (o Options) mayInstall() error {
	for _, folder := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
		if path := filepath.Join(folder, o.Instance.Unit()); exists(path) {
			return fmt.Errorf("%s is a package's: systemctl enable --now %s; for one more: sidecar install --service NAME", path, o.Instance)
		}
	}
	path := o.Instance.UnitFile()
	_, ours, err := readMade(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !ours:
		return fmt.Errorf("%s is there and is not ours: choose another name with --service NAME", path)
	case !o.Force:
		return fmt.Errorf("%s is installed already (%s): --force installs over it, sidecar uninstall%s removes it",
			o.Instance.Unit(), path, o.Instance.flag())
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// findUser finds the service's user, or makes the default one.
func findUser(name string, done *undo) (account *user.User, made bool, err error) {
	account, err = user.Lookup(name)
	var unknown user.UnknownUserError
	if err == nil || !errors.As(err, &unknown) {
		return account, false, err
	}
	if name != DefaultUser {
		return nil, false, fmt.Errorf("there is no user %s: useradd --system %s, or leave out --user", name, name)
	}
	if err := command("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
		"--shell", "/usr/sbin/nologin", "--comment", "eBPF observability sidecar", name); err != nil {
		return nil, false, err
	}
	done.add(func() error { return removeUser(name) })
	account, err = user.Lookup(name)
	return account, true, err
}

func removeUser(name string) error { return command("userdel", name) }

// command runs a tool of the system. Its error has what the tool said.
func command(name string, args ...string) error {
	if output, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(output))
	}
	return nil
}

// writeConfig writes the default configuration where there is none. The service's group may read it, and others not: it can
// hold headers.
func (o Options) writeConfig(account *user.User, done *undo) error {
	if exists(o.Config) {
		return nil
	}
	folder := filepath.Dir(o.Config)
	if !exists(folder) {
		done.add(func() error { return os.Remove(folder) })
	}
	if err := writeFile(o.Config, o.DefaultConfig, 0o640); err != nil {
		return err
	}
	done.add(func() error { return os.Remove(o.Config) })
	gid, err := strconv.Atoi(account.Gid)
	if err != nil {
		return err
	}
	return os.Chown(o.Config, 0, gid)
}

// tryOut runs sidecar check as the service will run: its user, its capabilities, its variables. That user must be able to
// read the configuration and to run the binary, too.
func (o Options) tryOut(binary string, account *user.User) error {
	uid, uidErr := strconv.ParseUint(account.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(account.Gid, 10, 32)
	environment, err := environment(o.Instance.Environment())
	if err := errors.Join(uidErr, gidErr, err); err != nil {
		return err
	}
	check := exec.Command(binary, "check", "--config", o.Config)
	check.Env = environment
	check.Dir = "/"
	check.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		AmbientCaps: []uintptr{unix.CAP_BPF, unix.CAP_PERFMON},
	}
	output, err := check.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("the kernel refuses to run %s as %s with %s, so that it would refuse the service too: they are missing here as well, or the file system is mounted noexec",
			binary, o.User, strings.ReplaceAll(Capabilities, " ", " and "))
	}
	if err != nil {
		return fmt.Errorf("as the user %s, %s check --config %s: %w\n%s", o.User, binary, o.Config, err, bytes.TrimSpace(output))
	}
	return nil
}

// environment reads a file of variables, if there is one.
func environment(path string) (list []string, err error) {
	variables, err := godotenv.Read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for name, value := range variables {
		list = append(list, name+"="+value)
	}
	return list, nil
}

// register writes the unit file and makes systemd know it.
func (o Options) register(unit Unit, done *undo) error {
	text, err := unit.Text()
	if err != nil {
		return err
	}
	handle, err := o.Instance.handle(text)
	if err != nil {
		return err
	}
	path := o.Instance.UnitFile()
	if before, err := os.ReadFile(path); err == nil {
		if err := writeFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		done.add(func() error {
			err := writeFile(path, before, 0o644)
			_, reload := systemctl("daemon-reload")
			return errors.Join(err, reload)
		})
		_, err := systemctl("daemon-reload")
		return err
	}
	done.add(func() error { return remove(o.Instance, handle) })
	return handle.Install()
}

// tell says where things are and what to type next.
func (o Options) tell(unit Unit) {
	fmt.Fprintf(o.Log, "Installed %s.\n", o.Instance.Unit())
	for _, line := range [][2]string{
		{"unit", o.Instance.UnitFile()},
		{"binary", unit.Binary},
		{"configuration", o.Config},
		{"variables", o.Instance.Environment() + " (if you make it)"},
		{"user", o.User + ", with " + strings.ReplaceAll(Capabilities, " ", " and ") + " only"},
		{"socket", o.Instance.Socket()},
		{"log", "journalctl --unit " + o.Instance.Unit()},
	} {
		fmt.Fprintf(o.Log, "  %-14s %s\n", line[0], line[1])
	}
	if o.Now {
		fmt.Fprintf(o.Log, "It runs. Next: sidecar status%s\n", o.Instance.flag())
		return
	}
	fmt.Fprintf(o.Log, "It starts with the host. Next: sidecar start%s\n", o.Instance.flag())
}
