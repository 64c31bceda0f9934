package probes

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

const (
	tcpConnections = "linux.tcp.connections"
	tcpHandshake   = "linux.tcp.handshake.duration"
	tcpDuration    = "linux.tcp.connection.duration"
	tcpRetransmits = "linux.tcp.retransmits"
	tcpResets      = "linux.tcp.resets"
	tcpRole        = "linux.tcp.connection.role"
)

var (
	_ = addHelper("tcp-connect", helpTCPConnect)
	_ = addHelper("tcp-special", helpTCPSpecial)
	_ = addHelper("tcp-pass", helpTCPPass)
	_ = addHelper("tcp-storm", helpTCPStorm)
	_ = addHelper("tcp-lossy", helpTCPLossy)
	_ = addHelper("tcp-lossy-synack", helpTCPLossySYNACK)
	_ = addHelper("tcp-resets", helpTCPResets)
	_ = addHelper("tcp-older", helpTCPOlder)
)

// tcpCounts are counts by name: of a helper's own, and those that the kernel keeps of its network namespace.
type tcpCounts map[string]uint64

// tcpHelper is a helper in a network namespace of its own.
func tcpHelper(t testing.TB, group *kerneltest.Cgroup, words ...any) *exec.Cmd {
	t.Helper()
	command := helper(t, group, words...)
	command.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
	return command
}

// runTCP runs a helper that answers with counts.
func runTCP(t testing.TB, command *exec.Cmd) tcpCounts {
	t.Helper()
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%q: %v", command.Env, err)
	}
	counts := make(tcpCounts)
	if err := json.Unmarshal(output, &counts); err != nil {
		t.Fatal(err)
	}
	return counts
}

// outcomes are the connections of a role, by error.type; "" is of those that were opened.
func outcomes(t testing.TB, s *Snapshot, role string, filter func(Point) bool) map[any]uint64 {
	t.Helper()
	sums := by(t, s, tcpConnections, "error.type", func(p Point) bool { return attribute(p, tcpRole) == role && filter(p) })
	return sums
}

