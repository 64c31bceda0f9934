package telemetry

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"runtime"
	"strings"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// instanceNamespace is the namespace that semantic conventions give for a service.instance.id made from another id.
var instanceNamespace = uuid.MustParse("4d63009a-8d0f-11ee-aad7-4c796ed8e320")

// newResource describes this host and this service. root is the file system to read from, instance is Options.Instance.
//
// The resource is a part of every series' identity downstream, so it holds what stays while the kernel's counters stay:
// no process, no container, no pod of ours, and none of the telemetry.sdk.* attributes, whose version changes with a
// build. os.description is left out for the same reason: the SDK puts the host name into it, which in a container is
// new at every start.
//
// An error tells what is missing or wrong; the resource is usable all the same.
func newResource(ctx context.Context, root fs.FS, instance string) (*resource.Resource, error) {
	var errs []error
	id, machine := machineID(root)
	if !machine {
		errs = append(errs, errors.New("no /etc/machine-id: host.id is left out (in a container, mount the host's /etc/machine-id read-only)"))
	}
	attrs := []attribute.KeyValue{
		semconv.ServiceName("sidecar"),
		semconv.ServiceInstanceID(uuid.NewSHA1(instanceNamespace, []byte(id+"/"+instance)).String()),
		semconv.HostArchKey.String(runtime.GOARCH),
		semconv.OSTypeLinux,
	}
	if machine {
		attrs = append(attrs, semconv.HostID(id))
	}
	if release := readID(root, "proc/sys/kernel/osrelease"); release != "" {
		attrs = append(attrs, semconv.OSVersion(release))
	}
	if cluster := os.Getenv("K8S_CLUSTER_NAME"); cluster != "" {
		attrs = append(attrs, semconv.K8SClusterName(cluster))
	}
	if node := firstEnv("K8S_NODE_NAME", "NODE_NAME"); node != "" {
		// In a pod the host name is the pod's, and new with every pod.
		attrs = append(attrs, semconv.K8SNodeName(node), semconv.HostName(node))
	} else if name, err := os.Hostname(); err == nil {
		attrs = append(attrs, semconv.HostName(name))
	} else {
		errs = append(errs, err)
	}

	res, err := resource.New(ctx,
		resource.WithSchemaURL(semconv.SchemaURL),
		resource.WithAttributes(attrs...),
		resource.WithFromEnv(), // last, so that the user's words win
	)
	if err != nil {
		errs = append(errs, err)
	}
	return validUTF8(res), errors.Join(errs...)
}

var (
	machineIDForm = regexp.MustCompile(`^[0-9a-f]{32}$`)
	uuidForm      = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// machineID returns an id of this host, and whether it is the machine id, which is what others export as host.id.
// Without one (a container's image has none) the firmware's id is the next that survives a reboot; a container sees it
// too. The id of this boot is the last resort: the kernel's counters start anew with it as well.
func machineID(root fs.FS) (id string, machine bool) {
	for _, name := range []string{"etc/machine-id", "var/lib/dbus/machine-id"} {
		if id := readID(root, name); machineIDForm.MatchString(id) {
			return id, true
		}
	}
	if id := strings.ToLower(readID(root, "sys/class/dmi/id/product_uuid")); uuidForm.MatchString(id) {
		switch id {
		case "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
			"03000200-0400-0500-0006-000700080009": // what firmware holds that nobody filled in
		default:
			return id, false
		}
	}
	return readID(root, "proc/sys/kernel/random/boot_id"), false
}

func readID(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func firstEnv(names ...string) string {
	for _, n := range names {
		if v := os.Getenv(n); v != "" {
			return v
		}
	}
	return ""
}

// validUTF8 returns res with every string made valid. Protobuf refuses the whole request otherwise, and the environment
// can hold any bytes.
func validUTF8(res *resource.Resource) *resource.Resource {
	attrs := res.Attributes()
	for i, a := range attrs {
		key := attribute.Key(strings.ToValidUTF8(string(a.Key), "\uFFFD"))
		if a.Value.Type() == attribute.STRING {
			a = key.String(strings.ToValidUTF8(a.Value.AsString(), "\uFFFD"))
		}
		attrs[i] = attribute.KeyValue{Key: key, Value: a.Value}
	}
	return resource.NewWithAttributes(res.SchemaURL(), attrs...)
}
