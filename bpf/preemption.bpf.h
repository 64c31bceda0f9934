/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Events that are not lost to preemption.
 *
 * From 7.0 a tracepoint can be preempted, and the kernel skips a program that is half way on its CPU, whoever's event comes.
 * So there what must not be lost has three programs at its tracepoint, called one after the other: the next handles what
 * those before it were skipped for. In a storm of forks on two emulated CPUs, where programs take longest, the kernel skipped
 * the first for one event in 40, the first two for one in 3,600, and all three for one in 36,000. How many were handled late, NAME_recovered, is what the kernel's count of the
 * first's misses is too high by. What runs with interrupts off, as sched_switch does, needs none of this.
 */
#pragma once

#include "compat.bpf.h"
#include "kernel.h"
#include <bpf/bpf_helpers.h>

/* Events that were handled, from the program that did to the last. */
struct handled_event {
	__u64 object; /* what the event is about: no other event of the tracepoint is about it at the same time */
	__u64 tracepoint;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct handled_event);
	__type(value, __u8);
} handled SEC(".maps");

/*
 * Marks an event as handled. False: with BPF_NOEXIST, it was before. A mark that the last program was skipped for stays until the
 * next such event.
 */
static __always_inline bool handle(__u64 object, __u64 tracepoint, __u64 flags)
{
	struct handled_event event = {object, tracepoint};
	__u8 one = 1;
	int err = bpf_map_update_elem(&handled, &event, &one, flags); /* not long: see SERIES */

	return err != -EEXIST;
}

static __always_inline bool handle_last(__u64 object, __u64 tracepoint)
{
	struct handled_event event = {object, tracepoint};

	return bpf_map_delete_elem(&handled, &event);
}

/*
 * Defines the programs NAME, NAME_retry1 and NAME_retry2 for a tracepoint whose first argument is what the event is about, such
 * as a task or a socket; the body handles the event. It is told whether the program is the first, which alone may use a SLOT_CACHE.
 */
#define FOR_EACH_EVENT(tracepoint, name) FOR_EACH_EVENT_OF(tracepoint, name, ctx[0])

/* The same where the event is about something else, which may be an expression with ctx. */
#define FOR_EACH_EVENT_OF(tracepoint, name, object)                                                                    \
	enum { name##_tracepoint = __COUNTER__ };                                                                      \
                                                                                                                       \
	__u64 name##_recovered;                                                                                        \
                                                                                                                       \
	static __always_inline void name##_event(__u64 *ctx, bool first);                                              \
                                                                                                                       \
	SEC("tp_btf/" tracepoint)                                                                                      \
	int name(__u64 *ctx)                                                                                           \
	{                                                                                                              \
		if (has_preemptible_tracepoints)                                                                       \
			handle(object, name##_tracepoint, BPF_ANY);                                                    \
		name##_event(ctx, true);                                                                               \
		return 0;                                                                                              \
	}                                                                                                              \
                                                                                                                       \
	SEC("tp_btf/" tracepoint)                                                                                      \
	int name##_retry1(__u64 *ctx)                                                                                  \
	{                                                                                                              \
		if (handle(object, name##_tracepoint, BPF_NOEXIST)) {                                                  \
			__sync_fetch_and_add(&name##_recovered, 1);                                                    \
			name##_event(ctx, false);                                                                      \
		}                                                                                                      \
		return 0;                                                                                              \
	}                                                                                                              \
                                                                                                                       \
	SEC("tp_btf/" tracepoint)                                                                                      \
	int name##_retry2(__u64 *ctx)                                                                                  \
	{                                                                                                              \
		if (handle_last(object, name##_tracepoint)) {                                                          \
			__sync_fetch_and_add(&name##_recovered, 1);                                                    \
			name##_event(ctx, false);                                                                      \
		}                                                                                                      \
		return 0;                                                                                              \
	}                                                                                                              \
                                                                                                                       \
	static __always_inline void name##_event(__u64 *ctx, bool first)
