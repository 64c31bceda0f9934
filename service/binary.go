package service

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// binaryPath is where install puts the binary, unless it is in a place as good already.
const binaryPath = "/usr/local/bin/sidecar"

// ownedByRoot returns an error unless only root can change what is at a path: it and each folder above it.
func ownedByRoot(path string) error {
	for {
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		if stat.Uid != 0 || stat.Mode&0o022 != 0 {
			return fmt.Errorf("others than root can change %s (owner %d, mode %04o): a service started by root must not come from there",
				path, stat.Uid, stat.Mode&0o7777)
		}
		if path == "/" {
			return nil
		}
		path = filepath.Dir(path)
	}
}

// inPlace says whether a binary can be run from where it is: only root can change it, every user can run it, and neither a
// home folder nor a file system that goes away holds it.
func inPlace(binary string) bool {
	return (strings.HasPrefix(binary, "/usr/") || strings.HasPrefix(binary, "/opt/")) && ownedByRoot(binary) == nil
}

// placeBinary puts the binary at binaryPath if need be, and returns its path and how to take it back. One that is there
// and not the same is replaced only if it may be.
func placeBinary(running string, replace bool) (path string, made bool, undo func() error, err error) {
	none := func() error { return nil }
	if running, err = filepath.EvalSymlinks(running); err != nil {
		return "", false, none, err
	}
	if inPlace(running) {
		return running, false, none, nil
	}
	if err := ownedByRoot(filepath.Dir(binaryPath)); err != nil {
		return "", false, none, err
	}
	content, err := os.ReadFile(running)
	if err != nil {
		return "", false, none, err
	}
	before, err := os.ReadFile(binaryPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return binaryPath, true, func() error { return os.Remove(binaryPath) }, writeFile(binaryPath, content, 0o755)
	case err != nil:
		return "", false, none, err
	case bytes.Equal(before, content):
		return binaryPath, false, none, nil
	case !replace:
		return "", false, none, fmt.Errorf("%s is there and is another build: --force replaces it", binaryPath)
	}
	return binaryPath, false, func() error { return writeFile(binaryPath, before, 0o755) }, writeFile(binaryPath, content, 0o755)
}

// writeFile replaces a file at once: what runs or reads it has the one or the other. It makes the folder.
func writeFile(path string, content []byte, mode fs.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".sidecar-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	_, err = file.Write(content)
	if err := errors.Join(err, file.Chmod(mode), file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