func sum(counts map[any]uint64) (sum uint64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// lasted is how many connections of a role ended, and how long they were open.
func lasted(t testing.TB, s *Snapshot, role string, filter func(Point) bool) (count, ns uint64) {
	t.Helper()
	return durations(t, s, tcpDuration, func(p Point) bool { return attribute(p, tcpRole) == role && filter(p) })
}

// outcome leaves out what did not come out.
func outcome(counts map[any]uint64) map[any]uint64 {
	for key, n := range counts {
		if n == 0 {
			delete(counts, key)
		}
	}
	return counts
}

func TestTCPConnections(t *testing.T) {
	set := open(t, loadOnly("tcp", LinuxCgroup))
	for _, kind := range tcpKinds {
		t.Run(kind.name, func(t *testing.T) {
			group := kerneltest.NewCgroup(t, "")
			opened := random(t, "opened", 5, scaled(200, 40))
			refused := random(t, "refused", 0, 40)
			timedOut := random(t, "timed out", 0, 20)
			closed := random(t, "closed while connecting", 0, 40)
			noRoute := random(t, "without a route", 0, 20)
			noPort := random(t, "without a port", 1, 20)
			kernel := runTCP(t, tcpHelper(t, group, "tcp-connect", kind.name, opened, refused, timedOut, closed, noRoute, noPort))

			snapshot := read(t, set)
			active := outcomes(t, snapshot, "active", in(group))
			equal(t, "active", active, outcome(map[any]uint64{
				nil: kernel["opened"], "ECONNREFUSED": uint64(refused), "ETIMEDOUT": uint64(timedOut),
				"_OTHER": uint64(closed), "not_sent": uint64(noPort),
			}))
			same(t, "ActiveOpens", sum(active)-active["not_sent"], kernel["ActiveOpens"])
			passive := outcomes(t, snapshot, "passive", in(group))
			equal(t, "passive", passive, map[any]uint64{nil: kernel["opened"]})
			same(t, "PassiveOpens", sum(passive), kernel["PassiveOpens"])

			count, ns := durations(t, snapshot, tcpHandshake, in(group))
			same(t, "handshakes", count, kernel["opened"])
			within(t, "ns of handshakes", ns, kernel["opened"], kernel["handshake"])
			for _, role := range []string{"active", "passive"} {
				count, ns := lasted(t, snapshot, role, in(group))
				same(t, role+" that ended", count, kernel["opened"])
				within(t, role+": ns open", ns, kernel["least"], kernel["most"])
			}
			if t.Failed() {
				t.Log(kernel)
			}
		})
	}
}

// TestTCPSpecial makes connections in the ways that are not usual.
func TestTCPSpecial(t *testing.T) {
	set := open(t, loadOnly("tcp", LinuxCgroup))
	for _, kind := range tcpKinds {
		t.Run(kind.name, func(t *testing.T) {
			group := kerneltest.NewCgroup(t, "")
			self := random(t, "opened by both sides at once", 1, 40)
			again := random(t, "opened by a socket that was disconnected", 1, 40)
			full := random(t, "opened to a full queue", 3, 20)
			fast := random(t, "by TCP Fast Open", 1, 40)
			abandoned := random(t, "by TCP Fast Open, abandoned", 1, 40)
			multipath := random(t, "of MPTCP", 1, 40)
			kernel := runTCP(t, tcpHelper(t, group, "tcp-special", kind.name, self, again, full, fast, abandoned, multipath))
			if kernel["multipath"] != uint64(multipath) {
				t.Logf("MPTCP: %d", kernel["multipath"])
			}

			snapshot := read(t, set)
			equal(t, "active", outcomes(t, snapshot, "active", in(group)), map[any]uint64{
				nil:      uint64(self+2*again+fast) + kernel["full"] + kernel["multipath"],
				"_OTHER": uint64(full+abandoned) - kernel["full"],
			})
			equal(t, "passive", outcomes(t, snapshot, "passive", in(group)), map[any]uint64{
				nil:      uint64(2*again+fast) + kernel["full accepted"] + kernel["multipath"],
				"_OTHER": uint64(abandoned),
			})
			active, passive := outcomes(t, snapshot, "active", in(group)), outcomes(t, snapshot, "passive", in(group))
			same(t, "ActiveOpens", sum(active), kernel["ActiveOpens"])
			same(t, "PassiveOpens", sum(passive), kernel["PassiveOpens"])
			count, _ := durations(t, snapshot, tcpHandshake, in(group))
			same(t, "handshakes", count, active[nil])
			for role, want := range map[string]uint64{"active": active[nil], "passive": passive[nil]} {
				count, _ := lasted(t, snapshot, role, in(group))
				same(t, role+" that ended", count, want)
			}
			if t.Failed() {
				t.Log(kernel)
			}
		})
	}
}

// TestTCPOwner uses sockets in another cgroup than the one that they were opened in.
func TestTCPOwner(t *testing.T) {
	set := open(t, loadOnly("tcp", LinuxCgroup))
	owner, user := kerneltest.NewCgroup(t, ""), kerneltest.NewCgroup(t, "")
	opened, refused := random(t, "opened", 1, 40), random(t, "refused", 1, 40)
	runTCP(t, tcpHelper(t, owner, "tcp-pass", user.Path, opened, refused))

	snapshot := read(t, set)
	equal(t, "active", outcomes(t, snapshot, "active", in(owner)), map[any]uint64{nil: uint64(opened), "ECONNREFUSED": uint64(refused)})
	equal(t, "passive", outcomes(t, snapshot, "passive", in(owner)), map[any]uint64{nil: uint64(opened)})
	for _, role := range []string{"active", "passive"} {
		count, _ := lasted(t, snapshot, role, in(owner))
		same(t, role+" that ended", count, uint64(opened))
		same(t, role+" of the user", sum(outcomes(t, snapshot, role, in(user))), 0)
	}
}

// TestTCPStorm opens connections on all CPUs, not all of which are accepted.
func TestTCPStorm(t *testing.T) {
	set := open(t, loadOnly("tcp", LinuxCgroup))
	group := kerneltest.NewCgroup(t, "")
	n := random(t, "connections of a thread", scaled(3000, 300), scaled(6000, 600))
	begin := time.Now()
	kernel := runTCP(t, tcpHelper(t, group, "tcp-storm", n))

	snapshot := read(t, set)
	active, passive := outcomes(t, snapshot, "active", in(group)), outcomes(t, snapshot, "passive", in(group))
	t.Logf("%d active, %d passive in %v; accept queue full %d times, %d unmatched", kernel["ActiveOpens"],
		kernel["PassiveOpens"], time.Since(begin), kernel["ListenOverflows"], tcpUnmatched(snapshot))
	same(t, "ActiveOpens", sum(active)-active["not_sent"], kernel["ActiveOpens"])
	same(t, "PassiveOpens", sum(passive), kernel["PassiveOpens"])
	same(t, "without a port", active["not_sent"], kernel["no port"])
	count, _ := durations(t, snapshot, tcpHandshake, in(group))
	same(t, "handshakes", count, active[nil])
	for role, want := range map[string]uint64{"active": active[nil], "passive": passive[nil]} {
		count, _ := lasted(t, snapshot, role, in(group))
		// An end that all programs were skipped for is told as unmatched, when another socket begins there.
		within(t, role+" that ended", count, want-min(tcpUnmatched(snapshot), want), want)
	}
}

// TestTCPRetransmits drops what arrives. What the kernel counts and we do not is what it could not send.
func TestTCPRetransmits(t *testing.T) {
	set := open(t, loadOnly("tcp", LinuxCgroup))
	exact := 0
	for _, test := range []struct {
		name, kind, network string
		words               []any
		failing             bool // to send
	}{
		{"ipv4", "ipv4", "ipv4", []any{"tcp-lossy"}, false},
		{"ipv6", "ipv6", "ipv6", []any{"tcp-lossy"}, false},
		{"mapped", "mapped", "ipv4", []any{"tcp-lossy"}, false},
		{"ipv4, some not sent", "ipv4", "ipv4", []any{"tcp-lossy"}, true},
		{"ipv6, some not sent", "ipv6", "ipv6", []any{"tcp-lossy"}, true},
		{"ipv4, SYN-ACK", "ipv4", "ipv4", []any{"tcp-lossy-synack"}, false},
		{"ipv6, SYN-ACK", "ipv6", "ipv6", []any{"tcp-lossy-synack"}, false},
		{"mapped, SYN-ACK", "mapped", "ipv4", []any{"tcp-lossy-synack"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			group := kerneltest.NewCgroup(t, "")
			n := random(t, "connections", 3, 10)
			if test.failing { // the more there are, the surer it is that a retransmission fails
				refuseToSend(t, group)
				n += 20
			}
			hidden := kerneltest.HiddenInterrupts(t) // as those of the timers
			kernel := runTCP(t, tcpHelper(t, group, append(test.words, test.kind, n)...))

			snapshot := read(t, set)
			got := by(t, snapshot, tcpRetransmits, "network.type", in(group))
			t.Logf("RetransSegs %d, TCPRetransFail %d", kernel["RetransSegs"], kernel["TCPRetransFail"])
			want := kernel["RetransSegs"] - kernel["TCPRetransFail"]
			within(t, "segments", got[test.network], want-min(hidden(), want), want)
			same(t, "segments of both kinds", sum(got), got[test.network])
			if got[test.network] == want {
				exact++
			}
			if want < uint64(n) || test.failing != (kernel["TCPRetransFail"] > 0) {
				t.Errorf("%d retransmitted, %d failed: nothing to see", want, kernel["TCPRetransFail"])
			}
		})
	}
	if exact == 0 {
		t.Error("the segments are right in no case")
	}
}

// refuseToSend lets one packet in sixteen that the sockets of a cgroup send fail.
func refuseToSend(t testing.TB, group *kerneltest.Cgroup) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, License: "GPL",
		Instructions: asm.Instructions{
			asm.FnGetPrandomU32.Call(),
			asm.And.Imm(asm.R0, 15),
			asm.JEq.Imm(asm.R0, 0, "exit"),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return().WithSymbol("exit"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	attached, err := link.AttachCgroup(link.CgroupOptions{Path: group.Path, Attach: ebpf.AttachCGroupInetEgress, Program: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { attached.Close() })
}

// TestTCPResets counts resets, which belong to no workload: those of others may come in between, but not every time.
func TestTCPResets(t *testing.T) {
	set := open(t, loadOnly("tcp", LinuxCgroup))
	kernel, err := RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 20
	for range rounds {
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		before := by(t, read(t, set), tcpResets, "network.io.direction", nil)
		refused := random(t, "refused", 1, 40)
		lingering := random(t, "closed at once", 1, 40)
		unread := random(t, "closed with something to read", 1, 40)
		counts := runTCP(t, tcpHelper(t, nil, "tcp-resets", refused, lingering, unread))
		after := by(t, read(t, set), tcpResets, "network.io.direction", nil)

		same(t, "OutRsts", counts["OutRsts"], uint64(refused+lingering+unread))
		sent, received := counts["OutRsts"], counts["OutRsts"]
		if kernel.arguments("tcp_send_reset") < 3 { // those that belong to no socket are not traced
			sent -= uint64(refused)
		}
		// What of them the kernel counts where they arrive: in SYN-SENT, and in ESTABLISHED or CLOSE-WAIT at both ends.
		same(t, "AttemptFails", counts["AttemptFails"], uint64(refused))
		same(t, "EstabResets", counts["EstabResets"], 2*uint64(lingering+unread))
		gotSent, gotReceived := after["transmit"]-before["transmit"], after["receive"]-before["receive"]
		if gotSent < sent || gotReceived < received {
			t.Errorf("%d resets sent, %d received; want %d, %d", gotSent, gotReceived, sent, received)
		}
		if gotSent == sent && gotReceived == received {
			return
		}
		t.Logf("%d resets sent, %d received; want %d, %d, unless others did", gotSent, gotReceived, sent, received)
	}
	t.Errorf("not right in any of %d rounds", rounds)
}

// TestTCPOlder ends connections that are older than the probe, and some that are only older than the gate.
func TestTCPOlder(t *testing.T) {
	group := kerneltest.NewCgroup(t, "")
	older, newer := random(t, "older than the probe", 1, 40), random(t, "older than the gate", 1, 40)
	p := start(t, tcpHelper(t, group, "tcp-older", older))
	set := load(t, loadOnly("tcp", LinuxCgroup))
	q := start(t, tcpHelper(t, group, "tcp-older", newer))
	if err := set.Open(); err != nil {
		t.Fatal(err)
	}
	p.finish(t)
	q.finish(t)
	snapshot := read(t, set)
	for _, role := range []string{"active", "passive"} {
		same(t, role, sum(outcomes(t, snapshot, role, in(group))), 0)
		count, _ := lasted(t, snapshot, role, in(group))
		same(t, role+" that ended", count, uint64(newer))
	}
	unmatched := tcpUnmatched(snapshot)
	if unmatched < uint64(2*older) { // others may have had some, too
		t.Errorf("%d unmatched, want %d", unmatched, 2*older)
	}
	t.Logf("%d unmatched, of %d", unmatched, 2*older)
}

// tcpUnmatched is how many events did not match those before, of the whole machine.
func tcpUnmatched(s *Snapshot) (unmatched uint64) {
	for _, status := range s.Probes {
		for _, missed := range status.Missed {
			if status.Probe == "tcp" && missed.Reason == MissedUnmatched {
				unmatched += missed.Count
			}
		}
	}
	return unmatched
}

// tcpKind is a way to connect to this host.
type tcpKind struct {
	name    string
	family  int
	address func(port int) unix.Sockaddr
	away    unix.Sockaddr // where there is no route to
}

func tcpIPv6(port int, address ...byte) unix.Sockaddr {
	sockaddr := &unix.SockaddrInet6{Port: port}
	copy(sockaddr.Addr[16-len(address):], address)
	return sockaddr
}

var tcpKinds = []tcpKind{
	{"ipv4", unix.AF_INET, func(port int) unix.Sockaddr {
		return &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	}, &unix.SockaddrInet4{Port: 1, Addr: [4]byte{192, 0, 2, 1}}},
	{"ipv6", unix.AF_INET6, func(port int) unix.Sockaddr { return tcpIPv6(port, 1) },
		tcpIPv6(1, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)},
	{"mapped", unix.AF_INET6, func(port int) unix.Sockaddr { return tcpIPv6(port, 0xff, 0xff, 127, 0, 0, 1) },
		tcpIPv6(1, 0xff, 0xff, 192, 0, 2, 1)},
}

func tcpKindOf(name string) tcpKind {
	for _, kind := range tcpKinds {
		if kind.name == name {
			return kind
		}
	}
	panic(name)
}

// must gives up on an error of a helper's.
func must[T any](value T, err error) T {
	if err != nil {
		giveUp(err)
	}
	return value
}

func mustDo(errs ...error) {
	if err := errors.Join(errs...); err != nil {
		giveUp(err)
	}
}

// socket makes a socket. Its resets are its own doing: nothing is left unread.
func (k tcpKind) socket(flags int) int {
	return must(unix.Socket(k.family, unix.SOCK_STREAM|flags, 0))
}

// bound is a socket that has an address.
func (k tcpKind) bound(fd int) unix.Sockaddr {
	mustDo(unix.Bind(fd, k.address(0)))
	return must(unix.Getsockname(fd))
}

func (k tcpKind) listen(fd, backlog int) unix.Sockaddr {
	address := k.bound(fd)
	mustDo(unix.Listen(fd, backlog))
	return address
}

func accept(listener int) int {
	fd, _, err := unix.Accept(listener)
	return must(fd, err)
}

// tcpExpect gives up unless an error is the one that is expected.
func tcpExpect(err error, want unix.Errno) {
	if !errors.Is(err, want) {
		giveUp(fmt.Errorf("%w, want %w", err, want))
	}
}

// tcpLoopback brings up the loopback of a namespace of its own.
func tcpLoopback() {
	fd := must(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0))
	request := must(unix.NewIfreq("lo"))
	request.SetUint16(unix.IFF_UP)
	mustDo(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request), unix.Close(fd))
}

func tcpSysctl(name, value string) {
	mustDo(os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0))
}

