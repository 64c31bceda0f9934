package service

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/kardianos/service"
)

// ErrNoSystemd says that this host is not run by systemd.
var ErrNoSystemd = errors.New("this host is not run by systemd")

// systemd is what runs the services of this host.
type systemd struct{ version int }

// findSystemd returns ErrNoSystemd, with what there is to do instead, where there is none.
func findSystemd() (systemd, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil || service.Platform() != "linux-systemd" {
		return systemd{}, fmt.Errorf("%w: let its own service manager, or the container engine, run: sidecar run --config FILE", ErrNoSystemd)
	}
	output, err := systemctl("--version")
	if err != nil {
		return systemd{}, err
	}
	var version int
	if _, err := fmt.Sscanf(output, "systemd %d", &version); err != nil {
		return systemd{}, fmt.Errorf("systemctl --version says %q: %w", output, err)
	}
	return systemd{version}, nil
}

// systemctl returns what it printed. Its error has what it said.
func systemctl(args ...string) (string, error) {
	var stderr bytes.Buffer
	command := exec.Command("systemctl", args...)
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(output), nil
}

// Report is what systemd knows of an instance.
type Report struct {
	Unit      string `json:"unit"`
	File      string `json:"file"`
	Enabled   string `json:"enabled"` // enabled, disabled, static, masked ...
	Active    string `json:"active"`  // active, reloading, inactive, failed, activating, deactivating
	Sub       string `json:"sub"`     // running, dead, auto-restart ...
	Since     string `json:"since,omitempty"`
	PID       int    `json:"pid,omitempty"`
	Restarts  int    `json:"restarts"`
	Result    string `json:"result"` // success, or why it last ended
	ExitCode  int    `json:"exit_code"`
	Memory    uint64 `json:"memory,omitempty"` // bytes, of the kernel for it too
	MemoryMax uint64 `json:"memory_max,omitempty"`
}

// Query asks systemd about an instance. It is nil where there is no such unit, or no systemd.
func Query(i Instance) (*Report, error) {
	if _, err := findSystemd(); errors.Is(err, ErrNoSystemd) {
		return nil, nil
	}
	output, err := systemctl("show", i.Unit(), "--property",
		"LoadState,FragmentPath,UnitFileState,ActiveState,SubState,StateChangeTimestamp,MainPID,NRestarts,Result,ExecMainStatus,MemoryCurrent,MemoryMax")
	if err != nil {
		return nil, err
	}
	properties := make(map[string]string)
	for line := range strings.Lines(output) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		properties[name] = value
	}
	if properties["LoadState"] == "not-found" {
		return nil, nil
	}
	number := func(name string) uint64 {
		n, err := strconv.ParseUint(properties[name], 10, 64)
		if err != nil || n == 1<<64-1 {
			return 0 // [not set], infinity
		}
		return n
	}
	return &Report{
		Unit:      i.Unit(),
		File:      properties["FragmentPath"],
		Enabled:   properties["UnitFileState"],
		Active:    properties["ActiveState"],
		Sub:       properties["SubState"],
		Since:     properties["StateChangeTimestamp"],
		PID:       int(number("MainPID")),
		Restarts:  int(number("NRestarts")),
		Result:    properties["Result"],
		ExitCode:  int(number("ExecMainStatus")),
		Memory:    number("MemoryCurrent"),
		MemoryMax: number("MemoryMax"),
	}, nil
}

// handle is the instance as the library that controls services knows it. script is the unit file, for Install.
func (i Instance) handle(script string) (service.Service, error) {
	return service.New(nothing{}, &service.Config{
		Name:   string(i),
		Option: service.KeyValue{"SystemdScript": script},
	})
}

// nothing runs: what is installed runs by itself, not in the library's hands.
type nothing struct{}

func (nothing) Start(service.Service) error { return nil }
func (nothing) Stop(service.Service) error  { return nil }

// Start starts an instance, and returns when it counts.
func Start(i Instance) error { return i.control("start", service.Service.Start) }

// Stop stops an instance, and returns when it has ended.
func Stop(i Instance) error { return i.control("stop", service.Service.Stop) }

// Restart stops an instance, if it runs, and starts it.
func Restart(i Instance) error { return i.control("restart", service.Service.Restart) }

func (i Instance) control(verb string, do func(service.Service) error) error {
	if _, err := findSystemd(); err != nil {
		return err
	}
	report, err := Query(i)
	if err != nil {
		return err
	}
	if report == nil {
		return fmt.Errorf("%s is not installed: sudo sidecar install%s", i.Unit(), i.flag())
	}
	if os.Geteuid() != 0 {
		return errors.New("only root controls services: use sudo")
	}
	handle, err := i.handle("")
	if err != nil {
		return err
	}
	if err := do(handle); err != nil {
		return fmt.Errorf("systemctl %s %s: %w\n%s", verb, i, err, i.lastWords())
	}
	return nil
}

// flag is what names the instance on a command line.
func (i Instance) flag() string {
	if i == DefaultName {
		return ""
	}
	return " --service " + string(i)
}

// lastWords is the end of the instance's log.
func (i Instance) lastWords() string {
	output, err := exec.Command("journalctl", "--unit", i.Unit(), "--lines", "8", "--output", "cat", "--no-pager").CombinedOutput()
	if err != nil {
		return fmt.Sprintf("see: journalctl --unit %s (%v)", i.Unit(), err)
	}
	return "the end of its log (journalctl --unit " + i.Unit() + "):\n" + strings.TrimSpace(string(output))
}
