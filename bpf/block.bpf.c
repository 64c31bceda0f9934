//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Block devices: what they completed, how large it was, how long it took and whether it failed.
 *
 * What is counted, and as what, is what the kernel counts in /proc/diskstats (block/blk-mq.c and block/blk-flush.c): bytes
 * where parts of a request are completed (blk_account_io_completion), operations and durations where all of it is
 * (blk_account_io_done), flushes where the device has flushed (blk_account_io_flush).
 */
#include "compat.bpf.h"
#include "histogram.bpf.h"
#include "preemption.bpf.h"
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define DISK_NAME_LEN 32 /* include/linux/blkdev.h */

/* include/linux/blk_types.h; these values never changed. */
#define REQ_OP_MASK 0xff
#define REQ_OP_FLUSH 2
#define REQ_OP_DISCARD 3
#define REQ_OP_PASSTHROUGH 32 /* and above: commands of the driver's own */

struct gendisk {
	char disk_name[DISK_NAME_LEN];
} KERNEL_TYPE;

struct request_queue {
	struct gendisk *disk;
} KERNEL_TYPE;

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int rq_flags;
	unsigned int __data_len;
	void *bio;
	void *part;
	__u64 start_time_ns;
} KERNEL_TYPE;

struct request___before_5_17 {
	struct gendisk *rq_disk;
} KERNEL_TYPE;

/* Gone from struct request in 5.17 (f3fa33acca9f), and by then in struct request_queue. */
static __always_inline struct gendisk *request_disk(struct request *rq)
{
	struct request___before_5_17 *old = (struct request___before_5_17 *)rq;

	if (bpf_core_field_exists(old->rq_disk))
		return old->rq_disk;
	return rq->q->disk;
}

/* Macros before 6.11, then an enumeration without a name, by which CO-RE cannot find it. */
enum rqf_flags {
	__RQF_FLUSH_SEQ,
	__RQF_IO_STAT,
};

#define request_flag(name, from_6_11, before)                                                                          \
	(bpf_core_enum_value_exists(enum rqf_flags, name) ? 1U << bpf_core_enum_value(enum rqf_flags, name)            \
	 : kernel_version >= KERNEL_VERSION(6, 11, 0)	  ? 1U << (from_6_11)                                          \
							  : 1U << (before))

#define RQF_FLUSH_SEQ request_flag(__RQF_FLUSH_SEQ, 1, 4) /* a flush, or a request that waits for one */
#define RQF_IO_STAT request_flag(__RQF_IO_STAT, 8, 13)	  /* with a part, the kernel counts it; start_time_ns is set */

/* The columns of /proc/diskstats, and their order in the kernel's enum stat_group. */
enum direction {
	DIRECTION_READ,
	DIRECTION_WRITE,
	DIRECTION_DISCARD,
	DIRECTION_FLUSH,
};

/* The kernel's op_stat_group(): whatever else changes the device, such as writing zeros, is a write. */
static __always_inline enum direction direction_of(__u32 op)
{
	if (op == REQ_OP_DISCARD)
		return DIRECTION_DISCARD;
	return op & 1 ? DIRECTION_WRITE : DIRECTION_READ;
}

/* A key holds the disk's name and not its number, which another disk may get when it is gone. */
struct disk_key {
	char device[DISK_NAME_LEN];
	__u32 direction;
	__s32 error; /* a blk_status_t, or a negative errno; 0 where it is not asked about */
};

/* The key of a disk whose name fits, as read: what the kernel has left behind the name's end may be in it. */
struct short_disk_key {
	__u32 device[4];
	__u32 direction;
	__s32 error;
};

struct disk_cell {
	__u64 operations;
	__u64 bytes;
};

struct duration_cell {
	struct latency_histogram duration;
};

SERIES_BY_KEY(disks, struct disk_key, struct disk_cell)
SERIES_BY_KEY(durations, struct disk_key, struct duration_cell)

/* Of the disks, in the program that counts bytes, and in the one that counts operations where that is another. */
SLOT_CACHE(transfers, struct short_disk_key)
SLOT_CACHE(operations, struct short_disk_key)
SLOT_CACHE(durations, struct short_disk_key)

const volatile bool disks_enabled = true;
const volatile bool durations_enabled = true;

static __always_inline struct short_disk_key short_key(struct request *rq, enum direction direction)
{
	const __u32 *name = (const __u32 *)request_disk(rq)->disk_name;
	struct short_disk_key key = {.direction = direction};

	for (int i = 0; i < 4; i++)
		key.device[i] = name[i];
	return key;
}

/* Whether the NUL is in the short key, too. */
static __always_inline bool is_short(const struct short_disk_key *key)
{
	return !(key->device[3] >> 24);
}

static __always_inline struct disk_key long_key(struct request *rq, const struct short_disk_key *key)
{
	struct disk_key all = {.direction = key->direction, .error = key->error};

	bpf_probe_read_kernel_str(all.device, sizeof(all.device), request_disk(rq)->disk_name);
	return all;
}