// tcpFilter lets a socket receive only what a classic filter says.
func tcpFilter(fd int, filter ...unix.SockFilter) {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	mustDo(unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program))
}

var (
	tcpDropAll = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	// Of a SYN, a bit of the TCP header's flags, the filter lets all through.
	tcpDropAllButSYN = []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 2, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 20},
	}
	tcpDropSome = []unix.SockFilter{ // one in four
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0xfffff000 + 56}, // SKF_AD_OFF + SKF_AD_RANDOM
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 3, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 20},
	}
)

// tcpAwaitClosed waits until no socket of the namespace is anything but closed, in TIME-WAIT or listening. A look may miss one
// that changes.
func tcpAwaitClosed() {
	const enough = 3 // looks that find none
	looks := 0
	// A FIN that nobody hears is repeated after 1, 2, 4 seconds and so on.
	for deadline := time.Now().Add(4 * time.Minute); time.Now().Before(deadline); {
		left := ""
		for _, name := range []string{"tcp", "tcp6"} {
			for line := range strings.Lines(string(must(os.ReadFile("/proc/self/net/" + name)))) {
				if words := strings.Fields(line); words[3] != "st" && words[3] != "06" && words[3] != "0A" {
					left += line
				}
			}
		}
		if looks++; left != "" {
			looks = 0
		}
		if looks == enough {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
	giveUp(errors.New("connections do not end"))
}

// answer tells counts, with those of the kernel.
func (counts tcpCounts) answer() {
	for _, name := range []string{"snmp", "netstat"} {
		// Two lines of each protocol: the names, and the numbers.
		lines := strings.Split(string(must(os.ReadFile("/proc/self/net/"+name))), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, numbers := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			if names[0] != "Tcp:" && names[0] != "TcpExt:" {
				continue
			}
			for j, name := range names[1:] {
				var n int64 // Tcp's MaxConn is -1
				_, err := fmt.Sscan(numbers[j+1], &n)
				mustDo(err)
				counts[name] = uint64(n)
			}
		}
	}
	mustDo(json.NewEncoder(os.Stdout).Encode(counts))
}

// helpTCPConnect makes known numbers of connections, each to its end.
func helpTCPConnect(arguments []string) {
	tcpLoopback()
	k, counts := tcpKindOf(arguments[0]), tcpCounts{}
	opened, refused, timedOut, closed := number(arguments, 1), number(arguments, 2), number(arguments, 3), number(arguments, 4)
	noRoute, noPort := number(arguments, 5), number(arguments, 6)
	listener := k.socket(0)
	address := k.listen(listener, 16)
	if ipv4, ok := address.(*unix.SockaddrInet4); ok {
		counts["port"] = uint64(ipv4.Port)
	}
	connect := func() (a, b int, begun, done time.Time) {
		a = k.socket(0)
		begun = time.Now()
		mustDo(unix.Connect(a, address))
		counts["handshake"] += uint64(time.Since(begun))
		b = accept(listener)
		counts["opened"]++
		return a, b, begun, time.Now()
	}
	for range opened {
		a, b, begun, done := connect()
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		counts["least"] += uint64(time.Since(done))
		if rand.IntN(2) == 0 {
			a, b = b, a
		}
		mustDo(unix.Close(a), unix.Close(b))
		tcpAwaitClosed()
		counts["most"] += uint64(time.Since(begun))
	}

	nobody := k.socket(0)
	nowhere := k.bound(nobody)
	for range refused {
		fd := k.socket(0)
		tcpExpect(unix.Connect(fd, nowhere), unix.ECONNREFUSED)
		mustDo(unix.Close(fd))
	}

	deaf := k.socket(0)
	hole := k.listen(deaf, 16)
	tcpFilter(deaf, tcpDropAll...)
	for range closed {
		fd := k.socket(unix.SOCK_NONBLOCK)
		tcpExpect(unix.Connect(fd, hole), unix.EINPROGRESS)
		mustDo(unix.Close(fd))
	}
	var waiting []unix.PollFd
	for range timedOut {
		fd := k.socket(unix.SOCK_NONBLOCK)
		mustDo(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1))
		tcpExpect(unix.Connect(fd, hole), unix.EINPROGRESS)
		waiting = append(waiting, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT})
	}
	for _, one := range waiting {
		must(unix.Poll([]unix.PollFd{one}, -1))
		tcpExpect(unix.Errno(must(unix.GetsockoptInt(int(one.Fd), unix.SOL_SOCKET, unix.SO_ERROR))), unix.ETIMEDOUT)
		mustDo(unix.Close(int(one.Fd)))
	}

	for range noRoute {
		fd := k.socket(0)
		tcpExpect(unix.Connect(fd, k.away), unix.ENETUNREACH)
		mustDo(unix.Close(fd))
	}

	// All ports to one address are taken, by connections that are open.
	tcpSysctl("ip_local_port_range", "50000 50003")
	listener = k.socket(0)
	mustDo(unix.Bind(listener, k.address(1234)), unix.Listen(listener, 16))
	address = k.address(1234)
	type pair struct {
		a, b  int
		begun time.Time
	}
	var pairs []pair
	for range 4 {
		a, b, begun, _ := connect()
		pairs = append(pairs, pair{a, b, begun})
	}
	for range noPort {
		fd := k.socket(0)
		tcpExpect(unix.Connect(fd, address), unix.EADDRNOTAVAIL)
		mustDo(unix.Close(fd))
	}
	for _, pair := range pairs {
		mustDo(unix.Close(pair.a), unix.Close(pair.b))
	}
	tcpAwaitClosed()
	for _, pair := range pairs {
		counts["most"] += uint64(time.Since(pair.begun))
	}
	counts.answer()
}

