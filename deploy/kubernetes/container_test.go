package kubernetes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	core "k8s.io/api/core/v1"
)

// container is a container of runc's. Its network namespace is its own, as a pod's without hostNetwork.
type container struct {
	t       *testing.T
	state   string // runc's folder
	name    string
	process *exec.Cmd
	log     bytes.Buffer // to be read when it has ended
}

// startContainer makes of a pod's sidecar what a container engine would.
func startContainer(t *testing.T, p pod) *container {
	t.Helper()
	bundle := t.TempDir()
	c := &container{t: t, state: t.TempDir(), name: fmt.Sprintf("sidecar-test-%d", os.Getpid())}
	spec := p.container(t, bundle)
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	c.process = exec.Command("runc", "--root", c.state, "run", "--bundle", bundle, c.name)
	c.process.Stdout, c.process.Stderr = &c.log, &c.log
	if err := c.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.process.ProcessState == nil {
			_, _ = c.runc("kill", c.name, "KILL")
			_ = c.process.Wait()
		}
		_, _ = c.runc("delete", "--force", c.name)
		if t.Failed() {
			t.Logf("its log:\n%s", &c.log)
		}
	})
	return c
}

func (c *container) runc(args ...string) (string, error) {
	var stdout bytes.Buffer
	command := exec.Command("runc", append([]string{"--root", c.state}, args...)...)
	command.Stdout = &stdout
	err := command.Run()
	return stdout.String(), err
}

// exec runs a command in it.
func (c *container) exec(command ...string) (output string, err error) {
	return c.runc(append([]string{"exec", c.name}, command...)...)
}

// stop ends it as a kubelet does.
func (c *container) stop() {
	c.t.Helper()
	if _, err := c.runc("kill", c.name, "TERM"); err != nil {
		c.t.Fatal(err)
	}
	if err := c.process.Wait(); err != nil {
		c.t.Errorf("it ends with %v", err)
	}
}

// container is the sidecar of a pod in the words of the Open Container Initiative. What a manifest says and this does not
// know fails the test.
func (p pod) container(t *testing.T, bundle string) *specs.Spec {
	t.Helper()
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(sidecarBinary, filepath.Join(rootfs, "sidecar")); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("runc", "spec", "--bundle", bundle).CombinedOutput(); err != nil {
		t.Fatalf("runc spec: %v\n%s", err, output)
	}
	var spec specs.Spec
	if err := json.Unmarshal([]byte(read(t, filepath.Join(bundle, "config.json"))), &spec); err != nil {
		t.Fatal(err)
	}

	spec.Process.Terminal = false
	spec.Process.Args = append([]string{"/sidecar"}, p.args()...)
	spec.Process.Env = p.environment(t)
	spec.Process.Rlimits = nil
	limit := p.sidecar.Resources.Limits.Memory().Value()
	spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}

	security := p.sidecar.SecurityContext
	spec.Process.User = specs.User{UID: uint32(*security.RunAsUser)}
	spec.Process.NoNewPrivileges = !*security.AllowPrivilegeEscalation
	spec.Root.Readonly = *security.ReadOnlyRootFilesystem
	if drop := security.Capabilities.Drop; len(drop) != 1 || drop[0] != "ALL" {
		t.Fatalf("it drops %v", drop)
	}
	var capabilities []string
	for _, capability := range security.Capabilities.Add {
		capabilities = append(capabilities, "CAP_"+string(capability))
	}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities}
	if security.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Fatalf("its seccomp profile is %s", security.SeccompProfile.Type)
	}
	var err error
	if spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(&spec); err != nil {
		t.Fatal(err)
	}

	sources := make(map[string]core.Volume)
	for _, volume := range p.spec.Volumes {
		sources[volume.Name] = volume
	}
	for _, mount := range p.sidecar.VolumeMounts {
		m := specs.Mount{Destination: mount.MountPath, Type: "bind", Options: []string{"bind"}}
		if mount.ReadOnly {
			m.Options = append(m.Options, "ro")
		}
		switch volume := sources[mount.Name]; {
		case volume.ConfigMap != nil:
			m.Source = p.configFolder(t)
		case volume.HostPath != nil:
			m.Source = volume.HostPath.Path
		case volume.EmptyDir != nil && volume.EmptyDir.Medium == core.StorageMediumMemory:
			m.Type, m.Source = "tmpfs", "tmpfs"
			m.Options = []string{"mode=0777", fmt.Sprintf("size=%d", volume.EmptyDir.SizeLimit.Value())}
		default:
			t.Fatalf("what is the volume %s?", mount.Name)
		}
		spec.Mounts = append(spec.Mounts, m)
	}
	return &spec
}
