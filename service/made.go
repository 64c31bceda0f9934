package service

import (
	"os"
	"path/filepath"
	"strings"
)

// Made is what of an installation was not there before. The unit file records it, for uninstall to take away.
type Made struct {
	Binary string // its path; empty when it was there
	User   string // its name
}

// madeSection is the section of our unit files that is for us. systemd leaves alone what begins with X-.
const madeSection = "[X-Sidecar]"

// readMade reads what a unit file records. ours is false for a unit that install did not write.
func readMade(path string) (made Made, ours bool, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return made, false, err
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		name, value, _ := strings.Cut(line, "=")
		switch {
		case line == madeSection:
			ours = true
		case ours && name == "Binary":
			made.Binary = value
		case ours && name == "User":
			made.User = value
		}
	}
	return made, ours, nil
}

// madeForOthers is what was made for other instances. All use the same binary and, as a rule, the same user, which go with the
// last one that has them recorded.
func madeForOthers(but Instance) (all Made, err error) {
	paths, err := filepath.Glob("/etc/systemd/system/*.service")
	if err != nil {
		return all, err
	}
	for _, path := range paths {
		if path == but.UnitFile() {
			continue
		}
		made, ours, err := readMade(path)
		if err != nil || !ours { // a unit may be masked or dangle, which is not our concern
			continue
		}
		if made.Binary != "" {
			all.Binary = made.Binary
		}
		if made.User != "" {
			all.User = made.User
		}
	}
	return all, nil
}
