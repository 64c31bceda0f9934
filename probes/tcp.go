package probes

import (
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

func tcp() *Spec {
	const (
		connections = "linux.tcp.connections"
		handshakes  = "linux.tcp.handshake.duration"
		durations   = "linux.tcp.connection.duration"
		retransmits = "linux.tcp.retransmits"
		resets      = "linux.tcp.resets"

		role        = "linux.tcp.connection.role"
		networkType = "network.type"
		direction   = "network.io.direction"
	)
	roles := []string{"passive", "active"} // by enum role in bpf/tcp.bpf.c
	return &Spec{
		Name:        "tcp",
		Description: "TCP connections: opened, failed, how long it took and how long they lasted; retransmits and resets",
		Default:     true,
		Cost:        Cost{Low, "1.0 to 1.2 us for both ends of a connection, from connect to close"},
		Since:       [2]uint32{5, 10},
		Needs:       "CONFIG_SOCK_CGROUP_DATA",
		Limits: "A connection that is older than the probe ends without a duration: it is counted as missed, as unmatched; so are " +
			"what some 50,000 that are open at the same time leave no room for. A socket belongs to who opened it, such as a manager of " +
			"services that hands it on, and what it accepts does, too. " +
			"Up to Linux 6.9 resets that belong to no socket, such as the answer to a connection to a closed port, are not traced.",
		Version: "1",
		Load:    bpf.LoadTcp,
		Adapt: func(spec *ebpf.CollectionSpec, env Environment) error {
			if !env.Enabled(connections) && !env.Enabled(handshakes) && !env.Enabled(durations) {
				deletePrograms(spec, "tcp_changed")
				spec.Maps["sockets"].MaxEntries, spec.Maps["displaced"].MaxEntries = 1, 1
			}
			if !env.Enabled(retransmits) {
				deletePrograms(spec, "tcp_retransmitted")
			}
			if !env.Enabled(resets) {
				deletePrograms(spec, "tcp_sent_reset", "tcp_received_reset")
			}
			return nil
		},
		// Its retries do its work. What they were skipped for, too, is unmatched.
		Redundant: []string{"tcp_changed"},
		Tables: []TableSpec{{
			Name:      "connections",
			MaxShards: 8,
			Decode: func(_ *Kernel, key []byte) Key {
				k := (*bpf.TcpConnectionKey)(unsafe.Pointer(&key[0]))
				attributes := []Attribute{{role, roles[k.Role]}}
				if k.Error != 0 {
					attributes = append(attributes, Attribute{ErrorType, connectionError(k.Error)})
				}
				return Key{Workload: k.Cgroup, Attributes: attributes}
			},
			Instruments: []Instrument{{
				Name: connections,
				Unit: "{connection}",
				Description: "TCP connections that the workload's sockets opened (active) or were opened to them (passive), " +
					"or failed: error.type is an errno, not_sent where there was no port, route or memory to send a SYN, " +
					"or _OTHER where the kernel does not say, as for a socket closed while it connects",
				Attributes: []string{role, ErrorType},
				Values:     []Value{{Offset: unsafe.Offsetof(bpf.TcpConnectionCell{}.Connections)}},
			}},
		}, {
			Name:      "handshakes",
			MaxShards: 8,
			Decode:    decodeWorkload,
			CountedBy: "connections",
			Instruments: []Instrument{{
				Name:        handshakes,
				Unit:        "s",
				Description: "How long it took to open active TCP connections, from connect to the answer to the SYN",
				Kind:        Histogram,
				Range:       latencyRange,
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.TcpHandshakeCell{}.Duration)}},
			}},
		}, {
			Name:      "durations",
			MaxShards: 8,
			Decode: func(_ *Kernel, key []byte) Key {
				k := (*bpf.TcpDurationKey)(unsafe.Pointer(&key[0]))
				return Key{Workload: k.Cgroup, Attributes: []Attribute{{role, roles[k.Role]}}}
			},
			Instruments: []Instrument{{
				Name:        durations,
				Unit:        "s",
				Description: "How long TCP connections were open when they ended; the time in TIME-WAIT is not in it",
				Kind:        Histogram,
				Attributes:  []string{role},
				Range:       lifetimeRange,
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.TcpDurationCell{}.Duration)}},
			}},
		}, {
			Name:      "retransmits",
			MaxShards: 1,
			Decode:    decodeWorkload,
			Instruments: []Instrument{{
				Name:        retransmits,
				Unit:        "{segment}",
				Description: "TCP segments sent again, SYN and SYN-ACK included",
				Attributes:  []string{networkType},
				Values: []Value{{
					Offset:     unsafe.Offsetof(bpf.TcpRetransmitCell{}.Ipv4),
					Attributes: []Attribute{{networkType, "ipv4"}},
				}, {
					Offset:     unsafe.Offsetof(bpf.TcpRetransmitCell{}.Ipv6),
					Attributes: []Attribute{{networkType, "ipv6"}},
				}},
			}},
		}, {
			Name:      "resets",
			MaxShards: 1,
			Global:    true,
			MaxSeries: 1,
			Decode:    func(*Kernel, []byte) Key { return Key{} },
			Instruments: []Instrument{{
				Name:        resets,
				Unit:        "{reset}",
				Description: "TCP resets sent, and those received that ended a connection or an attempt to open one",
				Attributes:  []string{direction},
				Values: []Value{{
					Offset:     unsafe.Offsetof(bpf.TcpResetCell{}.Sent),
					Attributes: []Attribute{{direction, "transmit"}},
				}, {
					Offset:     unsafe.Offsetof(bpf.TcpResetCell{}.Received),
					Attributes: []Attribute{{direction, "receive"}},
				}},
			}},
		}},
	}
}

// connectionError is the error.type of an error in a connection_key.
func connectionError(code uint32) string {
	const other, notSent = 0x10000, 0x10001 // ERROR_OTHER, ERROR_NOT_SENT in bpf/tcp.bpf.c
	switch code {
	case other:
		return "_OTHER"
	case notSent:
		return "not_sent"
	}
	return errnoName(unix.Errno(code))
}