// helpTCPSpecial makes connections in the ways that are not usual.
func helpTCPSpecial(arguments []string) {
	tcpLoopback()
	k, counts := tcpKindOf(arguments[0]), tcpCounts{}
	for range number(arguments, 1) { // to itself: both ends are active
		fd := k.socket(0)
		mustDo(unix.Connect(fd, k.bound(fd)), unix.Close(fd))
	}

	listener := k.socket(0)
	address := k.listen(listener, 16)
	for range number(arguments, 2) {
		fd := k.socket(0)
		mustDo(unix.Connect(fd, address))
		first := accept(listener)
		var unspecified [16]byte // struct sockaddr of AF_UNSPEC
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspecified)), uintptr(len(unspecified)))
		if errno != 0 {
			giveUp(errno)
		}
		mustDo(unix.Connect(fd, address))
		mustDo(unix.Close(accept(listener)), unix.Close(first), unix.Close(fd))
	}

	// A queue of two, which nobody accepts from before all have tried.
	small := k.socket(0)
	crowded := k.listen(small, 1)
	var clients []int
	for range number(arguments, 3) {
		fd := k.socket(unix.SOCK_NONBLOCK)
		tcpExpect(unix.Connect(fd, crowded), unix.EINPROGRESS)
		clients = append(clients, fd)
	}
	time.Sleep(10 * time.Millisecond)
	for _, fd := range clients {
		info := must(unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO))
		if info.State == unix.BPF_TCP_ESTABLISHED {
			counts["full"]++
		}
		mustDo(unix.Close(fd))
	}
	mustDo(unix.SetNonblock(small, true))
	for {
		fd, _, err := unix.Accept(small)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		mustDo(err, unix.Close(fd))
		counts["full accepted"]++
	}

	tcpSysctl("tcp_fastopen", fmt.Sprint(0x1|0x2|0x4|0x200)) // clients and servers, without cookies
	fastListener := k.socket(0)
	fast := k.listen(fastListener, 1000)
	mustDo(unix.SetsockoptInt(fastListener, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 1000))
	for range number(arguments, 4) {
		fd := k.socket(0)
		mustDo(unix.Sendto(fd, []byte("hello"), unix.MSG_FASTOPEN, fast))
		peer := accept(fastListener)
		must(unix.Read(peer, make([]byte, 10)))
		mustDo(unix.Close(peer), unix.Close(fd))
	}
	tcpAwaitClosed()
	for range number(arguments, 5) { // it hears no answer
		fd := k.socket(unix.SOCK_NONBLOCK)
		tcpFilter(fd, tcpDropAll...)
		if err := unix.Sendto(fd, []byte("hello"), unix.MSG_FASTOPEN, fast); !errors.Is(err, unix.EINPROGRESS) {
			mustDo(err)
		}
		mustDo(unix.Close(fd))
	}
	mustDo(unix.Close(fastListener))

	const mptcp = 262 // IPPROTO_MPTCP
	if multipath, err := unix.Socket(k.family, unix.SOCK_STREAM, mptcp); err == nil {
		address := k.listen(multipath, 16)
		for range number(arguments, 6) {
			fd := must(unix.Socket(k.family, unix.SOCK_STREAM, mptcp))
			mustDo(unix.Connect(fd, address))
			peer := accept(multipath)
			mustDo(unix.Close(fd), unix.Close(peer))
			counts["multipath"]++
		}
	}
	tcpAwaitClosed()
	counts.answer()
}

