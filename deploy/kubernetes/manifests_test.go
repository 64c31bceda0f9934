// Package kubernetes tests the manifests: against the Kubernetes schemas, against the program, and in a container as a kubelet
// would have it made.
package kubernetes

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// sidecarBinary is the built command.
var sidecarBinary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests run a container, which takes root (sudo make test)")
		return 1
	}
	folder, err := os.MkdirTemp("", "sidecar-kubernetes")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	sidecarBinary = filepath.Join(folder, "sidecar")
	build := exec.Command("make", "-C", "../..", "build", "BINARY="+sidecarBinary, "VERSION=test", "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the sidecar: %v\n%s", err, output)
		return 1
	}
	return m.Run()
}

// versions are the oldest of Kubernetes with what the manifests use, and the newest whose schemas there are.
var versions = []string{"1.28", "1.30"}

// objects reads the objects of a manifest. What the schemas of a version do not have, or have as another type, is an error.
func objects(t *testing.T, version, manifest string) (all []map[string]any, err error) {
	t.Helper()
	for _, document := range strings.Split(manifest, "\n---\n") {
		var object map[string]any
		if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
			return nil, err
		}
		schema, err := schemaOf(t, version, fmt.Sprint(object["apiVersion"]), fmt.Sprint(object["kind"]))
		if err != nil {
			return nil, err
		}
		if err := schema.Validate(object); err != nil {
			return nil, err
		}
		all = append(all, object)
	}
	return all, nil
}

// schemasFolder has the OpenAPI documents of Kubernetes's versions, which come with kubectl-validate.
var schemasFolder = sync.OnceValues(func() (string, error) {
	output, err := exec.Command("go", "mod", "download", "-json", "sigs.k8s.io/kubectl-validate").Output()
	if err != nil {
		return "", err
	}
	var module struct{ Dir string }
	err = json.Unmarshal(output, &module)
	return filepath.Join(module.Dir, "pkg/openapiclient/builtins"), err
})

