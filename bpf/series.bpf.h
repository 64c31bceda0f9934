/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Series: key -> slot -> cells, the one mechanism by which every probe counts.
 *
 * SERIES(name, key, cell) declares four maps and the functions over them:
 *
 *	name_keys	hash: attribute key -> slot
 *	name_free	queue of the free slots; user space fills it
 *	name_info	array by slot: when the series was created, and its key
 *	name_cells	array by shard and slot: the values
 *
 * User space maps the arrays into its memory and reads them without system calls. Slot 0 is the overflow series: it takes
 * every event that has no slot of its own, so that no total is ever short. Cells lie shard by shard, so that CPUs of
 * different shards share no cache line. Nothing here needs more than a plain atomic add (fetching ones came with 5.12).
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>

enum { SERIES_OVERFLOW = 0 };

/* Policy is what user space writes and every program obeys; one map, shared by all collections. */
struct policy {
	__u32 open;  /* the gate: nothing is counted before it is 1 */
	__u32 epoch; /* changes when series are retired: what a program cached before is stale */
};

volatile struct policy policy SEC(".data.policy");

/* Events that could not be handled as they should, by reason; the order is known to user space. */
enum missed_reason {
	MISSED_UPDATE,
	MISSED_STORAGE,
	MISSED_UNMATCHED,
	MISSED_REASONS,
};

__u64 missed[MISSED_REASONS];

static __always_inline void miss(enum missed_reason reason)
{
	__sync_fetch_and_add(&missed[reason], 1);
}

static __always_inline void add(__u64 *value, __u64 n)
{
	__sync_fetch_and_add(value, n);
}

/*
 * The helpers over maps return long, but before 6.4 (d7ba4cc900bf) the verifier puts calls of functions that return int in
 * their place, and the upper half of the register may be anything: keep their errors in an int to compare them.
 */
