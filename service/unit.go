package service

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"
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

var unitTemplate = template.Must(template.New("unit").Option("missingkey=error").Funcs(template.FuncMap{
	"argument":     argument,
	"path":         escapeSpecifiers,
	"capabilities": func() string { return Capabilities },
	"homes":        protectHome,
}).Parse(unitText))

// Text renders the unit file.
func (u Unit) Text() (string, error) {
	for _, path := range []string{u.Binary, u.Config, u.User, u.WorkingDirectory} {
		if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", fmt.Errorf("%q: a unit file cannot hold control characters", path)
		}
	}
	var text strings.Builder
	if err := unitTemplate.Execute(&text, u); err != nil {
		return "", err
	}
	return text.String(), nil
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
