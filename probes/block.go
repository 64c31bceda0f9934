package probes

import (
	"bytes"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpf-sidecar/sidecar/bpf"
)

const (
	diskDevice    = "system.device"
	diskDirection = "disk.io.direction"
)

func block() *Spec {
	return &Spec{
		Name:        "block",
		Description: "Operations of disks: how many, how large, how long they took and which failed",
		Default:     true,
		Cost:        Cost{Low, "250 ns an operation of a disk, which took 10.7 us in memory"},
		Since:       [2]uint32{5, 10},
		Limits: "What is counted, and as what, is what /proc/diskstats counts for whole disks: flushes on their own and also as an " +
			"empty write of whoever asked for one, writing zeros as a write, and nothing but flushes of a disk whose " +
			"`queue/iostats` is 0. Where a part of an operation fails, all of it has failed. Device mapper, md, zram and NVMe multipath pass what they are asked to the disks below them, " +
			"which are counted; they have no operations of their own. Before Linux 6.5 a duration ends just before whoever waits is told.",
		Version: "1",
		Load:    bpf.LoadBlock,
		Adapt: func(spec *ebpf.CollectionSpec, env Environment) error {
			// A CPU sets 128 elements of an LRU map aside for itself (kernel/bpf/bpf_lru_list.c).
			spec.Maps["failed"].MaxEntries = max(1024, 128*uint32(env.Kernel.PossibleCPUs))
			if env.Kernel.arguments("block_io_done") == 0 {
				deletePrograms(spec, "block_ended")
			}
			return nil
		},
		Tables: []TableSpec{{
			Name:      "disks",
			MaxShards: 8,
			Global:    true,
			MaxSeries: 512,
			Decode:    decodeDisk,
			Instruments: []Instrument{{
				Name:        "system.disk.io",
				Unit:        "By",
				Description: "Bytes that the disk completed",
				Attributes:  []string{diskDevice, diskDirection},
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.BlockDiskCell{}.Bytes)}},
			}, {
				Name:        "system.disk.operations",
				Unit:        "{operation}",
				Description: "Operations that the disk completed, those that failed included",
				Attributes:  []string{diskDevice, diskDirection},
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.BlockDiskCell{}.Operations)}},
			}},
		}, {
			Name:      "durations",
			MaxShards: 8,
			Global:    true,
			MaxSeries: 512,
			CountedBy: "disks",
			Decode:    decodeDisk,
			Instruments: []Instrument{{
				Name:        "linux.block.operation.duration",
				Unit:        "s",
				Description: "How long operations of the disk took, from the request on, time in queues included",
				Kind:        Histogram,
				Range:       latencyRange,
				Attributes:  []string{diskDevice, diskDirection, ErrorType},
				Values:      []Value{{Offset: unsafe.Offsetof(bpf.BlockDurationCell{}.Duration)}},
			}},
		}},
	}
}

// directions are the names of enum direction in bpf/block.bpf.c, in its order.
var directions = [...]string{"read", "write", "discard", "flush"}

func decodeDisk(k *Kernel, key []byte) Key {
	disk := (*bpf.BlockDiskKey)(unsafe.Pointer(&key[0]))
	name, _, _ := bytes.Cut(unsafe.Slice((*byte)(unsafe.Pointer(&disk.Device[0])), len(disk.Device)), []byte{0})
	attributes := []Attribute{
		{diskDevice, cleanName(name)},
		{diskDirection, directions[disk.Direction]},
	}
	if disk.Error != 0 {
		attributes = append(attributes, Attribute{ErrorType, errnoName(k.blockErrno(disk.Error))})
	}
	return Key{Attributes: attributes}
}

// blockErrnos are the errors of blk_status_t (include/linux/blk_types.h), as blk_status_to_errno maps them.
var blockErrnos = [...]unix.Errno{
	1:  unix.EOPNOTSUPP,
	2:  unix.ETIMEDOUT,
	3:  unix.ENOSPC,
	4:  unix.ENOLINK,
	5:  unix.EREMOTEIO,
	6:  unix.EBADE,
	7:  unix.ENODATA,
	8:  unix.EILSEQ,
	9:  unix.ENOMEM,
	10: unix.EIO,
	11: unix.EREMCHG,
	12: unix.EAGAIN,
	13: unix.EBUSY,
	14: unix.ETOOMANYREFS,
	15: unix.EOVERFLOW,
	16: unix.ENODEV,
	17: unix.ETIME,
	18: unix.EINVAL,
	19: unix.EINVAL, // so until 18, which was not in use, became it
}

// blockErrno is the errno of an error that block_rq_complete told: a negative errno or a blk_status_t.
func (k *Kernel) blockErrno(code int32) unix.Errno {
	if code < 0 {
		return unix.Errno(-code)
	}
	if code >= 14 && !k.atLeast(6, 10) { // 14 was BLK_STS_ZONE_RESOURCE (63b5385e7814), which no operation ends with
		code = max(code-1, 14)
	}
	if int(code) < len(blockErrnos) && blockErrnos[code] != 0 {
		return blockErrnos[code]
	}
	return unix.EIO
}