#define SERIES(name, key_type, cell_type)                                                                              \
	struct name##_info {                                                                                           \
		__u64 created; /* ns, CLOCK_MONOTONIC */                                                               \
		__u64 live;    /* 1 from the moment that the key is in name_keys */                                    \
		__u64 start;   /* wall time, ns; user space's note for whoever comes after it */                       \
		key_type key;                                                                                          \
	};                                                                                                             \
                                                                                                                       \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_HASH);                                                                       \
		__uint(max_entries, 1);                                                                                \
		__type(key, key_type);                                                                                 \
		__type(value, __u32);                                                                                  \
	} name##_keys SEC(".maps");                                                                                    \
                                                                                                                       \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_QUEUE);                                                                      \
		__uint(max_entries, 1);                                                                                \
		__type(value, __u32);                                                                                  \
	} name##_free SEC(".maps");                                                                                    \
                                                                                                                       \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(map_flags, BPF_F_MMAPABLE);                                                                     \
		__uint(max_entries, 1);                                                                                \
		__type(key, __u32);                                                                                    \
		__type(value, struct name##_info);                                                                     \
	} name##_info SEC(".maps");                                                                                    \
                                                                                                                       \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(map_flags, BPF_F_MMAPABLE);                                                                     \
		__uint(max_entries, 1);                                                                                \
		__type(key, __u32);                                                                                    \
		__type(value, cell_type);                                                                              \
	} name##_cells SEC(".maps");                                                                                   \
                                                                                                                       \
	const volatile __u32 name##_slots = 1;                                                                         \
	const volatile __u32 name##_shards = 1; /* a power of two */                                                   \
	__u32 name##_full;			/* no slot was free; user space clears it */                           \
                                                                                                                       \
	/* The slot's cell in this CPU's shard. Never NULL for a slot that the functions below return. */              \
	static __always_inline __attribute__((unused)) cell_type *name##_cell(__u32 slot)                              \
	{                                                                                                              \
		__u32 index = (bpf_get_smp_processor_id() & (name##_shards - 1)) * name##_slots + slot;                \
                                                                                                                       \
		return bpf_map_lookup_elem(&name##_cells, &index);                                                     \
	}                                                                                                              \
                                                                                                                       \
	/* Claims a free slot, SERIES_OVERFLOW if there is none. It must be published or given back. */                \
	static __always_inline __u32 name##_claim(void)                                                                \
	{                                                                                                              \
		__u32 slot;                                                                                            \
		int err;                                                                                               \
                                                                                                                       \
		if (name##_full)                                                                                       \
			return SERIES_OVERFLOW;                                                                        \
		err = bpf_map_pop_elem(&name##_free, &slot);                                                           \
		if (!err)                                                                                              \
			return slot;                                                                                   \
		if (err == -ENOENT)                                                                                    \
			name##_full = 1;                                                                               \
		else                                                                                                   \
			miss(MISSED_UPDATE);                                                                           \
		return SERIES_OVERFLOW;                                                                                \
	}                                                                                                              \
                                                                                                                       \
	/* Makes a claimed slot the key's. Whoever loses a race for the key gives the slot back. */                    \
	static __always_inline __u32 name##_publish(key_type *key, __u32 slot)                                         \
	{                                                                                                              \
		struct name##_info *info = bpf_map_lookup_elem(&name##_info, &slot);                                   \
		__u32 *winner;                                                                                         \
		int err;                                                                                               \
                                                                                                                       \
		if (!info)                                                                                             \
			return SERIES_OVERFLOW;                                                                        \
		info->created = bpf_ktime_get_ns();                                                                    \
		__builtin_memcpy(&info->key, key, sizeof(*key));                                                       \
		err = bpf_map_update_elem(&name##_keys, key, &slot, BPF_NOEXIST);                                      \
		if (!err) {                                                                                            \
			info->live = 1;                                                                                \
			return slot;                                                                                   \
		}                                                                                                      \
		if (bpf_map_push_elem(&name##_free, &slot, BPF_ANY))                                                   \
			miss(MISSED_UPDATE);                                                                           \
		winner = bpf_map_lookup_elem(&name##_keys, key);                                                       \
		if (winner)                                                                                            \
			return *winner;                                                                                \
		if (err != -EEXIST)                                                                                    \
			miss(MISSED_UPDATE);                                                                           \
		return SERIES_OVERFLOW;                                                                                \
	}

/* Of a key's words. */
static __always_inline __u64 key_hash(const __u64 *key, int words)
{
	__u64 sum = 0;

	for (int i = 0; i < words; i++)
		sum += key[i];
	return sum * 0x9e3779b97f4a7c15; /* 2^64 by the golden ratio: neighbours are far apart in the upper bits */
}

static __always_inline bool key_equal(const __u64 *a, const __u64 *b, int words)
{
	__u64 difference = 0;

	for (int i = 0; i < words; i++)
		difference |= a[i] ^ b[i];
	return !difference;
}

/*
 * SLOT_CACHE(name, key) remembers the slots of the keys that each CPU met lately, direct-mapped. A look-up reads a cache
 * line or two instead of a hash's several, and hashes less. Where all are cold, as between two forks, that takes 140 ns less,
 * and 370 for the long key of an execution (6.18).
 *
 * Only one program may use a cache, so that no entry is ever torn: where a program can be interrupted by its own event, the
 * kernel skips it on that CPU (from 6.1, 05b24ff9b2cf; before, nothing interrupts those that use one). A key of the overflow
 * slot is looked up again, since there may be room by then.
 */
#define CACHED_SLOTS_BITS 6

#define SLOT_CACHE(name, key_type)                                                                                     \
	struct name##_cached {                                                                                         \
		key_type key;                                                                                          \
		__u32 slot;                                                                                            \
		__u32 epoch;                                                                                           \
	};                                                                                                             \
                                                                                                                       \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(max_entries, 1 << CACHED_SLOTS_BITS); /* user space multiplies it by the possible CPUs */       \
		__type(key, __u32);                                                                                    \
		__type(value, struct name##_cached);                                                                   \
	} name##_cache SEC(".maps");                                                                                   \
                                                                                                                       \
	static __always_inline struct name##_cached *name##_cached(const key_type *key)                                \
	{                                                                                                              \
		__u64 hash = key_hash((const __u64 *)key, sizeof(*key) / 8);                                           \
		__u32 index = bpf_get_smp_processor_id() << CACHED_SLOTS_BITS | hash >> (64 - CACHED_SLOTS_BITS);      \
                                                                                                                       \
		return bpf_map_lookup_elem(&name##_cache, &index);                                                     \
	}                                                                                                              \
                                                                                                                       \
	/* The key's slot, or SERIES_OVERFLOW if it is not remembered in this epoch. */                                \
	static __always_inline __u32 name##_recall(const key_type *key, __u32 epoch)                                   \
	{                                                                                                              \
		struct name##_cached *cached = name##_cached(key);                                                     \
                                                                                                                       \
		if (cached && cached->epoch == epoch &&                                                                \
		    key_equal((const __u64 *)&cached->key, (const __u64 *)key, sizeof(*key) / 8))                      \
			return cached->slot;                                                                           \
		return SERIES_OVERFLOW;                                                                                \
	}                                                                                                              \
                                                                                                                       \
	/* The epoch is the policy's from before the slot was looked up. */                                            \
	static __always_inline void name##_remember(const key_type *key, __u32 slot, __u32 epoch)                      \
	{                                                                                                              \
		struct name##_cached *cached = name##_cached(key);                                                     \
                                                                                                                       \
		if (!cached)                                                                                           \
			return;                                                                                        \
		cached->key = *key;                                                                                    \
		cached->slot = slot;                                                                                   \
		cached->epoch = epoch;                                                                                 \
	}

/* SERIES_BY_KEY is SERIES whose keys hold no workload. name_slot() returns the key's slot and creates the series at its first event. */
#define SERIES_BY_KEY(name, key_type, cell_type)                                                                       \
	SERIES(name, key_type, cell_type)                                                                              \
                                                                                                                       \
	static __noinline __u32 name##_create(key_type *key)                                                           \
	{                                                                                                              \
		__u32 slot = name##_claim();                                                                           \
                                                                                                                       \
		return slot == SERIES_OVERFLOW ? SERIES_OVERFLOW : name##_publish(key, slot);                          \
	}                                                                                                              \
                                                                                                                       \
	static __always_inline __attribute__((unused)) __u32 name##_slot(key_type *key)                                \
	{                                                                                                              \
		__u32 *slot = bpf_map_lookup_elem(&name##_keys, key);                                                  \
                                                                                                                       \
		return slot ? *slot : name##_create(key);                                                              \
	}

/* CACHED_SERIES_BY_KEY is the same with a SLOT_CACHE; name_cached_slot() is name_slot() for the one program that may use it. */
#define CACHED_SERIES_BY_KEY(name, key_type, cell_type)                                                                \
	SERIES_BY_KEY(name, key_type, cell_type)                                                                       \
	SLOT_CACHE(name, key_type)                                                                                     \
                                                                                                                       \
	static __always_inline __u32 name##_cached_slot(key_type *key, bool may)                                       \
	{                                                                                                              \
		__u32 epoch = policy.epoch, slot = may ? name##_recall(key, epoch) : SERIES_OVERFLOW;                  \
                                                                                                                       \
		if (slot != SERIES_OVERFLOW)                                                                           \
			return slot;                                                                                   \
		slot = name##_slot(key);                                                                               \
		if (may)                                                                                               \
			name##_remember(key, slot, epoch);                                                             \
		return slot;                                                                                           \
	}
