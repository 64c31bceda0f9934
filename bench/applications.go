package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const (
	applicationRounds = 12
	applicationTime   = 3 * time.Second // of a round
	applicationTarget = 1.0             // % of the throughput
)

// application is a server, and the client that loads it as much as it can. Both run on this machine.
type application struct {
	name   string
	server func(directory, port string) (*exec.Cmd, error)
	client func(port string, last served) (served, error) // last is what the client said before
}

// served is what a client says of a server.
type served struct {
	rate float64       // requests a second
	p99  time.Duration // of a request
}

var applications = []application{
	{"Redis, redis-benchmark SET", redisServer, redisClient},
	{"nginx, wrk of a file of 1 KiB", nginxServer, nginxClient},
}

func redisServer(directory, port string) (*exec.Cmd, error) {
	return exec.Command("redis-server", "--bind", loopback, "--port", port, "--dir", directory, "--save", ""), nil
}

// redisClient asks for as many requests as will take the time.
func redisClient(port string, last served) (s served, err error) {
	n := max(10_000, int(last.rate*applicationTime.Seconds()))
	out, err := exec.Command("redis-benchmark", "-h", loopback, "-p", port, "-t", "set", "-n", strconv.Itoa(n), "--csv").Output()
	if err != nil {
		return s, err
	}
	records, err := csv.NewReader(strings.NewReader(string(out))).ReadAll()
	if err != nil || len(records) != 2 {
		return s, fmt.Errorf("not what redis-benchmark says: %s", out)
	}
	values := make(map[string]float64)
	for i, column := range records[0] {
		values[column], _ = strconv.ParseFloat(records[1][i], 64) // the first is a name
	}
	return served{values["rps"], time.Duration(values["p99_latency_ms"] * 1e6)}.checked(out)
}

// nginxConfiguration is of relative paths, and of a server that may read its directory.
const nginxConfiguration = `daemon off;
user root;
worker_processes auto;
pid nginx.pid;
events {}
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	server { listen %s:%s; root .; }
}
`

func nginxServer(directory, port string) (*exec.Cmd, error) {
	configuration := fmt.Sprintf(nginxConfiguration, loopback, port)
	err := errors.Join(
		os.WriteFile(filepath.Join(directory, "nginx.conf"), []byte(configuration), 0o644),
		os.WriteFile(filepath.Join(directory, "page"), make([]byte, 1<<10), 0o644),
	)
	return exec.Command("nginx", "-p", directory, "-c", "nginx.conf", "-e", "stderr"), err
}

func nginxClient(port string, _ served) (s served, err error) {
	out, err := exec.Command("wrk", "--threads", "1", "--connections", "50", "--latency",
		"--duration", strconv.Itoa(int(applicationTime.Seconds())), "http://"+net.JoinHostPort(loopback, port)+"/page").Output()
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(string(out)) {
		switch fields := strings.Fields(line); {
		case len(fields) == 2 && fields[0] == "99%":
			s.p99, _ = time.ParseDuration(fields[1])
		case len(fields) == 2 && fields[0] == "Requests/sec:":
			s.rate, _ = strconv.ParseFloat(fields[1], 64)
		}
	}
	if strings.Contains(string(out), "Non-2xx") {
		return s, fmt.Errorf("requests failed: %s", out)
	}
	return s.checked(out)
}

// checked is an error where a client has not said all.
func (s served) checked(out []byte) (served, error) {
	if s.rate <= 0 || s.p99 <= 0 {
		return s, fmt.Errorf("no throughput and latency in %s", out)
	}
	return s, nil
}

const loopback = "127.0.0.1"

// start starts the server on a free port, and returns when it listens.
func (a application) start(directory string) (server *exec.Cmd, port string, err error) {
	listener, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		return nil, "", err
	}
	address := listener.Addr().String()
	if _, port, err = net.SplitHostPort(address); err != nil {
		return nil, "", err
	}
	if err := listener.Close(); err != nil {
		return nil, "", err
	}
	if server, err = a.server(directory, port); err != nil {
		return nil, "", err
	}
	server.Env, server.Stderr = environment(), os.Stderr
	if err := server.Start(); err != nil {
		return nil, "", err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			return server, port, connection.Close()
		}
		if time.Now().After(deadline) {
			return nil, "", errors.Join(err, terminate(server))
		}
	}
}

// terminate ends a process that ends successfully at a SIGTERM.
func terminate(c *exec.Cmd) error { return errors.Join(c.Process.Signal(unix.SIGTERM), c.Wait()) }

// slowdown is what the default probes cost an application.
type slowdown struct {
	off, loss figures // requests a second without them, and how many % less with them, by round
	p99, with figures // ms, without them and with them
	share
}

// share is what the sidecar takes while the application is under load.
type share struct {
	switches          float64 // context switches of the machine a second
	programs, process float64 // % of the CPU time that all the machine used
}

