package kerneltest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Cgroup is a cgroup of a test's own on the default hierarchy.
type Cgroup struct {
	Path string // absolute, in the file system
	Name string // from the mount on, beginning with a slash: the end of its path in the kernel's eyes
	dir  *os.File
}

// NewCgroup makes a cgroup of a name that nobody has, with a suffix; it goes with the test at the latest.
func NewCgroup(t testing.TB, suffix string) *Cgroup {
	t.Helper()
	return NamedCgroup(t, fmt.Sprintf("/sidecar-test-%x%s", rand.Uint64(), suffix))
}

// NamedCgroup makes the cgroup of a name, which begins with a slash; it goes with the test at the latest.
func NamedCgroup(t testing.TB, name string) *Cgroup {
	t.Helper()
	c, err := (&Cgroup{Path: Hierarchy(t)}).Child(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Child makes a cgroup in this one, which the caller removes. The name begins with a slash.
func (c *Cgroup) Child(name string) (*Cgroup, error) {
	child := &Cgroup{Path: c.Path + name, Name: c.Name + name}
	if err := os.Mkdir(child.Path, 0o755); err != nil {
		return nil, err
	}
	var err error
	child.dir, err = os.Open(child.Path)
	return child, err
}

// Enter makes a command start in the cgroup.
func (c *Cgroup) Enter(command *exec.Cmd) {
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{}
	}
	command.SysProcAttr.UseCgroupFD = true
	command.SysProcAttr.CgroupFD = int(c.dir.Fd())
}

// Remove removes the cgroup, if it is there, once its processes are all gone.
func (c *Cgroup) Remove() (err error) {
	c.dir.Close()
	for range 500 {
		if err = syscall.Rmdir(c.Path); err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("remove %s: %w", c.Path, err)
}
