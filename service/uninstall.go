package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kardianos/service"
)

// Uninstall stops an instance and removes what Install made for it, and with purge the configuration and its variables too.
func Uninstall(i Instance, purge bool) error {
	if _, err := findSystemd(); err != nil {
		return err
	}
	made, ours, err := readMade(i.UnitFile())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is not installed by sidecar install: there is no %s", i.Unit(), i.UnitFile())
	case err != nil:
		return err
	case !ours:
		return fmt.Errorf("%s is not ours: it stays", i.UnitFile())
	case os.Geteuid() != 0:
		return errors.New("only root uninstalls services: use sudo")
	}
	others, err := madeForOthers(i)
	if err != nil {
		return err
	}
	handle, err := i.handle("")
	if err != nil {
		return err
	}
	if err := remove(i, handle); err != nil {
		return err
	}
	errs := []error{os.RemoveAll(i.State())}
	if made.Binary != "" && made.Binary != others.Binary {
		errs = append(errs, os.Remove(made.Binary))
	}
	if made.User != "" && made.User != others.User {
		errs = append(errs, removeUser(made.User))
	}
	if purge {
		errs = append(errs, os.RemoveAll(filepath.Dir(i.Configuration())), os.RemoveAll(i.Environment()))
	}
	return errors.Join(errs...)
}

// remove stops an instance and takes its unit away, even where systemd will not.
func remove(i Instance, handle service.Service) error {
	err := errors.Join(handle.Stop(), handle.Uninstall())
	if exists(i.UnitFile()) {
		_, reloadErr := systemctl("daemon-reload")
		err = errors.Join(err, os.Remove(i.UnitFile()), reloadErr)
	}
	// A unit that has failed would be listed on, as not-found.
	_, _ = systemctl("reset-failed", i.Unit())
	return err
}
