package probes

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/internal/kerneltest"
)

const packetDrops = "linux.network.packet.drops"

var _ = addHelper("drops", helpDrops)

// dropLoad makes the kernel drop packets, in a network namespace of its own.
type dropLoad struct {
	reason  string
	counter string // the kernel's, in /proc/net; none: there is none
	// begin returns what has one packet dropped.
	begin func() (drop func() error, err error)
}

var dropLoads = []dropLoad{
	{"NO_SOCKET", "Udp NoPorts", dropUDP},
	{"NO_SOCKET", "Tcp OutRsts", dropTCP},
	{"SOCKET_RCVBUFF", "Udp RcvbufErrors", dropFull},
	{"SOCKET_FILTER", "Udp InErrors", dropFiltered},
	{"UDP_CSUM", "Udp InCsumErrors", dropChecksum},
	{"IP_NOPROTO", "Ip InUnknownProtos", dropProtocol},
	{"IP_CSUM", "IpExt InCsumErrors", dropHeader},
	{"UNHANDLED_PROTO", "lo drop", dropFrame},
	{"QDISC_DROP", "", dropQueued}, // the last: nothing gets through any more
}

// dropped is what came of a load.
type dropped struct {
	Reason string
	Count  uint64
}

// helpDrops makes each of the loads drop as many packets as its argument says, and tells how many the kernel counted.
func helpDrops(arguments []string) {
	var all []dropped
	err := dropLoopbackUp()
	for i, load := range dropLoads {
		if err != nil {
			giveUp(err)
		}
		var count uint64
		count, err = load.run(number(arguments, i))
		if err != nil {
			err = fmt.Errorf("%s, %s: %w", load.reason, load.counter, err)
		}
		all = append(all, dropped{load.reason, count})
	}
	if err := errors.Join(err, json.NewEncoder(os.Stdout).Encode(all)); err != nil {
		giveUp(err)
	}
}

func (l dropLoad) run(n int) (uint64, error) {
	before, err := l.counted()
	if err != nil {
		return 0, err
	}
	drop, err := l.begin()
	if err != nil {
		return 0, err
	}
	begun, err := l.counted()
	if err != nil {
		return 0, err
	}
	for range n {
		if err := drop(); err != nil {
			return 0, err
		}
	}
	if l.counter == "" {
		return uint64(n), nil
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) { // it may be left to ksoftirqd
		now, err := l.counted()
		if err != nil {
			return 0, err
		}
		if now-begun >= uint64(n) {
			return now - before, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("the kernel dropped %d packets of %d", now-begun, n)
		}
	}
}

// counted is the kernel's counter, of this network namespace.
func (l dropLoad) counted() (uint64, error) {
	protocol, name, _ := strings.Cut(l.counter, " ")
	switch protocol {
	case "":
		return 0, nil
	case "lo":
		devices, err := os.ReadFile("/proc/self/net/dev")
		if err != nil {
			return 0, err
		}
		var bytes, packets, errs, drop uint64
		_, line, _ := strings.Cut(string(devices), "lo:")
		_, err = fmt.Sscan(line, &bytes, &packets, &errs, &drop)
		return drop, err
	}
	snmp, snmpErr := os.ReadFile("/proc/self/net/snmp")
	netstat, netstatErr := os.ReadFile("/proc/self/net/netstat")
	if err := errors.Join(snmpErr, netstatErr); err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(snmp) + string(netstat)) { // each of two lines: the names and the numbers
		words := strings.Fields(line)
		if words[0] != protocol+":" {
			continue
		}
		if names == nil {
			names = words
			continue
		}
		if i := slices.Index(names, name); i >= 0 {
			return uint64(number(words, i)), nil
		}
	}
	return 0, fmt.Errorf("the kernel has no counter %s", l.counter)
}

func dropLoopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

var (
	dropAddress = [4]byte{127, 0, 0, 1}
	dropNowhere = &unix.SockaddrInet4{Addr: dropAddress, Port: 9}
)

// dropSender is what sends a packet by a new socket.
func dropSender(family, kind, protocol int, packet []byte, to unix.Sockaddr) (func() error, error) {
	fd, err := unix.Socket(family, kind, protocol)
	if err != nil {
		return nil, err
	}
	return func() error { return unix.Sendto(fd, packet, 0, to) }, nil
}

func dropUDP() (func() error, error) {
	return dropSender(unix.AF_INET, unix.SOCK_DGRAM, 0, []byte("to a closed port"), dropNowhere)
}

func dropTCP() (func() error, error) {
	return func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, dropNowhere); !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("connect to a closed port: %w", err)
		}
		return unix.Close(fd)
	}, nil
}

// dropReceiver returns what sends to a UDP socket, which is prepared somehow.
func dropReceiver(prepare func(fd int) error) (func() error, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: dropAddress}), prepare(fd)); err != nil {
		return nil, err
	}
	address, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	return dropSender(unix.AF_INET, unix.SOCK_DGRAM, 0, make([]byte, 1000), address)
}

func dropFull() (func() error, error) {
	send, err := dropReceiver(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) })
	for n := 0; err == nil && n < 50; n++ {
		err = send()
	}
	return send, err
}

func dropFiltered() (func() error, error) {
	return dropReceiver(func(fd int) error {
		none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none})
	})
}

// dropPacket is one from and to this machine.
func dropPacket(protocol byte, payload []byte) []byte {
	header := []byte{
		0x45, 0, 0, byte(20 + len(payload)), 0, 1, 0, 0, 64, protocol, 0, 0, // of version 4, with a time to live of 64
		127, 0, 0, 1, 127, 0, 0, 1,
	}
	return append(header, payload...)
}

