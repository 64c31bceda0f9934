// Package admin is how a running sidecar is asked how it is and told what to do: HTTP on a Unix socket, where the kernel says
// who asks and no port is open.
package admin

import "time"

// State is what a sidecar is about.
type State string

// The states of a sidecar.
const (
	Starting  State = "starting"
	Running   State = "running" // the programs count
	Reloading State = "reloading"
	Stopping  State = "stopping"
)

// Status is what a running sidecar says of itself.
type Status struct {
	State         State     `json:"state"`
	Version       string    `json:"version"`
	PID           int       `json:"pid"` // in the sidecar's own namespace
	Started       time.Time `json:"started"`
	Configuration string    `json:"configuration,omitempty"` // the file; empty without one
	ReloadError   string    `json:"reload_error,omitempty"`  // why the last reload changed nothing
	Probes        []Probe   `json:"probes"`
	Export        *Export   `json:"export,omitempty"` // nil when nothing is exported
}

// Probe is how a probe does.
type Probe struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Error  string `json:"error,omitempty"`
	Events uint64 `json:"events"` // since the start, as of the last collection
	Missed uint64 `json:"missed"` // of them and besides, for whatever reason: see sidecar.probe.missed
}

// Export is how the export does.
type Export struct {
	Endpoint string     `json:"endpoint,omitempty"` // empty when it is the console alone
	Accepted *time.Time `json:"accepted,omitempty"` // when the receiver last had everything; nil before
	Error    string     `json:"error,omitempty"`    // why it has not, since
}