/* Defines cache_find(), which returns a table's slot, from the cache if it may. */
#define SLOT_BY_DISK(cache, table)                                                                                     \
	static __always_inline __u32 cache##_find(struct request *rq, const struct short_disk_key *key, bool may)      \
	{                                                                                                              \
		__u32 epoch = policy.epoch, slot;                                                                      \
		struct disk_key all;                                                                                   \
                                                                                                                       \
		may = may && has_recursion_guard && is_short(key);                                                     \
		slot = may ? cache##_recall(key, epoch) : SERIES_OVERFLOW;                                             \
		if (slot != SERIES_OVERFLOW)                                                                           \
			return slot;                                                                                   \
		all = long_key(rq, key);                                                                               \
		slot = table##_slot(&all);                                                                             \
		if (may)                                                                                               \
			cache##_remember(key, slot, epoch);                                                            \
		return slot;                                                                                           \
	}

SLOT_BY_DISK(transfers, disks)
SLOT_BY_DISK(operations, disks)
SLOT_BY_DISK(durations, durations)

struct failed_request {
	__u64 address;
	__u64 start_time; /* not all come to an end, and all addresses are used again */
};

/* The requests of which a part has failed, until they end: what ends them does not tell. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct failed_request);
	__type(value, __s32);
} failed SEC(".maps");

__u64 failing; /* how many are in it, or more */

static __always_inline void remember_error(struct request *rq, __s32 error)
{
	struct failed_request key = {(__u64)rq, rq->start_time_ns};
	int err = bpf_map_update_elem(&failed, &key, &error, BPF_NOEXIST); /* not long: see SERIES */

	if (!err)
		add(&failing, 1);
	else if (err != -EEXIST)
		miss(MISSED_UPDATE);
}

/* How the first part of the request that failed did; 0 if none has. */
static __always_inline __s32 take_error(struct request *rq)
{
	struct failed_request key = {(__u64)rq, rq->start_time_ns};
	__s32 *error, first;

	if (!failing)
		return 0;
	error = bpf_map_lookup_elem(&failed, &key);
	if (!error)
		return 0;
	first = *error;
	bpf_map_delete_elem(&failed, &key);
	add(&failing, -1);
	return first;
}

/* Counts an operation that has ended. For the one program that ends them, and for what ends in the other. */
static __always_inline void count_end(struct request *rq, struct short_disk_key key, __s32 error, bool may)
{
	__u64 duration = bpf_ktime_get_ns() - rq->start_time_ns;

	if (disks_enabled) {
		struct disk_cell *cell = disks_cell(operations_find(rq, &key, may));

		if (cell)
			add(&cell->operations, 1);
	}
	if (durations_enabled) {
		struct duration_cell *cell;

		key.error = error;
		cell = durations_cell(durations_find(rq, &key, may));
		if (cell)
			latency_record(&cell->duration, duration);
	}
}

/* From 6.5 (5a80bd075f3b) block_io_done tells when the kernel counts an operation, right after it took the time. */
const volatile __u32 arguments_block_io_done = 1;

/*
 * Before, that is when the last of a request's bytes are completed. What has no bio any more was counted: its driver completes
 * the bytes first and then the request, as drivers/md/dm-rq.c does. Unless it never had one.
 */
static __always_inline bool is_last(struct request *rq, __u32 op, __u32 bytes)
{
	return rq->bio ? bytes >= rq->__data_len : op == REQ_OP_FLUSH || op >= REQ_OP_PASSTHROUGH;
}

/*
 * The arguments are (struct request *rq, error, unsigned int nr_bytes); the error is an errno, from 5.16 a blk_status_t. It fires
 * whenever bytes of a request are completed, before the request says so, and for flushes.
 */
FOR_EACH_EVENT("block_rq_complete", block_completed)
{
	struct request *rq = (struct request *)ctx[0];
	__u32 bytes = (__u32)ctx[2], op = rq->cmd_flags & REQ_OP_MASK, flags = rq->rq_flags;
	__s32 error = (__s32)ctx[1];
	struct short_disk_key key;

	if (!policy.open)
		return;
	if ((flags & RQF_FLUSH_SEQ) && op == REQ_OP_FLUSH) {
		count_end(rq, short_key(rq, DIRECTION_FLUSH), error, false);
		return;
	}
	if (!(flags & RQF_IO_STAT) || !rq->part)
		return;
	if (error)
		remember_error(rq, error);
	key = short_key(rq, direction_of(op));
	if (disks_enabled && rq->bio) {
		struct disk_cell *cell = disks_cell(transfers_find(rq, &key, first));

		if (cell)
			add(&cell->bytes, bytes);
	}
	if (!arguments_block_io_done && !(flags & RQF_FLUSH_SEQ) && is_last(rq, op, bytes))
		count_end(rq, key, take_error(rq), first);
}

/* Its argument is (struct request *rq), of which all bytes are completed. */
FOR_EACH_EVENT("block_io_done", block_ended)
{
	struct request *rq = (struct request *)ctx[0];
	__u32 flags = rq->rq_flags;

	if (!policy.open || !(flags & RQF_IO_STAT) || (flags & RQF_FLUSH_SEQ) || !rq->part)
		return;
	count_end(rq, short_key(rq, direction_of(rq->cmd_flags & REQ_OP_MASK)), take_error(rq), first);
}