// measure runs the application with and without a sidecar, in turns.
func (a application) measure() (result slowdown, err error) {
	directory, err := os.MkdirTemp("", "sidecar-bench-")
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	server, port, err := a.start(directory)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, terminate(server)) }()
	t := trial{application: a, port: port}
	for range 2 { // for the caches, and for the client to know the rate
		if _, err := t.load(); err != nil {
			return result, err
		}
	}
	for round := range applicationRounds {
		turns := []func() (served, error){t.alone, t.beside}
		said := make([]served, len(turns))
		for turn := range turns {
			i := (round + turn) % len(turns)
			if said[i], err = turns[i](); err != nil {
				return result, err
			}
		}
		result.add(said[0], said[1])
		fmt.Fprintf(os.Stderr, "%s: round %d of %d: %.0f requests a second, %.0f with a sidecar\n",
			a.name, round+1, applicationRounds, said[0].rate, said[1].rate)
	}
	result.share, err = t.share()
	return result, err
}

// add adds a round.
func (s *slowdown) add(off, on served) {
	s.off = append(s.off, off.rate)
	s.loss = append(s.loss, 100*(1-on.rate/off.rate))
	s.p99 = append(s.p99, float64(off.p99)/1e6)
	s.with = append(s.with, float64(on.p99)/1e6)
}

// trial is an application whose server runs.
type trial struct {
	application
	port string
	last served
}

func (t *trial) load() (s served, err error) {
	if s, err = t.client(t.port, t.last); err != nil {
		return s, fmt.Errorf("%s: %w", t.name, err)
	}
	t.last = s
	return s, nil
}

func (t *trial) alone() (served, error) {
	time.Sleep(time.Second) // as while a sidecar starts
	return t.load()
}

// startBeside starts a sidecar that exports once in a round.
func startBeside() (*running, error) {
	return runSidecar(fmt.Sprintf("OTEL_METRIC_EXPORT_INTERVAL=%d", applicationTime.Milliseconds()))
}

func (t *trial) beside() (s served, err error) {
	r, err := startBeside()
	if err != nil {
		return s, err
	}
	s, err = t.load()
	return s, errors.Join(err, r.stop())
}

// share is what a sidecar takes beside the load.
func (t *trial) share() (s share, err error) {
	r, err := startBeside()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	before, err := r.use()
	if err != nil {
		return s, err
	}
	if _, err := t.load(); err != nil {
		return s, err
	}
	after, err := r.use()
	if err != nil {
		return s, err
	}
	busy := float64(after.machine.cpu - before.machine.cpu)
	return share{
		switches: float64(after.machine.switches-before.machine.switches) / (after.at - before.at).Seconds(),
		programs: 100 * float64(after.programs.time-before.programs.time) / busy,
		process:  100 * float64(after.process-before.process) / busy,
	}, nil
}

// sidecarUse is what a sidecar and its machine have done so far.
type sidecarUse struct {
	at       time.Duration // on the monotonic clock
	machine  machineUse
	programs runStats
	process  time.Duration
}

func (r *running) use() (u sidecarUse, err error) {
	u.at, u.process = time.Duration(monotonic()), r.cpuTime()
	if u.machine, err = readMachineUse(); err != nil {
		return u, err
	}
	u.programs, err = attached{pids: []int{r.command.Process.Pid}}.stats()
	return u, err
}

func inApplications() section {
	s := section{
		title: "An application",
		about: fmt.Sprintf(`Servers under all the load that their client can make, both on this machine, with and without `+"`sidecar run`"+` of the default
configuration. Each of %d rounds is both in turns, of %.0f s each, beside a sidecar that was started before and exports to a
receiver once in that time, more often than by default. "Slower by" is the throughput's difference within a round: the
median, ± half of what the middle half of the rounds spans. The target is met or not when all of the middle half is on one
side of it.

What the sidecar takes is told besides, which is no difference of two noisy figures: in one more round, the run time of its
programs by the kernel's statistics, whose reading of the clock is in it and what the kernel does to call a program is not,
and the CPU time of its process. Both are of the CPU time that the machine was not idle.`, applicationRounds, applicationTime.Seconds()),
		columns: []string{
			"Application", "Requests a second, without", "Slower by", "Target", "p99 without", "p99 with",
			"Context switches a second", "In the programs", "In the process", "Both, target",
		},
	}
	for _, a := range applications {
		s.rows = append(s.rows, row{a.name, func() ([]string, error) {
			result, err := a.measure()
			if err != nil {
				return nil, err
			}
			return []string{
				result.off.spread(0), result.loss.spread(2) + " %", result.loss.verdict(applicationTarget, percent),
				result.p99.spread(2) + " ms", result.with.spread(2) + " ms",
				fmt.Sprintf("%.0f", result.switches), percent(result.programs), percent(result.process),
				verdict(result.programs+result.process, applicationTarget, percent),
			}, nil
		}})
	}
	return s
}