func dropChecksum() (func() error, error) {
	datagram := []byte{0, 9, 0, 9, 0, 8, 0xba, 0xd0} // from port 9 to port 9, and 8 bytes long; the checksum is wrong
	return dropSender(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW, dropPacket(unix.IPPROTO_UDP, datagram), dropNowhere)
}

func dropProtocol() (func() error, error) {
	const experimental = 253 // RFC 3692
	return dropSender(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW, dropPacket(experimental, make([]byte, 8)), dropNowhere)
}

func dropHeader() (func() error, error) {
	return dropFrames(unix.ETH_P_IP, dropPacket(unix.IPPROTO_UDP, make([]byte, 8))) // without a checksum
}

func dropFrame() (func() error, error) {
	const experimental = 0x88b5 // IEEE 802
	return dropFrames(experimental, make([]byte, 64))
}

func dropFrames(protocol uint16, packet []byte) (func() error, error) {
	bigEndian := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
	const loopback = 1 // the index in every namespace
	return dropSender(unix.AF_PACKET, unix.SOCK_DGRAM, 0, packet, &unix.SockaddrLinklayer{Protocol: bigEndian, Ifindex: loopback})
}

// dropQueued has the loopback device queue to a black hole.
func dropQueued() (func() error, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var request bytes.Buffer
	for _, part := range []any{
		unix.NlMsghdr{
			Len: 16 + 20 + 16, Type: unix.RTM_NEWQDISC,
			Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_REPLACE,
		},
		struct{ Family, Index, Handle, Parent, Info uint32 }{Index: 1, Parent: 0xffffffff /* TC_H_ROOT */}, // struct tcmsg
		unix.RtAttr{Len: 4 + 10, Type: unix.TCA_KIND},
		[]byte("blackhole\x00\x00\x00"),
	} {
		if err := binary.Write(&request, binary.NativeEndian, part); err != nil {
			return nil, err
		}
	}
	if err := unix.Sendto(fd, request.Bytes(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return nil, err
	}
	if code := -int32(binary.NativeEndian.Uint32(answer[16:n])); code != 0 { // struct nlmsgerr
		return nil, fmt.Errorf("make a queue: %w", unix.Errno(code))
	}
	return dropUDP()
}

// TestDrops has packets dropped for many reasons on all CPUs, and expects as many of each as the kernel counted in the
// network namespaces in which that happened.
func TestDrops(t *testing.T) {
	kerneltest.NeedLinux(t, 6, 1, "a reason for each of the drops")
	set := open(t, loadOnly("drops"))
	want := make(map[any]uint64)
	reasons := func() map[any]uint64 {
		quiesce(t)
		return by(t, read(t, set), packetDrops, "linux.drop.reason", nil)
	}
	before := reasons()
	var helpers []*exec.Cmd
	var outputs []*bytes.Buffer
	for range max(2, len(allowedCPUs(t))) {
		words := []any{"drops"}
		for _, load := range dropLoads {
			words = append(words, random(t, load.reason+" "+load.counter, 10, scaled(5000, 300)))
		}
		command := helper(t, nil, words...)
		command.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
		output := new(bytes.Buffer)
		command.Stdout = output
		helpers, outputs = append(helpers, command), append(outputs, output)
	}
	for i, status := range runAll(t, helpers) {
		if status != 0 {
			t.Fatalf("helper %d: status %#x", i, status)
		}
		var all []dropped
		if err := json.Unmarshal(outputs[i].Bytes(), &all); err != nil {
			t.Fatal(err)
		}
		for _, one := range all {
			want[one.Reason] += one.Count
		}
	}
	got := reasons()
	maps.DeleteFunc(got, func(reason any, n uint64) bool {
		got[reason] -= before[reason]
		return got[reason] == 0
	})
	t.Logf("ours %v, the kernel's %v", got, want)
	for reason, n := range want {
		if !inMatrix && (reason == "NO_SOCKET" || reason == "SOCKET_FILTER") { // others have these too
			within(t, fmt.Sprint(reason), got[reason], n, math.MaxUint64)
			continue
		}
		same(t, fmt.Sprint(reason), got[reason], n)
	}
}

// TestDropReasonNames asks for reasons of the kernel's and of a module's, if there is the module.
func TestDropReasonNames(t *testing.T) {
	kernel, err := RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	_ = exec.Command("modprobe", "openvswitch").Run()
	_, err = os.Stat("/sys/kernel/btf/openvswitch")
	hasModule := err == nil
	for reason, name := range kernel.enum("skb_drop_reason") {
		want := strings.TrimPrefix(strings.TrimPrefix(name, "SKB_"), "DROP_REASON_")
		if got := kernel.dropReason(reason); reason < 1<<16 && got != want {
			t.Errorf("reason %d is %s, want %s", reason, got, want)
		}
	}
	want := map[uint64]string{0xfffe: "0xfffe", 0xfffe0001: "0xfffe0001"}
	for subsystem, name := range kernel.enum("skb_drop_reason_subsys") {
		first := subsystem<<16 + 1
		switch name {
		case "SKB_DROP_REASON_SUBSYS_OPENVSWITCH":
			want[first] = fmt.Sprintf("%#x", first)
			if hasModule {
				want[first] = "OVS_DROP_LAST_ACTION"
			}
		case "SKB_DROP_REASON_SUBSYS_QDISC":
			want[first] = "QDISC_DROP_GENERIC"
		}
	}
	t.Logf("want %v", want)
	for reason, name := range want {
		if got := kernel.dropReason(reason); got != name {
			t.Errorf("reason %#x is %s, want %s", reason, got, name)
		}
	}
}
