package probes

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf/btf"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

func drops() *Spec {
	const dropReason = "linux.drop.reason"
	return &Spec{
		Name:        "drops",
		Description: "Packets that the kernel dropped, and why",
		Default:     true,
		Cost:        Cost{Low, "16 ns a packet dropped"},
		Since:       [2]uint32{5, 17},
		Limits: "What a network device or its XDP program drops was never a packet to the kernel, and is not seen. The kernel frees " +
			"some packets that have done their work as if it dropped them, most of them as `NOT_SPECIFIED`. From Linux 7.0 on " +
			"a packet that a process drops can hide others on its CPU, which `sidecar.probe.missed` tells.",
		Version: "1",
		Load:    bpf.LoadDrops,
		Tables: []TableSpec{{
			Name:      "drops",
			MaxShards: 8,
			Global:    true,
			MaxSeries: 256,
			Decode: func(k *Kernel, key []byte) Key {
				return Key{Attributes: []Attribute{{dropReason, k.dropReason(binary.NativeEndian.Uint64(key))}}}
			},
			Instruments: []Instrument{{
				Name:        "linux.network.packet.drops",
				Unit:        "{packet}",
				Description: "Packets that the kernel dropped, by the names that it has for why",
				Attributes:  []string{dropReason},
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.DropsDropCell{}.Packets)}},
			}},
		}},
	}
}

// dropReason is the name of why a packet was dropped, as the kernel prints it: what it has no name for is a number. The upper
// half tells whose reason it is (include/net/dropreason.h).
func (k *Kernel) dropReason(reason uint64) string {
	names := k.enum("skb_drop_reason")
	if subsystem := reason >> 16; subsystem != 0 {
		names = k.subsystemDropReasons(subsystem)
	}
	if name := names[reason]; name != "" {
		return strings.TrimPrefix(strings.TrimPrefix(name, "SKB_"), "DROP_REASON_")
	}
	return fmt.Sprintf("%#x", reason)
}

// subsystemDropReasons are those of a part of the kernel that has its own. It is a module as a rule, whose name begins that
// of the subsystem: mac80211 has those of SKB_DROP_REASON_SUBSYS_MAC80211_UNUSABLE.
func (k *Kernel) subsystemDropReasons(subsystem uint64) map[uint64]string {
	name := strings.TrimPrefix(k.enum("skb_drop_reason_subsys")[subsystem], "SKB_DROP_REASON_SUBSYS_")
	module, _, _ := strings.Cut(strings.ToLower(name), "_")
	enumName := module + "_drop_reason"
	if module == "openvswitch" {
		enumName = "ovs_drop_reason"
	}
	types, err := k.types.Module(module)
	if err != nil {
		return k.enum(enumName) // it is built in
	}
	var enum *btf.Enum
	if err := types.TypeByName(enumName, &enum); err != nil {
		return nil
	}
	return enumNames(enum)
}
