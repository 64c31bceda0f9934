package service

import (
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Manager is the service manager that started this process, told how it does. Without one, nothing is told.
type Manager struct{}

// tell has no error to return: without a manager there is nobody to tell, and with one its time-outs tell.
func (Manager) tell(state string) { _, _ = daemon.SdNotify(false, state) }

// Ready says that the start, or a reload, is over; status is a line for people.
func (m Manager) Ready(status string) { m.tell(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// Reloading says that a reload begins.
func (m Manager) Reloading() {
	m.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Stopping says that the process ends.
func (m Manager) Stopping() { m.tell(daemon.SdNotifyStopping) }

// Alive feeds the watchdog.
func (m Manager) Alive() { m.tell(daemon.SdNotifyWatchdog) }

// WatchdogInterval is how often Alive wants to be called; 0 without a watchdog.
func (Manager) WatchdogInterval() (time.Duration, error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	return interval / 3, err
}
