// Package service makes the sidecar a service of systemd, and asks systemd about it.
package service

import (
	"errors"
	"path/filepath"
	"regexp"
)

// DefaultName is the name of the instance that is meant when none is given.
const DefaultName = "sidecar"

// Instance is an installation by its name, which all that is its own is named after.
type Instance string

var instanceForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$`)

// Set makes an Instance of a name, or says why it is none.
func (i *Instance) Set(name string) error {
	if !instanceForm.MatchString(name) {
		return errors.New("write letters, digits, - and _, at most 64, a letter or digit first")
	}
	*i = Instance(name)
	return nil
}

// String is the name.
func (i *Instance) String() string { return string(*i) }

// Type is what [Instance.Set] takes, in the words of a command line's help.
func (i *Instance) Type() string { return "name" }

// Identity is what tells the instance's metrics from those of others on the host: nothing for the default one.
func (i Instance) Identity() string {
	if i == DefaultName {
		return ""
	}
	return string(i)
}

// Unit is the name of the instance's unit.
func (i Instance) Unit() string { return string(i) + ".service" }

// UnitFile is where install puts the unit.
func (i Instance) UnitFile() string { return filepath.Join("/etc/systemd/system", i.Unit()) }

// Configuration is the configuration file, unless another is named.
func (i Instance) Configuration() string { return filepath.Join("/etc", string(i), "config.yaml") }

// Environment is the file of variables that the service gets, if it exists.
func (i Instance) Environment() string { return filepath.Join("/etc/default", string(i)) }

// State is the folder of what outlives the process.
func (i Instance) State() string { return filepath.Join("/var/lib", string(i)) }

// Socket is where the instance answers.
func (i Instance) Socket() string { return filepath.Join("/run", string(i), "admin.sock") }
