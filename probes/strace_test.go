//go:build !matrix

package probes

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

// TestSyscallsAgainstStrace compares the counts of a process with those of strace, in its cgroup too.
func TestSyscallsAgainstStrace(t *testing.T) {
	set := open(t, loadOnly("syscalls", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	summary := t.TempDir() + "/summary"
	command := helper(t, group, "syscalls", random(t, "getpgid", 1, 2000), 0, 0, 7, 7, 7, 7, 7)
	command.Args = []string{"strace", "-f", "-c", "-U", "name,calls,errors", "-o", summary, command.Path}
	command.Path = "/usr/bin/strace"
	mustRun(t, command)
	ours := make(map[string]uint64) // by name alone
	for name, count := range syscallCounts(t, read(t, set), in(group)) {
		ours[strings.Fields(name)[0]] += count
	}
	content, err := os.ReadFile(summary)
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	for line := range strings.Lines(string(content)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		calls, err := strconv.ParseUint(words[1], 10, 64)
		if err != nil || words[0] == "total" {
			continue
		}
		names++
		switch name := words[0]; name {
		case "getpgid", "sigaltstack", "sched_getaffinity", "epoll_create1", "eventfd2": // strace makes none of its own
			same(t, name, ours[name], calls)
		case "exit_group", "execve": // the first does not return, and the second is strace's too
		default:
			if ours[name] < calls {
				t.Errorf("%s: %d, by strace %d", name, ours[name], calls)
			}
		}
	}
	t.Logf("%d names, getpgid %d", names, ours["getpgid"])
	if names < 10 {
		t.Errorf("strace tells of %d calls:\n%s", names, content)
	}
}