// helpTCPPass opens sockets, goes to another cgroup, and uses them there.
func helpTCPPass(arguments []string) {
	tcpLoopback()
	k := tcpKinds[0]
	var sockets []int
	for range number(arguments, 1) + number(arguments, 2) {
		sockets = append(sockets, k.socket(0))
	}
	listener, nobody := k.socket(0), k.socket(0)
	mustDo(os.WriteFile(filepath.Join(arguments[0], "cgroup.procs"), []byte("0"), 0))
	address, nowhere := k.listen(listener, 16), k.bound(nobody)
	for i, fd := range sockets {
		if i >= number(arguments, 1) {
			tcpExpect(unix.Connect(fd, nowhere), unix.ECONNREFUSED)
			mustDo(unix.Close(fd))
			continue
		}
		mustDo(unix.Connect(fd, address))
		mustDo(unix.Close(accept(listener)), unix.Close(fd))
	}
	tcpAwaitClosed()
	tcpCounts{}.answer()
}

// helpTCPStorm connects without waiting from several threads, to a listener whose queue is short; each connection is ended by
// whatever side.
func helpTCPStorm(arguments []string) {
	tcpLoopback()
	tcpSysctl("ip_local_port_range", "10000 60000")
	k, counts := tcpKinds[0], tcpCounts{}
	listener := k.socket(0)
	address := k.listen(listener, 8)
	const threads = 4
	go func() {
		for {
			fd, _, err := unix.Accept(listener)
			if errors.Is(err, unix.EINVAL) { // it listens no more
				return
			}
			mustDo(err, unix.Close(fd))
		}
	}()
	var workers sync.WaitGroup
	var lock sync.Mutex
	for range threads {
		workers.Go(func() {
			var pending []int
			for range number(arguments, 0) {
				fd := k.socket(unix.SOCK_NONBLOCK)
				if rand.IntN(4) == 0 {
					mustDo(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
				}
				switch err := unix.Connect(fd, address); {
				case errors.Is(err, unix.EADDRNOTAVAIL):
					lock.Lock()
					counts["no port"]++
					lock.Unlock()
				case err != nil:
					tcpExpect(err, unix.EINPROGRESS)
				}
				if pending = append(pending, fd); len(pending) == 16 {
					i := rand.IntN(len(pending))
					mustDo(unix.Close(pending[i]))
					pending = append(pending[:i], pending[i+1:]...)
				}
			}
			for _, fd := range pending {
				mustDo(unix.Close(fd))
			}
		})
	}
	workers.Wait()
	mustDo(unix.Shutdown(listener, unix.SHUT_RDWR)) // nothing is on its way any more
	tcpAwaitClosed()
	counts.answer()
}

// tcpPatience bounds what is waited for on a socket: who is out of luck again and again gives up.
func tcpPatience(fd int) {
	const seconds = 5
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		mustDo(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &unix.Timeval{Sec: seconds}))
	}
	mustDo(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, seconds*1000))
}

