package workload

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// Ids as the engines make them.
const (
	outer     = "d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22"
	inner     = "0ba8ac17e4e7a31fb82279503552fe94e64bab4745bf6fd2ff231e7c8ca8bed0"
	uid       = "2ca4a155-3599-498d-bb9d-4446693fa3ea"
	uidSlice  = "2ca4a155_3599_498d_bb9d_4446693fa3ea"
	otherUID  = "ae7a96fb-2bdc-46b0-96e2-78e4af94847b"
	staticUID = "5f5e5c0e8f2f1b5cf1fc2ee1ed1e9a2b"
)

func TestIdentify(t *testing.T) {
	for _, test := range []struct {
		path                 string
		container, pod, unit string
	}{
		// systemd
		{path: "/"},
		{path: "/init.scope", unit: "init.scope"},
		{path: "/system.slice"},
		{path: "/system.slice/ssh.service", unit: "ssh.service"},
		{path: "/system.slice/system-getty.slice/getty@tty1.service", unit: "getty@tty1.service"},
		{path: "/system.slice/system-postgresql.slice/postgresql@16-main.service", unit: "postgresql@16-main.service"},
		{path: `/system.slice/system-systemd\x2dfsck.slice/systemd-fsck@dev-disk-by\x2duuid-0a1b.service`,
			unit: `systemd-fsck@dev-disk-by\x2duuid-0a1b.service`},
		{path: "/system.slice/systemd-udevd.service/udev", unit: "systemd-udevd.service"},
		{path: "/system.slice/docker.socket", unit: "docker.socket"},
		{path: "/system.slice/dev-hugepages.mount", unit: "dev-hugepages.mount"},
		{path: `/dev-disk-by\x2dlabel-swap.swap`, unit: `dev-disk-by\x2dlabel-swap.swap`},
		{path: "/system.slice/containerd.service", unit: "containerd.service"},
		{path: "/user.slice/user-1000.slice/session-3.scope", unit: "session-3.scope"},
		{path: "/user.slice/user-1000.slice/user@1000.service/init.scope", unit: "user@1000.service"},
		{path: "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4711.scope", unit: "user@1000.service"},
		{path: "/user.slice/user-1000.slice/user@1000.service/session.slice/dbus.service", unit: "user@1000.service"},
		{path: `/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator`, unit: `machine-qemu\x2d1\x2dvm.scope`},
		{path: "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service", unit: "systemd-nspawn@web.service"},

		// Escaped: the unit is cpu.service, memory.service, _x.service.
		{path: "/system.slice/_cpu.service", unit: "cpu.service"},
		{path: "/_memory.slice/_memory.service", unit: "memory.service"},
		{path: "/system.slice/__x.service", unit: "_x.service"},

		// Docker, by the systemd driver and by cgroupfs; rootless.
		{path: "/system.slice/docker-" + outer + ".scope", container: outer},
		{path: "/batch.slice/docker-" + outer + ".scope", container: outer},
		{path: "/docker/" + outer, container: outer},
		{path: "/docker/" + outer + "/worker/1", container: outer},
		{path: "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + outer + ".scope",
			container: outer, unit: "user@1000.service"},
		{path: "/ecs/0f4b1e9c64ad4f5e8f6a4cf5b0a94d5c/" + outer, container: outer},
		{path: "/ecstasks.slice/ecstasks-0f4b1e9c64ad4f5e8f6a4cf5b0a94d5c.slice/docker-" + outer + ".scope", container: outer},
		{path: "/docker/buildkit/k2q5rvz4p8m0c1x9w3j7n6b5t"},

		// containerd: nerdctl and ctr, whose folder is the namespace.
		{path: "/system.slice/nerdctl-" + outer + ".scope", container: outer},
		{path: "/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-" + outer + ".scope",
			container: outer, unit: "user@1000.service"},
		{path: "/default/" + outer, container: outer},
		{path: "/k8s.io/" + outer, container: outer},
		{path: "/default/a-name-of-ones-own"},

		// podman: crun puts the processes one level down. With --cgroups=split, as Quadlets have it, there is a unit around.
		{path: "/machine.slice/libpod-" + outer + ".scope", container: outer},
		{path: "/machine.slice/libpod-" + outer + ".scope/container", container: outer},
		{path: "/machine.slice/libpod-conmon-" + outer + ".scope", unit: "libpod-conmon-" + outer + ".scope"},
		{path: "/machine.slice/machine-libpod_pod_" + inner + ".slice/libpod-" + outer + ".scope/container", container: outer},
		{path: "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + outer + ".scope/container",
			container: outer, unit: "user@1000.service"},
		{path: "/user.slice/user-1000.slice/user@1000.service/user.slice/podman-pause-a1b2c3d4.scope", unit: "user@1000.service"},
		{path: "/libpod_parent/libpod-" + outer, container: outer},
		{path: "/libpod_parent/conmon"},
		{path: "/libpod_parent/" + inner + "/libpod-" + outer, container: outer},
		{path: "/libpod_parent/" + inner + "/conmon"}, // of a podman pod, which is no container
		{path: "/system.slice/web.service/libpod-payload-" + outer, container: outer, unit: "web.service"},
		{path: "/system.slice/web.service/libpod-payload-" + outer + "/init.scope", container: outer, unit: "init.scope"},
		{path: "/system.slice/web.service/runtime", unit: "web.service"},

		// Kubernetes: systemd driver.
		{path: "/kubepods.slice"},
		{path: "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + uidSlice + ".slice", pod: uid},
		{path: "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + uidSlice + ".slice/cri-containerd-" + outer + ".scope",
			container: outer, pod: uid},
		{path: "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidSlice + ".slice/crio-" + outer + ".scope/container",
			container: outer, pod: uid},
		{path: "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidSlice + ".slice/crio-conmon-" + outer + ".scope",
			pod: uid, unit: "crio-conmon-" + outer + ".scope"},
		{path: "/kubepods.slice/kubepods-pod" + uidSlice + ".slice/docker-" + outer + ".scope", container: outer, pod: uid},
		{path: "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + staticUID + ".slice/cri-containerd-" + outer + ".scope",
			container: outer, pod: staticUID},
		{path: "/system.slice/crio-conmon-" + outer + ".scope", unit: "crio-conmon-" + outer + ".scope"},

		// cgroupfs driver.
		{path: "/kubepods/besteffort/pod" + uid, pod: uid},
		{path: "/kubepods/besteffort/pod" + uid + "/" + outer, container: outer, pod: uid},
		{path: "/kubepods/burstable/pod" + staticUID + "/" + outer, container: outer, pod: staticUID},
		{path: "/kubepods/pod" + uid + "/crio-" + outer, container: outer, pod: uid},
		{path: "/kubepods/burstable/pod" + uid + "/crio-conmon-" + outer, pod: uid},

		// The kubelet has the systemd driver and containerd has not.
		{path: "/system.slice/containerd.service/kubepods-burstable-pod" + uidSlice + ".slice:cri-containerd:" + outer,
			container: outer, pod: uid, unit: "containerd.service"},
		{path: "/kubepods-besteffort-pod" + uidSlice + ".slice:cri-containerd:" + outer, container: outer, pod: uid},
		{path: "/system.slice:docker:" + outer, container: outer},

		// One in the other: kind, minikube, Docker in Docker, in Kubernetes; systemd in a container.
		{path: "/docker/" + outer + "/kubelet.slice/kubelet.service", container: outer, unit: "kubelet.service"},
		{path: "/system.slice/docker-" + outer + ".scope/system.slice/containerd.service", container: outer, unit: "containerd.service"},
		{path: "/docker/" + outer + "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/" +
			"kubelet-kubepods-besteffort-pod" + uidSlice + ".slice/cri-containerd-" + inner + ".scope", container: inner, pod: uid},
		{path: "/system.slice/docker-" + outer + ".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod" + uidSlice +
			".slice/cri-containerd-" + inner + ".scope", container: inner, pod: uid},
		{path: "/docker/" + outer + "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + uidSlice + ".slice/crio-" + inner + ".scope",
			container: inner, pod: uid},
		{path: "/docker/" + outer + "/docker/" + inner, container: inner},
		{path: "/system.slice/docker-" + outer + ".scope/docker/" + inner, container: inner},
		{path: "/kubepods/burstable/pod" + uid + "/" + outer + "/docker/" + inner, container: inner, pod: uid},
		{path: "/kubepods/burstable/pod" + uid + "/" + outer + "/kubepods/besteffort/pod" + otherUID + "/" + inner,
			container: inner, pod: otherUID},
		{path: "/machine.slice/libpod-" + outer + ".scope/container/system.slice/nginx.service", container: outer},
		{path: "/machine.slice/libpod-" + outer + ".scope/system.slice/nginx.service", container: outer, unit: "nginx.service"},

		// Others' containers: their ids are no 64 digits, and a systemd in them is not this host's.
		{path: "/lxc.payload.web/system.slice/nginx.service"},
		{path: "/garden/6f4d0dfc-1d6c-4f9b-7a4e-c0f5"},

		// What looks like one and is none.
		{path: ""},
		{path: "//"},
		{path: "/system.slice//ssh.service"},
		{path: "/.service"},
		{path: "/_.service"},
		{path: "/ssh.service.d"},
		{path: "/getty@.service"}, // a template
		{path: "/@tty1.service"},
		{path: "/two words.service"},
		{path: "/\x1b[31m.service"},
		{path: "/\xff\xfe.service"},
		{path: "/a\nb.service"},
		{path: "/docker/" + strings.ToUpper(outer)},
		{path: "/docker/" + outer[1:]},
		{path: "/docker/" + outer + "0"},
		{path: "/docker-" + outer + ".service", unit: "docker-" + outer + ".service"}, // podman's health checks have such names
		{path: "/" + outer + ".scope", unit: outer + ".scope"},
		{path: "/kubepods/pod" + uidSlice + "x"},
		{path: "/kubepods/pod2ca4a155_3599-498d_bb9d-4446693fa3ea"},
		{path: "/kubepods/xpod" + uid},
		{path: "/a.slice:b:" + outer[1:]},
		{path: "/a:b:c:" + outer},
	} {
		want := Identity{Cgroup: test.path, ContainerID: test.container, PodUID: test.pod, SystemdUnit: test.unit}
		if got := identify(test.path); got != want {
			t.Errorf("%q\ngot  %+v\nwant %+v", test.path, got, want)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	for _, path := range []string{
		"/", "/system.slice/ssh.service", "/system.slice/docker-" + outer + ".scope", "/kubepods/pod" + uid + "/" + outer,
		"/kubepods.slice/kubepods-pod" + uidSlice + ".slice/crio-" + outer + ".scope", "/kubepods/pod" + staticUID,
		"/system.slice/containerd.service/kubepods-pod" + uidSlice + ".slice:cri-containerd:" + outer, "/system.slice/_cpu.service",
	} {
		f.Add(path)
	}
	var (
		container = regexp.MustCompile(`^([0-9a-f]{64})?$`)
		pod       = regexp.MustCompile(`^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32})?$`)
		unit      = regexp.MustCompile(`^([[:graph:]]+\.(service|scope|socket|mount|swap))?$`)
	)
	f.Fuzz(func(t *testing.T, path string) {
		id := identify(path)
		if id.Cgroup != path {
			t.Errorf("cgroup %q of the path %q", id.Cgroup, path)
		}
		if !container.MatchString(id.ContainerID) || !strings.Contains(path, id.ContainerID) {
			t.Errorf("container %q of the path %q", id.ContainerID, path)
		}
		if !pod.MatchString(id.PodUID) || !strings.Contains(strings.ReplaceAll(path, "_", "-"), id.PodUID) {
			t.Errorf("pod %q of the path %q", id.PodUID, path)
		}
		if !unit.MatchString(id.SystemdUnit) || !strings.Contains(path, id.SystemdUnit) {
			t.Errorf("unit %q of the path %q", id.SystemdUnit, path)
		}
	})
}

// Who may make cgroups chooses their names: the throughput must not fall with their length.
func BenchmarkIdentify(b *testing.B) {
	for _, part := range []string{"-pod", ":", "a.slice/", "x@", outer} {
		for _, size := range []int{4 << 10, 32 << 10} {
			path := "/" + strings.Repeat(part, size/len(part))
			b.Run(fmt.Sprintf("%.8s/%d", part, size), func(b *testing.B) {
				b.SetBytes(int64(len(path)))
				for b.Loop() {
					identify(path)
				}
			})
		}
	}
}
