package workload

import (
	"regexp"
	"strings"
)

// Identity is what a cgroup's path tells of the workload in it. What does not apply is empty.
type Identity struct {
	Cgroup      string // the path itself, from the root of the default hierarchy
	ContainerID string // of the innermost container, 64 lower-case hex digits
	PodUID      string // of the innermost Kubernetes pod: a UUID, or a static pod's 32 hex digits
	// SystemdUnit is what `systemctl status PID` prints, by the innermost service manager: the host's, or that of the
	// container if there is one in it. A scope that is a container is not given: it would only repeat the id.
	SystemdUnit string
}

var (
	// containerScope is a container's systemd scope: docker-<id>.scope, cri-containerd-<id>.scope, nerdctl-<id>.scope,
	// crio-<id>.scope, libpod-<id>.scope, whatever prefix the engine gives.
	containerScope = regexp.MustCompile(`^([a-z][a-z-]*)-([0-9a-f]{64})\.scope$`)
	// containerFolder is the same without systemd: <id>, crio-<id>, libpod-<id>; libpod-payload-<id> is below the unit
	// of a Quadlet, or of whoever else runs podman with --cgroups=split.
	containerFolder = regexp.MustCompile(`^(?:(?:crio|libpod|libpod-payload)-)?([0-9a-f]{64})$`)
	// unparsed is what a runtime without the systemd driver makes of an engine's order with it, slice:prefix:id, for
	// example below containerd.service where the kubelet has SystemdCgroup and containerd does not.
	unparsed = regexp.MustCompile(`^([^:]*):[^:]*:([0-9a-f]{64})$`)
	// podFolder and podSlice are a pod's cgroup, without systemd and with it. In the slice the dashes of the uid are
	// underscores. A static pod's uid has none.
	podFolder = regexp.MustCompile(`^pod([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})$`)
	podSlice  = regexp.MustCompile(`^.+-pod([0-9a-f]{8}(?:_[0-9a-f]{4}){3}_[0-9a-f]{12}|[0-9a-f]{32})\.slice$`)
	// unit is a unit that has processes, by systemd's rules for names (src/basic/unit-name.c).
	unit = regexp.MustCompile(`^[0-9A-Za-z:_.\\-]+(?:@[0-9A-Za-z:_.\\@-]+)?\.(?:service|scope|socket|mount|swap)$`)
)

// identify reads a cgroup's path, absolute from the root of the default hierarchy.
func identify(path string) Identity {
	id := Identity{Cgroup: path}
	// systemd's tree is slices, then a unit. What is below the unit is the unit's own affair, until a container begins:
	// there may be another systemd in it.
	ended := false
	parent := ""
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if uid := podOf(name); uid != "" {
			id.PodUID = uid
		}
		if container := containerOf(name, parent); container != "" {
			id.ContainerID = container
			ended = false
		} else if !ended && !strings.HasSuffix(name, ".slice") {
			ended = true
			// systemd puts a _ before what could be mistaken for an attribute of the cgroup (cg_escape).
			if name := strings.TrimPrefix(name, "_"); unit.MatchString(name) {
				id.SystemdUnit = name
			}
		}
		parent = name
	}
	return id
}

// containerOf is the id of the container that a cgroup is, by its name and its parent's.
func containerOf(name, parent string) string {
	if m := containerScope.FindStringSubmatch(name); m != nil && !strings.HasSuffix(m[1], "conmon") {
		return m[2] // with conmon, it is the container's monitor
	}
	if m := containerFolder.FindStringSubmatch(name); m != nil && (parent != "libpod_parent" || name != m[1]) {
		return m[1] // else it is a pod of podman's
	}
	if m := unparsed.FindStringSubmatch(name); m != nil {
		return m[2]
	}
	return ""
}

// podOf is the uid of the pod that a cgroup is, or is in by its own name.
func podOf(name string) string {
	if m := podFolder.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	if m := unparsed.FindStringSubmatch(name); m != nil {
		name = m[1]
	}
	if m := podSlice.FindStringSubmatch(name); m != nil {
		return strings.ReplaceAll(m[1], "_", "-")
	}
	return ""
}
