//go:build host && docker

package host

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ebpf-sidecar/sidecar/internal/harness"
)

// startDocker starts the engine, has it build the sidecar's image, and makes another one, called known, of a shell and a program.
// Both are static copies of busybox, which goes by names that begin with its own.
func startDocker(t *testing.T) {
	t.Helper()
	if output, err := exec.Command("systemctl", "start", "docker").CombinedOutput(); err != nil {
		t.Fatalf("start Docker: %v\n%s", err, output)
	}
	t.Cleanup(func() {
		if output, err := exec.Command("systemctl", "stop", "docker", "docker.socket", "containerd").CombinedOutput(); err != nil {
			t.Errorf("stop Docker: %v\n%s", err, output)
		}
	})
	docker(t, "build", "--quiet", "--build-arg", "VERSION=guest", "--tag", "sidecar", "image")

	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var files bytes.Buffer
	w := tar.NewWriter(&files)
	for _, name := range []string{"busybox", "busybox-known"} {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(busybox))})
		if _, writeErr := w.Write(busybox); err != nil || writeErr != nil {
			t.Fatal(err, writeErr)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	load := exec.Command("docker", "import", "-", "known")
	load.Stdin = &files
	if output, err := load.CombinedOutput(); err != nil {
		t.Fatalf("make an image: %v\n%s", err, output)
	}
}

// docker runs the command and returns what it prints.
func docker(t *testing.T, arguments ...string) string {
	t.Helper()
	output, err := exec.Command("docker", arguments...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w\n%s", err, exit.Stderr)
		}
		t.Fatalf("docker %s: %v", strings.Join(arguments, " "), err)
	}
	return strings.TrimSpace(string(output))
}

// container is a container by its id. It goes with the test.
type container string

func run(t *testing.T, arguments ...string) container {
	t.Helper()
	c := container(docker(t, append([]string{"run", "--detach"}, arguments...)...))
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := exec.Command("docker", "logs", string(c)).CombinedOutput()
			t.Logf("docker run %s:\n%s", strings.Join(arguments, " "), logs)
		}
		docker(t, "rm", "--force", string(c))
	})
	return c
}

type state struct {
	Running               bool
	ExitCode              int
	StartedAt, FinishedAt time.Time
	Health                struct{ Status string }
}

func (c container) state(t *testing.T) (s state) {
	t.Helper()
	if err := json.Unmarshal([]byte(docker(t, "inspect", "--format", "{{json .State}}", string(c))), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDocker runs the image under Docker's own engine.
func TestDocker(t *testing.T) {
	startDocker(t)
	t.Run("counts", testCounts)
	t.Run("without privileges", testWithoutPrivileges)
}

// sizeLimit is what the image may take, in bytes.
const sizeLimit = 25 << 20

// testCounts runs the sidecar in containers, each in another way and with a Collector of its own. All of them must have counted
// what two other containers did, one of them under a second, and by their names.
func testCounts(t *testing.T) {
	size := docker(t, "inspect", "--format", "{{.Size}}", "sidecar")
	var bytes int
	if _, err := fmt.Sscan(size, &bytes); err != nil || bytes > sizeLimit {
		t.Errorf("the image takes %s bytes, want at most %d (%v)", size, sizeLimit, err)
	}
	machineID, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		t.Fatal(err)
	}

	type way struct {
		name      string
		arguments []string
		hostID    bool // it is told the machine's id
		container container
		collector *harness.Collector
	}
	ways := []*way{
		{name: "privileged", arguments: []string{"--privileged"}},
		{name: "capabilities", arguments: []string{"--cap-add", "BPF", "--cap-add", "PERFMON"}},
		{name: "least privilege", hostID: true, arguments: []string{
			"--user", "1234", "--cap-drop", "ALL", "--cap-add", "BPF", "--cap-add", "PERFMON",
			"--security-opt", "no-new-privileges", "--read-only", "--tmpfs", "/run", "--volume", "/etc/machine-id:/etc/machine-id:ro"}},
	}
	for _, w := range ways {
		w.collector = harness.NewCollector(t, "./otelcol")
		w.collector.Start(t)
		arguments := append([]string{"--network", "host"}, w.arguments...)
		w.container = run(t, append(arguments, "--env", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+w.collector.Endpoint,
			"sidecar", "run", "--strict")...)
	}
	for _, w := range ways {
		harness.Eventually(t, w.name+": the first metrics arrive", func() bool {
			file, err := os.Stat(w.collector.File)
			return err == nil && file.Size() > 0
		})
	}

	long, brief := 50+rand.IntN(100), 2+rand.IntN(5)
	executions := map[container]int{
		execute(t, long, "; /busybox sleep 2"): long,
		execute(t, brief, ""):                  brief,
	}
	for c, n := range executions {
		s := c.state(t)
		life := s.FinishedAt.Sub(s.StartedAt)
		t.Logf("%d executions in a container that lived %v", n, life)
		if n == brief && life > time.Second {
			t.Errorf("it lived %v, want under a second", life)
		}
	}
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Log(docker(t, "exec", string(w.container), "/sidecar", "status"))
			harness.Eventually(t, "the container is healthy", func() bool { return w.container.state(t).Health.Status == "healthy" })
			begin := time.Now()
			docker(t, "stop", "--time", "60", string(w.container)) // 10 are usual, on a machine that is not emulated
			t.Logf("stopped within %v", time.Since(begin))
			if s := w.container.state(t); s.ExitCode != 0 {
				t.Errorf("stopped, it ended with %d", s.ExitCode)
			}
			w.collector.Stop(t)
			counters, _ := w.collector.Received(t)
			for c, n := range executions {
				got := counters.Sum("linux.process.executions", "container.id="+string(c), "process.executable.name=busybox-known")
				if got != int64(n) {
					t.Errorf("%d executions in container %s, want %d", got, c, n)
				}
			}
			file, err := os.ReadFile(w.collector.File)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(string(file), strings.TrimSpace(string(machineID))); got != w.hostID {
				t.Errorf("the machine's id was exported: %v, want %v", got, w.hostID)
			}
		})
	}
}

// execute runs a container that executes a program n times, and then what else it is told to, and ends.
func execute(t *testing.T, n int, then string) container {
	t.Helper()
	c := run(t, "--network", "none", "known", "/busybox", "sh", "-c",
		fmt.Sprintf("i=0; while [ $i -lt %d ]; do /busybox-known true; i=$((i+1)); done%s", n, then))
	docker(t, "wait", string(c))
	return c
}

// testWithoutPrivileges runs the sidecar in containers that lack what it needs.
func testWithoutPrivileges(t *testing.T) {
	for name, arguments := range map[string][]string{
		"root":   nil,
		"a user": {"--user", "1234"},
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.Command("docker", append(append([]string{"run", "--rm", "--network", "host"}, arguments...), "sidecar")...)
			output, _ := command.CombinedOutput()
			if code := command.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(output), "CAP_BPF and CAP_PERFMON") {
				t.Errorf("exit code %d, want 1 and the names of the capabilities:\n%s", code, output)
			}
		})
	}
}
