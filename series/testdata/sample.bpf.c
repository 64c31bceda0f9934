// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* One table of series, events by a number that user space passes in; see table_test.go. */
#include "../../bpf/series.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define MAX_KEYS 256

struct sample_key {
	__u32 high, low; /* of the number */
};

struct sample_cell {
	__u64 events;
	__u64 sum;
};

SERIES(samples, struct sample_key, struct sample_cell)
SLOT_CACHE(samples, struct sample_key)

__u64 lookups_failed; /* how often a number had no series yet */

struct request {
	__u64 first; /* the first of the numbers to count */
	__u64 count; /* how many, in order, up to MAX_KEYS */
	__u64 value; /* of each event */
};

static __always_inline __u32 slot_of(struct sample_key *key)
{
	__u32 *known = bpf_map_lookup_elem(&samples_keys, key);
	__u32 slot;

	if (known)
		return *known;
	add(&lookups_failed, 1);
	slot = samples_claim();
	return slot == SERIES_OVERFLOW ? SERIES_OVERFLOW : samples_publish(key, slot);
}

static __always_inline __u32 cached_slot_of(struct sample_key *key)
{
	__u32 epoch = policy.epoch, slot = samples_recall(key, epoch);

	if (slot == SERIES_OVERFLOW) {
		slot = slot_of(key);
		samples_remember(key, slot, epoch);
	}
	return slot;
}

static __always_inline int count_all(struct __sk_buff *skb, bool cached)
{
	struct request request;

	if (bpf_skb_load_bytes(skb, 0, &request, sizeof(request)))
		return 1;
	for (__u64 i = 0; i < MAX_KEYS && i < request.count; i++) {
		__u64 number = request.first + i;
		struct sample_key key = {.high = number >> 32, .low = number};
		struct sample_cell *cell = samples_cell(cached ? cached_slot_of(&key) : slot_of(&key));

		if (!cell)
			return 1;
		add(&cell->events, 1);
		add(&cell->sum, request.value);
	}
	return 0;
}

SEC("socket")
int count(struct __sk_buff *skb)
{
	return count_all(skb, false);
}

/* Not to be run by two at a time: a run of a test may be preempted, and is not skipped. */
SEC("socket")
int count_cached(struct __sk_buff *skb)
{
	return count_all(skb, true);
}

/* A run that lasts: for Quiesce to wait for. */
__u32 slow_thread;
__u64 slow_ns, slow_begun, slow_ended;

/* Global functions are verified once, not once an iteration. */
__noinline int slow_inner(__u64 until)
{
	for (int i = 0; i < 1000; i++)
		if (bpf_ktime_get_ns() >= until)
			return 1;
	return 0;
}

__noinline int slow_middle(__u64 until)
{
	for (int i = 0; i < 1000; i++)
		if (slow_inner(until))
			return 1;
	return 0;
}

/* Fires when a thread names itself, in that thread. */
SEC("tp_btf/task_rename")
int slow(__u64 *ctx)
{
	__u64 until = bpf_ktime_get_ns() + slow_ns;

	if ((__u32)bpf_get_current_pid_tgid() != slow_thread)
		return 0;
	add(&slow_begun, 1);
	for (int i = 0; i < 1000; i++)
		if (slow_middle(until))
			break;
	add(&slow_ended, 1);
	return 0;
}
