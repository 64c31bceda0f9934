package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What others answer the probes' questions with: scripts for bpftrace, and commands of libbpf-tools.
const (
	scriptWaits = `tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @queued[args->pid] = nsecs; }
tracepoint:sched:sched_switch {
	if (args->prev_state == 0) { @queued[args->prev_pid] = nsecs; }
	if (@queued[args->next_pid]) { @wait = hist(nsecs - @queued[args->next_pid]); delete(@queued[args->next_pid]); }
}
`
	scriptStates = `tracepoint:sched:sched_wakeup_new { @queued[args->pid] = nsecs; }
tracepoint:sched:sched_process_exit { delete(@queued[tid]); }
`
	scriptForks = `tracepoint:task:task_newtask { @created[cgroup, args->clone_flags & 0x10000 /* CLONE_THREAD */] = count(); }
`
	scriptExecs = `tracepoint:sched:sched_process_exec { @executions[cgroup, str(args->filename)] = count(); }
`
	scriptExits = `tracepoint:sched:sched_process_exit /pid == tid/ {
	@exits[cgroup, curtask->exit_code] = count();
	@lifetime[cgroup] = hist(nsecs - curtask->start_time);
}
`
)

var (
	runqlat   = [][]string{{"runqlat", "3600"}}
	execsnoop = [][]string{{"execsnoop"}}
	exitsnoop = [][]string{{"exitsnoop"}}
)

// runStats are those of some programs together.
type runStats struct {
	programs   int
	time, runs uint64 // ns, and how often
}

// stats sums over the programs.
func (a attached) stats() (all runStats, err error) {
	programs, hooked := make(map[string]runStats), make(map[string]bool) // by the program's id
	for _, pid := range a.pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
		if err != nil {
			return all, err
		}
		for _, file := range files {
			info, err := readFields(file)
			if err != nil {
				continue // gone
			}
			if slices.Contains(a.hooks, info["tp_name"]) {
				hooked[info["prog_id"]] = true
			}
			if info["run_cnt"] == "" {
				continue // no program
			}
			ns, timeErr := strconv.ParseUint(info["run_time_ns"], 10, 64)
			runs, runsErr := strconv.ParseUint(info["run_cnt"], 10, 64)
			if err := errors.Join(timeErr, runsErr); err != nil {
				return all, err
			}
			programs[info["prog_id"]] = runStats{1, ns, runs}
		}
	}
	for id, one := range programs {
		if a.hooks == nil || hooked[id] {
			all.programs += one.programs
			all.time += one.time
			all.runs += one.runs
		}
	}
	return all, nil
}

// readFields reads a file of /proc with a "key: value" a line.
func readFields(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fields := make(map[string]string)
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		key, value, _ := strings.Cut(scanner.Text(), ":")
		fields[key] = strings.TrimSpace(value)
	}
	return fields, scanner.Err()
}

// tool is a process of others.
type tool struct{ *exec.Cmd }

// Close ends it.
func (t tool) Close() error {
	if err := t.Process.Kill(); err != nil {
		return err
	}
	_ = t.Wait() // says that it was killed
	return nil
}

// startTools runs commands until they are closed, and returns when they have attached their programs.
func startTools(commands ...[]string) (a attached, err error) {
	var tools closers
	a.Closer = &tools
	defer func() {
		if err != nil {
			err = errors.Join(err, tools.Close())
		}
	}()
	for _, words := range commands {
		t := tool{exec.Command(words[0], words[1:]...)}
		var messages strings.Builder
		t.Stderr = &messages
		if err := t.Start(); err != nil {
			return a, err
		}
		tools = append(tools, t)
		started := attached{pids: []int{t.Process.Pid}}
		a.pids = append(a.pids, started.pids...)
		if err := started.awaitPrograms(); err != nil {
			return a, fmt.Errorf("%s: %w\n%s", words[0], err, messages.String())
		}
	}
	return a, nil
}

// awaitPrograms waits until the processes have as many programs as they will.
func (a attached) awaitPrograms() error {
	const steady = 5 // looks that find no more
	var before runStats
	same := 0
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		now, err := a.stats()
		if err != nil {
			return err
		}
		if same++; now.programs != before.programs {
			same = 0
		}
		if before = now; now.programs > 0 && same == steady {
			return nil
		}
	}
	return fmt.Errorf("no program was loaded, or their number changes all the time (%d now)", before.programs)
}
