package workload

import (
	"regexp"
	"strings"
)

// Identity is what a cgroup's path tells of the workload in it. What does not apply is empty.
type Identity struct {
	Cgroup      string // the path itself, from the root of the default hierarchy
	ContainerID string // of the innermost container, lower-case hex
	PodUID      string // of the innermost Kubernetes pod, with dashes
	SystemdUnit string // as the system's service manager names it: what `systemctl status PID` prints
}

var (
	// hexID is a container id as Docker, containerd, CRI-O and podman make them.
	hexID = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// scopeID is a container's systemd scope: docker-<id>.scope, cri-containerd-<id>.scope, crio-<id>.scope,
	// libpod-<id>.scope. conmon's scopes (crio-conmon-<id>, libpod-conmon-<id>) hold the monitor, not the container.
	scopeID = regexp.MustCompile(`^(?:docker|cri-containerd|nerdctl|crio|libpod)-([0-9a-f]{64})\.scope$`)
	// prefixID is the same for the cgroupfs driver: crio-<id>, libpod-<id>, and <pod>:cri-containerd:<id>.
	prefixID = regexp.MustCompile(`^(?:(?:crio|libpod)-|.*:cri-containerd:)([0-9a-f]{64})$`)
	// podUID is a pod's cgroup: pod<uid>, or ...-pod<uid>.slice where the dashes of the uid are underscores. A
	// static pod's uid is 32 hex digits.
	podUID = regexp.MustCompile(`^(?:.+-)?pod` +
		`([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$`)
)

// Identify reads a cgroup's path, absolute from the root of the default hierarchy.
func Identify(path string) Identity {
	id := Identity{Cgroup: path}
	inUnit := false
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		switch {
		case podUID.MatchString(name):
			id.PodUID = strings.ReplaceAll(podUID.FindStringSubmatch(name)[1], "_", "-")
		case scopeID.MatchString(name):
			// The scope is the container: its unit would only repeat the id. What runs inside may have units of
			// its own.
			id.ContainerID = scopeID.FindStringSubmatch(name)[1]
			id.SystemdUnit, inUnit = "", false
		case hexID.MatchString(name):
			id.ContainerID = name
			id.SystemdUnit, inUnit = "", false
		case prefixID.MatchString(name):
			id.ContainerID = prefixID.FindStringSubmatch(name)[1]
			id.SystemdUnit, inUnit = "", false
		case !inUnit && isUnit(name):
			id.SystemdUnit, inUnit = unescape(name), true
		case !inUnit && !strings.HasSuffix(name, ".slice"):
			inUnit = true // not systemd's tree below here, unless a container begins
		}
	}
	return id
}

// isUnit tells whether systemd gives a unit of this name a cgroup for processes.
func isUnit(name string) bool {
	for _, suffix := range []string{".service", ".scope", ".socket", ".mount", ".swap"} {
		if len(name) > len(suffix) && strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// unescape undoes what systemd does to a unit's name that could be mistaken for a cgroup attribute (cg_escape).
func unescape(name string) string { return strings.TrimPrefix(name, "_") }