// tcpEnd closes a socket, at once if there was an error.
func tcpEnd(fd int, err error) {
	if err != nil {
		mustDo(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	}
	mustDo(unix.Close(fd))
}

// helpTCPLossy sends to sockets that do not hear everything.
func helpTCPLossy(arguments []string) {
	tcpLoopback()
	k, counts := tcpKindOf(arguments[0]), tcpCounts{}
	listener := k.socket(0)
	tcpPatience(listener)
	address := k.listen(listener, 16)
	var workers sync.WaitGroup
	for range number(arguments, 1) {
		a := k.socket(0)
		tcpPatience(a)
		if err := unix.Connect(a, address); err != nil {
			tcpEnd(a, err)
			continue
		}
		b, _, err := unix.Accept(listener)
		if err != nil {
			tcpEnd(a, err)
			continue
		}
		tcpPatience(b)
		tcpFilter(b, tcpDropSome...)
		workers.Go(func() {
			var err error
			data := make([]byte, 1<<16)
			for n := 0; n < 16 && err == nil; n++ {
				_, err = unix.Write(a, data)
			}
			tcpEnd(a, err)
		})
		workers.Go(func() {
			var err error
			n, data := 1, make([]byte, 1<<16)
			for n > 0 && err == nil {
				n, err = unix.Read(b, data)
			}
			tcpEnd(b, err)
		})
	}
	workers.Wait()
	tcpAwaitClosed()
	counts.answer()
}

// helpTCPLossySYNACK connects to a listener that does not hear the last ACK of the handshake for a while.
func helpTCPLossySYNACK(arguments []string) {
	tcpLoopback()
	k, counts := tcpKindOf(arguments[0]), tcpCounts{}
	listener := k.socket(0)
	address := k.listen(listener, 16)
	tcpFilter(listener, tcpDropAllButSYN...)
	n := number(arguments, 1)
	var sockets []int
	for range n {
		fd := k.socket(0)
		mustDo(unix.Connect(fd, address))
		sockets = append(sockets, fd)
	}
	time.Sleep(2 * time.Second)
	mustDo(unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0))
	for range n {
		sockets = append(sockets, accept(listener))
	}
	for _, fd := range sockets {
		mustDo(unix.Close(fd))
	}
	tcpAwaitClosed()
	counts.answer()
}

