// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* What histogram.bpf.h makes of values that user space passes in; see histogram_test.go. One value a run. */
#include "../histogram.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define BATCH 4096

__u64 values[BATCH]; /* ns */
__s64 indexes[BATCH];
__u32 count, next; /* of the values */

struct latency_histogram latency;
struct lifetime_histogram lifetime;

SEC("socket")
int record_next(void *ctx)
{
	__u32 i = next;
	__u64 ns;

	if (i >= count || i >= BATCH)
		return 0;
	next = i + 1;
	ns = values[i];
	if ((__s64)ns > 0)
		indexes[i] = histogram_index(ns);
	latency_record(&latency, ns);
	lifetime_record(&lifetime, ns);
	return 0;
}
