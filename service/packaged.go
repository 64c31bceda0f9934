package service

import "strings"

// PackagedUnit returns the unit file that the .deb and .rpm packages ship: for systemd of any version, with the default
// configuration's MemoryMax, and with nothing for uninstall to take away. Of the options it takes MemoryMax alone.
func PackagedUnit(o Options) (string, error) {
	i := Instance(DefaultName)
	most, err := o.MemoryMax("")
	if err != nil {
		return "", err
	}
	text, err := Unit{
		Instance: i, Binary: "/usr/bin/sidecar", Config: i.Configuration(), User: DefaultUser, WorkingDirectory: i.State(), MemoryMax: most,
	}.Text()
	text, _, _ = strings.Cut(text, "\n"+madeSection)
	return text, err
}
