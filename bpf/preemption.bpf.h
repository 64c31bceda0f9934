/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Events that are not lost to preemption.
 *
 * From 7.0 a tracepoint can be preempted, and the kernel skips a program that is half way on its CPU, whoever's event comes.
 * So there what must not be lost has two programs at its tracepoint, called one after the other: the second handles what the
 * first was skipped for. Its count of those, NAME_recovered, is what the kernel's count of the first's misses is too high by.
 * What runs with interrupts off, as sched_switch does, needs none of this.
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>

const volatile bool has_preemptible_tracepoints = true;

/* Tasks, by pid, whose event the first program has taken and the second has not seen yet. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, int);
	__type(value, __u8);
} taken SEC(".maps");

/* Defines the programs NAME and NAME_again for a tracepoint whose first argument is a task; the body handles the event. */
#define FOR_EACH_EVENT(tracepoint, name)                                                                               \
	__u64 name##_recovered;                                                                                        \
                                                                                                                       \
	static __always_inline void name##_event(__u64 *ctx);                                                          \
                                                                                                                       \
	SEC("tp_btf/" tracepoint)                                                                                      \
	int name(__u64 *ctx)                                                                                           \
	{                                                                                                              \
		int pid = ((struct task_struct *)ctx[0])->pid;                                                         \
		__u8 one = 1;                                                                                          \
                                                                                                                       \
		if (!has_preemptible_tracepoints || !bpf_map_update_elem(&taken, &pid, &one, BPF_ANY))                 \
			name##_event(ctx);                                                                             \
		return 0;                                                                                              \
	}                                                                                                              \
                                                                                                                       \
	SEC("tp_btf/" tracepoint)                                                                                      \
	int name##_again(__u64 *ctx)                                                                                   \
	{                                                                                                              \
		int pid = ((struct task_struct *)ctx[0])->pid;                                                         \
                                                                                                                       \
		if (bpf_map_delete_elem(&taken, &pid)) {                                                               \
			__sync_fetch_and_add(&name##_recovered, 1);                                                    \
			name##_event(ctx);                                                                             \
		}                                                                                                      \
		return 0;                                                                                              \
	}                                                                                                              \
                                                                                                                       \
	static __always_inline void name##_event(__u64 *ctx)
