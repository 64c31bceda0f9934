package telemetry

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	service "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
)

const testMachine = "0123456789abcdef0123456789abcdef"

func TestMachineID(t *testing.T) {
	const product = "4c4c4544-0042-3510-8054-b4c04f564432"
	files := func(pairs ...string) fstest.MapFS {
		m := fstest.MapFS{"proc/sys/kernel/random/boot_id": {Data: []byte("boot\n")}}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
		}
		return m
	}
	for name, test := range map[string]struct {
		root    fstest.MapFS
		id      string
		machine bool
	}{
		"machine":       {files("etc/machine-id", testMachine+"\n", "sys/class/dmi/id/product_uuid", product), testMachine, true},
		"D-Bus":         {files("etc/machine-id", "", "var/lib/dbus/machine-id", testMachine), testMachine, true},
		"uninitialized": {files("etc/machine-id", "uninitialized\n", "sys/class/dmi/id/product_uuid", strings.ToUpper(product)), product, false},
		"no firmware":   {files("sys/class/dmi/id/product_uuid", "00000000-0000-0000-0000-000000000000"), "boot", false},
		"nothing":       {files(), "boot", false},
	} {
		if id, machine := machineID(test.root); id != test.id || machine != test.machine {
			t.Errorf("%s: got %s, %v", name, id, machine)
		}
	}
}

func TestResource(t *testing.T) {
	root := fstest.MapFS{
		"etc/machine-id":            {Data: []byte(testMachine)},
		"proc/sys/kernel/osrelease": {Data: []byte("6.18.5\n")},
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	read := func() map[string]string {
		t.Helper()
		res, err := newResource(t.Context(), root, "")
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[string]string)
		for _, kv := range res.Attributes() {
			found[string(kv.Key)] = kv.Value.AsString()
		}
		return found
	}
	check := func(got map[string]string, want map[string]string) {
		t.Helper()
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s is %q, want %q", k, got[k], v)
			}
		}
	}
	plain := read()
	check(plain, map[string]string{
		"service.name": "sidecar", "host.id": testMachine, "host.name": host, "os.type": "linux", "os.version": "6.18.5",
		// From another implementation: python3 -c 'import uuid; print(uuid.uuid5(uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320"), "0123456789abcdef0123456789abcdef/"))'
		"service.instance.id": "294ee07a-97ef-596d-b78f-11eeaf3509ac",
	})
	if len(plain) != 7 { // with host.arch
		t.Errorf("got %v", plain)
	}

	t.Setenv("K8S_NODE_NAME", "node-1")
	t.Setenv("K8S_CLUSTER_NAME", "c1")
	check(read(), map[string]string{"host.name": "node-1", "k8s.node.name": "node-1", "k8s.cluster.name": "c1"})

	t.Setenv("OTEL_SERVICE_NAME", "mine")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,host.name=h,service.instance.id=i,team=%ff%00")
	check(read(), map[string]string{"service.name": "mine", "host.name": "h", "service.instance.id": "i", "team": "\uFFFD\x00"})

	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "nonsense,a=b")
	res, err := newResource(t.Context(), fstest.MapFS{}, "")
	if err == nil || !strings.Contains(err.Error(), "nonsense") || !strings.Contains(err.Error(), "machine-id") {
		t.Errorf("got %v", err)
	}
	if _, ok := res.Set().Value("a"); !ok {
		t.Errorf("got %v", res)
	}
}

// TestResourceArrives has bytes in the environment that protobuf refuses.
func TestResourceArrives(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "a=%ff,b\xff=1,deployment.environment.name=test")
	r := new(receiver)
	p, _ := start(t, Options{OTLP: &OTLP{Endpoint: r.serve(t, "127.0.0.1:0")}}, newSource(t))
	flush(t, p)
	requests, _ := r.take()
	got := resourceOf(requests)
	if got["a"] != "\uFFFD" || got["b\uFFFD"] != "1" || got["deployment.environment.name"] != "test" || got["service.name"] != "sidecar" {
		t.Errorf("got %v", got)
	}
}

func resourceOf(requests []*service.ExportMetricsServiceRequest) map[string]any {
	return attributesOf(requests[0].ResourceMetrics[0].Resource.Attributes)
}
