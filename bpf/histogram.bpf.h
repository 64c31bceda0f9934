/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Exponential histograms over seconds, exact at OpenTelemetry's own boundaries.
 *
 * Bucket i of scale s counts (2^(i/2^s), 2^((i+1)/2^s)] seconds; durations are whole nanoseconds, and 2^(j/8) s is
 * 2^(j/8) * 10^9 ns. A duration v with its leading bit at e is m = v << (63-e); how many of the eight mantissas of
 * 2^(j/8) * 10^9 (j = 1..7, then 0, one octave up) lie below m tells the bucket within the octave.
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>

/* Both ranges begin at 2^-20 s, about a microsecond. The range of each is known to user space too. */
#define HISTOGRAM_MIN (-20)

/* Latencies: scale 3, up to 2^6 s. */
struct latency_histogram {
	__u64 sum; /* ns */
	__u64 zero;
	__u64 buckets[(6 - HISTOGRAM_MIN) << 3];
};

/* Lifetimes: scale 2, up to 2^17 s, a day and a half. */
struct lifetime_histogram {
	__u64 sum; /* ns */
	__u64 zero;
	__u64 buckets[(17 - HISTOGRAM_MIN) << 2];
};

/* 1 if a > b, without a branch; right as long as both have the same top bit, or a - b fits 63 bits. */
static __always_inline __u64 above(__u64 a, __u64 b)
{
	return (b - a) >> 63;
}

/* Where the leading bit of v is; v is over 0 and under 2^63. */
static __always_inline __u64 log2_floor(__u64 v)
{
	__u64 shift, e = 0;

	shift = above(v, 0xffffffff) << 5; v >>= shift; e += shift;
	shift = above(v, 0xffff) << 4; v >>= shift; e += shift;
	shift = above(v, 0xff) << 3; v >>= shift; e += shift;
	shift = above(v, 0xf) << 2; v >>= shift; e += shift;
	shift = above(v, 0x3) << 1; v >>= shift; e += shift;
	return e + above(v, 0x1);
}

/* The index, at scale 3, of a duration in ns over 0 and under 2^63: OpenTelemetry's MapToIndex of ns * 10^-9. */
static __always_inline __s64 histogram_index(__u64 ns)
{
	__u64 e = log2_floor(ns), m = ns << (63 - e);
	__u64 c = above(m, 0x81ffa7a9549ca6e3) + above(m, 0x8dc3b8960164a7d9) + above(m, 0x9a9867054d512391) +
		  above(m, 0xa8965f74bf065071) + above(m, 0xb7d88a12d0dd9ea0) + above(m, 0xc87c3e7d03cdbec3) +
		  above(m, 0xdaa17c2cd19555db) + above(m, 0xee6b280000000000);

	return ((__s64)e - 29) * 8 + (__s64)c - 8;
}

/* The bucket of a duration; what is below or above the range goes to the end buckets. */
static __always_inline __u32 histogram_bucket(__u64 ns, int scale, __u32 buckets)
{
	__s64 bucket = (histogram_index(ns) >> (3 - scale)) - (HISTOGRAM_MIN * (1 << scale));

	if (bucket < 0)
		return 0;
	if (bucket >= buckets)
		return buckets - 1;
	return bucket;
}

#define HISTOGRAM_RECORD(type, scale)                                                                                  \
	static __always_inline __attribute__((unused)) void type##_record(struct type##_histogram *h, __u64 ns)       \
	{                                                                                                              \
		const __u32 buckets = sizeof(h->buckets) / sizeof(h->buckets[0]);                                      \
                                                                                                                       \
		if ((__s64)ns <= 0) {                                                                                  \
			__sync_fetch_and_add(&h->zero, 1);                                                             \
			return;                                                                                        \
		}                                                                                                      \
		__sync_fetch_and_add(&h->sum, ns);                                                                     \
		__sync_fetch_and_add(&h->buckets[histogram_bucket(ns, scale, buckets)], 1);                            \
	}

HISTOGRAM_RECORD(latency, 3)
HISTOGRAM_RECORD(lifetime, 2)