// helpTCPResets makes both ends of known numbers of resets.
func helpTCPResets(arguments []string) {
	tcpLoopback()
	k, counts := tcpKinds[rand.IntN(len(tcpKinds))], tcpCounts{}
	nobody := k.socket(0)
	nowhere := k.bound(nobody)
	for range number(arguments, 0) {
		fd := k.socket(0)
		tcpExpect(unix.Connect(fd, nowhere), unix.ECONNREFUSED)
		mustDo(unix.Close(fd))
	}
	listener := k.socket(0)
	address := k.listen(listener, 16)
	for i := range number(arguments, 1) + number(arguments, 2) {
		a := k.socket(0)
		mustDo(unix.Connect(a, address))
		b := accept(listener)
		if i < number(arguments, 1) {
			mustDo(unix.SetsockoptLinger(a, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
		} else {
			must(unix.Write(b, []byte("hello")))
		}
		mustDo(unix.Close(a), unix.Close(b))
	}
	tcpAwaitClosed()
	counts.answer()
}

// helpTCPOlder has connections, which it ends at the end of its input.
func helpTCPOlder(arguments []string) {
	tcpLoopback()
	k := tcpKinds[0]
	listener := k.socket(0)
	address := k.listen(listener, 16)
	var sockets []int
	for range number(arguments, 0) {
		fd := k.socket(0)
		mustDo(unix.Connect(fd, address))
		sockets = append(sockets, fd, accept(listener))
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1))
	for _, fd := range sockets {
		mustDo(unix.Close(fd))
	}
	tcpAwaitClosed()
}
