//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* Packets that the kernel dropped, and why. */
#include "compat.bpf.h"
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct drop_cell {
	__u64 packets;
};

CACHED_SERIES_BY_KEY(drops, __u64, struct drop_cell)

/*
 * The arguments are (struct sk_buff *skb, void *location, enum skb_drop_reason reason), the reason from 5.17 (c504e5c2f964).
 * A packet that has done its work passes consume_skb instead.
 *
 * FOR_EACH_EVENT would miss nothing from 7.0 on either, but takes 520 ns where this takes 24, on packets that may be dropped by
 * the million. Most are where nothing preempts, in softirqs; of those that processes drop, the kernel skipped 2 % when they
 * did little else on two emulated CPUs, none of 6.7 million on 6.18.
 */
SEC("tp_btf/kfree_skb")
int packet_dropped(__u64 *ctx)
{
	__u64 reason = (__u32)ctx[2];
	struct drop_cell *cell;

	if (!policy.open)
		return 0;
	cell = drops_cell(drops_cached_slot(&reason, has_recursion_guard));
	if (cell)
		add(&cell->packets, 1);
	return 0;
}
