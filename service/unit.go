package service

import (
	_ "embed"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Unit is what a unit file of ours says.
type Unit struct {
	Instance
	Binary           string
	Config           string
	User             string
	WorkingDirectory string
	// MemoryMax bounds kernel and process memory, in bytes.
	MemoryMax uint64
	// NotifyReload says that systemd is 253 or newer and reloads by SIGHUP, knowing when that is done.
	NotifyReload bool
	// Made is what install made for the service, for uninstall to take away.
	Made Made
}

// Capabilities are all that a sidecar needs of root's power.
const Capabilities = "CAP_BPF CAP_PERFMON"

//go:embed unit.tmpl
var unitText string

// Text renders the unit file. Not by text/template, which keeps the linker from leaving out what is not called: 4 MiB of it.
func (u Unit) Text() (string, error) {
	for _, path := range []string{u.Binary, u.Config, u.User, u.WorkingDirectory} {
		if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", fmt.Errorf("%q: a unit file cannot hold control characters", path)
		}
	}
	kind := "notify-reload"
	if !u.NotifyReload {
		kind = "notify\nExecReload=" + argument(u.Binary) + " reload --service " + string(u.Instance)
	}
	values := map[string]string{
		"TYPE":              kind,
		"NAME":              string(u.Instance),
		"BINARY":            argument(u.Binary),
		"CONFIG":            argument(u.Config),
		"ENVIRONMENT":       u.Environment(),
		"WORKING_DIRECTORY": escapeSpecifiers(u.WorkingDirectory),
		"USER":              u.User,
		"CAPABILITIES":      Capabilities,
		"MEMORY_MAX":        strconv.FormatUint(u.MemoryMax, 10),
		"PROTECT_HOME":      protectHome(u),
		"MADE_BINARY":       u.Made.Binary,
		"MADE_USER":         u.Made.User,
	}
	return os.Expand(unitText, func(name string) string { return values[name] }), nil
}

// argument quotes one argument of a command line, as systemd.service(5) and systemd.syntax(7) say.
func argument(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `$$`, `%`, `%%`).Replace(s) + `"`
}

// escapeSpecifiers is for a setting that is one path.
func escapeSpecifiers(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// protectHome hides home folders, unless something that the service needs is in one.
func protectHome(u Unit) string {
	for _, path := range []string{u.Config, u.WorkingDirectory} {
		for _, home := range []string{"/home/", "/root/", "/run/user/"} {
			if strings.HasPrefix(path+"/", home) {
				return "read-only"
			}
		}
	}
	return "yes"
}