// schemaOf is a kind's schema, made strict.
func schemaOf(t *testing.T, version, apiVersion, kind string) (*jsonschema.Schema, error) {
	t.Helper()
	folder, err := schemasFolder()
	if err != nil {
		t.Fatal(err)
	}
	path := "api/" + apiVersion
	if strings.Contains(apiVersion, "/") {
		path = "apis/" + apiVersion
	}
	file, err := os.Open(filepath.Join(folder, version, path+".json"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	document, err := jsonschema.UnmarshalJSON(file)
	if err != nil {
		t.Fatal(err)
	}
	name := ""
	for candidate, schema := range document.(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any) {
		kinds, _ := schema.(map[string]any)["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) == 1 && kinds[0].(map[string]any)["kind"] == kind {
			name = candidate
		}
	}
	if name == "" {
		return nil, fmt.Errorf("%s has no %s", apiVersion, kind)
	}
	makeStrict(document)
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("kubernetes.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("kubernetes.json#/components/schemas/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return schema, nil
}

// makeStrict forbids what a schema does not name.
func makeStrict(value any) {
	switch value := value.(type) {
	case map[string]any:
		if _, ok := value["properties"].(map[string]any); ok && value["additionalProperties"] == nil {
			value["additionalProperties"] = false
		}
		for _, v := range value {
			makeStrict(v)
		}
	case []any:
		for _, v := range value {
			makeStrict(v)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestSchemas(t *testing.T) {
	for _, version := range versions {
		for file, want := range map[string][]string{
			"daemonset.yaml": {"Namespace", "ServiceAccount", "PriorityClass", "ConfigMap", "DaemonSet"},
			"sidecar.yaml":   {"Deployment"},
		} {
			all, err := objects(t, version, read(t, file))
			if err != nil {
				t.Errorf("%s, Kubernetes %s: %v", file, version, err)
				continue
			}
			var kinds []string
			for _, object := range all {
				kinds = append(kinds, object["kind"].(string))
			}
			if !slices.Equal(kinds, want) {
				t.Errorf("%s has %v, want %v", file, kinds, want)
			}
		}
	}
}

// TestSchemasRefuse checks that a manifest that is wrong is found out.
func TestSchemasRefuse(t *testing.T) {
	manifest := read(t, "daemonset.yaml")
	for _, version := range versions {
		for _, change := range []struct{ from, to, want string }{
			{"readOnlyRootFilesystem: true", "readonlyRootFilesystem: true", "'readonlyRootFilesystem' not allowed"},
			{"readOnlyRootFilesystem: true", `readOnlyRootFilesystem: "true"`, "got string, want boolean"},
			{"  selector:\n    matchLabels: *labels\n", "", "missing property 'selector'"},
			{"periodSeconds: 30", "periodSeconds: 30s", "got string, want integer"},
			{"periodSeconds: 30", "periodSeconds: 30\n            periodSeconds: 30", `"periodSeconds" already set`},
			{"kind: DaemonSet", "kind: DemonSet", "apps/v1 has no DemonSet"},
			{"apiVersion: apps/v1", "apiVersion: apps/v2", "apps/v2.json: no such file"},
		} {
			if !strings.Contains(manifest, change.from) {
				t.Fatalf("the manifest has no %q any more", change.from)
			}
			_, err := objects(t, version, strings.Replace(manifest, change.from, change.to, 1))
			if err == nil || !strings.Contains(err.Error(), change.want) {
				t.Errorf("Kubernetes %s, %q: %v, want %q", version, change.to, err, change.want)
			}
		}
	}
}

// pod is what a manifest says of the pods that it makes.
type pod struct {
	spec    core.PodSpec
	sidecar core.Container
	config  map[string]string // the ConfigMap's files
}

func readPod(t *testing.T, file string) pod {
	t.Helper()
	var p pod
	for _, document := range strings.Split(read(t, file), "\n---\n") {
		var meta v1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &meta); err != nil {
			t.Fatal(err)
		}
		var err error
		switch meta.Kind {
		case "DaemonSet":
			var set apps.DaemonSet
			err = yaml.UnmarshalStrict([]byte(document), &set) // which knows how quantities are written, too
			p.spec = set.Spec.Template.Spec
		case "Deployment":
			var deployment apps.Deployment
			err = yaml.UnmarshalStrict([]byte(document), &deployment)
			p.spec = deployment.Spec.Template.Spec
		case "ConfigMap":
			var config core.ConfigMap
			err = yaml.UnmarshalStrict([]byte(document), &config)
			p.config = config.Data
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, container := range slices.Concat(p.spec.InitContainers, p.spec.Containers) {
		if container.Name == "sidecar" {
			p.sidecar = container
			return p
		}
	}
	t.Fatalf("%s has no container sidecar", file)
	return p
}

// environment is what the kubelet would set, for a pod that it has made.
func (p pod) environment(t *testing.T) []string {
	t.Helper()
	fields := map[string]string{"spec.nodeName": "node-1", "status.hostIP": "192.0.2.1", "metadata.uid": "5e4a3f8c-8a0e-4b6e-9d57-2f1f6f0f7f11"}
	set := make(map[string]string)
	var all []string
	for _, variable := range p.sidecar.Env {
		value := regexp.MustCompile(`\$\((\w+)\)`).ReplaceAllStringFunc(variable.Value, func(reference string) string {
			earlier, ok := set[strings.Trim(reference, "$()")]
			if !ok {
				t.Errorf("%s: %s is not set before", variable.Name, reference)
			}
			return earlier
		})
		if from := variable.ValueFrom; from != nil {
			value = fields[from.FieldRef.FieldPath]
			if value == "" {
				t.Errorf("%s: what is %s?", variable.Name, from.FieldRef.FieldPath)
			}
		}
		set[variable.Name] = value
		all = append(all, variable.Name+"="+value)
	}
	return all
}

// args are the program's: the manifest's, or the image's.
func (p pod) args() []string {
	if len(p.sidecar.Args) == 0 {
		return []string{"run"}
	}
	return slices.Clone(p.sidecar.Args)
}

// configFolder makes a folder of the ConfigMap.
func (p pod) configFolder(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for name, content := range p.config {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// run runs the program, with the environment of the pod alone.
func (p pod) run(t *testing.T, args ...string) string {
	t.Helper()
	command := exec.Command(sidecarBinary, args...)
	command.Env = p.environment(t)
	output, err := command.CombinedOutput()
	if err != nil {
		t.Errorf("sidecar %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// TestProgram checks that the program takes what the manifests say to it.
func TestProgram(t *testing.T) {
	documented := read(t, "../../docs/configuration.md")
	for _, file := range []string{"daemonset.yaml", "sidecar.yaml"} {
		t.Run(file, func(t *testing.T) {
			p := readPod(t, file)
			p.run(t, append(p.args(), "--help")...) // it comes last: a flag before that is not known is an error
			config := ""
			if i := slices.Index(p.args(), "--config"); i >= 0 {
				folder, name := filepath.Split(p.args()[i+1])
				if !slices.ContainsFunc(p.sidecar.VolumeMounts, func(m core.VolumeMount) bool { return m.MountPath+"/" == folder }) {
					t.Errorf("nothing is mounted at %s", folder)
				}
				config = filepath.Join(p.configFolder(t), name)
			}
			p.run(t, "config", "validate", config) // with "" the environment alone

			image := read(t, "../../docker/Dockerfile")
			for name, probe := range map[string]*core.Probe{
				"startup": p.sidecar.StartupProbe, "readiness": p.sidecar.ReadinessProbe, "liveness": p.sidecar.LivenessProbe,
			} {
				if probe == nil {
					if name != "readiness" {
						t.Errorf("there is no %s probe", name)
					}
					continue
				}
				command := probe.Exec.Command
				if !strings.Contains(image, fmt.Sprintf("ENTRYPOINT [%q]", command[0])) {
					t.Errorf("the %s probe runs %s, which the image does not have", name, command[0])
				}
				p.run(t, append(command[1:], "--help")...)
			}
			referenced := ""
			for _, variable := range p.sidecar.Env {
				referenced += variable.Value
			}
			for _, variable := range p.sidecar.Env {
				known := strings.Contains(documented, "`"+variable.Name+"`")
				if helper := strings.Contains(referenced, "$("+variable.Name+")") || strings.Contains(read(t, file), "${env:"+variable.Name+"}"); !known && !helper {
					t.Errorf("the variable %s is nobody's", variable.Name)
				}
			}

			// The unit has the same bound.
			match := regexp.MustCompile(`MemoryMax=(\d+)`).FindStringSubmatch(p.run(t, "install", "--dry-run", "--config", config))
			if match == nil {
				t.Fatal("the unit has no MemoryMax")
			}
			want, err := strconv.ParseInt(match[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if limit := p.sidecar.Resources.Limits.Memory().Value(); limit != want {
				t.Errorf("the memory limit is %d, and what memory_limit needs %d", limit, want)
			}
		})
	}
}

// TestContainer runs the container of each manifest under runc, with its user, capabilities, seccomp profile, mounts and memory
// limit, and its probes.
func TestContainer(t *testing.T) {
	for _, file := range []string{"daemonset.yaml", "sidecar.yaml"} {
		t.Run(file, func(t *testing.T) {
			p := readPod(t, file)
			c := startContainer(t, p)
			passes := func(probe *core.Probe) bool {
				_, err := c.exec(probe.Exec.Command...)
				return err == nil
			}
			startup, began := p.sidecar.StartupProbe, time.Now()
			for !passes(startup) {
				if time.Since(began) > time.Duration(startup.PeriodSeconds*startup.FailureThreshold)*time.Second {
					t.Fatal("the startup probe fails")
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.Logf("it has started after %v", time.Since(began))
			for _, probe := range []*core.Probe{p.sidecar.LivenessProbe, p.sidecar.ReadinessProbe} {
				if probe != nil && !passes(probe) {
					t.Errorf("%v fails", probe.Exec.Command)
				}
			}

			output, err := c.exec("/sidecar", "status", "--output", "json")
			if err != nil {
				t.Fatal(err)
			}
			var status struct {
				Sidecar struct {
					Probes []struct{ Name, State, Error string }
				}
			}
			if err := json.Unmarshal([]byte(output), &status); err != nil {
				t.Fatal(err)
			}
			attached := 0
			for _, probe := range status.Sidecar.Probes {
				switch probe.State {
				case "attached":
					attached++
				case "disabled":
				default:
					t.Errorf("probe %s: %s: %s", probe.Name, probe.State, probe.Error)
				}
			}
			if attached < 5 {
				t.Errorf("%d probes are attached:\n%s", attached, output)
			}

			c.stop()
			if passes(p.sidecar.LivenessProbe) {
				t.Error("the liveness probe passes where nothing runs")
			}
			if log := c.log.String(); file == "daemonset.yaml" && strings.Contains(log, "incomplete") {
				t.Errorf("it does not know the machine:\n%s", log)
			}
		})
	}
}

// TestContainerRefused checks that the container is as narrow as it says: without CAP_PERFMON nothing runs.
func TestContainerRefused(t *testing.T) {
	p := readPod(t, "daemonset.yaml")
	p.sidecar.SecurityContext.Capabilities.Add = []core.Capability{"BPF"}
	c := startContainer(t, p)
	if err := c.process.Wait(); err == nil || !strings.Contains(c.log.String(), "CAP_PERFMON") {
		t.Errorf("without CAP_PERFMON: %v\n%s", err, &c.log)
	}
}
