/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What differs between kernels, each difference once. Where CO-RE cannot tell, the loader does, from the kernel's BTF:
 * programs read an argument only behind the constant that says it is there, so that the verifier never meets the read.
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* sched_switch got prev_state in 5.18 (fa2c3254d7cf). */
const volatile bool has_prev_state = true;

/* The state that the switched-out task had when the scheduler decided. Before 5.18 a wake-up may have changed it since. */
static __always_inline unsigned long switch_prev_state(__u64 *ctx, struct task_struct *prev)
{
	if (has_prev_state)
		return (unsigned int)ctx[3];
	if (bpf_core_field_exists(prev->__state)) /* renamed in 5.14 (2f064a59a11f) */
		return prev->__state;
	return ((struct task_struct___before_5_14 *)prev)->state;
}

/* sched_process_exit got group_dead in 6.18. */
const volatile bool has_group_dead = true;

struct process_id {
	int tgid;
	int padding;
	__u64 start_time;
};

/* Processes whose last thread was seen, for as long as two of its threads may race. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct process_id);
	__type(value, __u8);
} exited SEC(".maps");

/*
 * Whether this is the exit of a process: of the last of its threads. Two threads that exit at the same time can both find
 * signal->live at 0, so the first to say so counts.
 */
static __always_inline bool exit_group_dead(__u64 *ctx, struct task_struct *task)
{
	struct process_id id = {};
	__u8 one = 1;
	int err; /* not long: see SERIES */

	if (has_group_dead)
		return (bool)ctx[1];
	if (task->signal->live.counter)
		return false;
	id.tgid = task->tgid;
	id.start_time = task->group_leader->start_time;
	err = bpf_map_update_elem(&exited, &id, &one, BPF_NOEXIST);
	return err != -EEXIST;
}

/* Tracing programs have task storage from 5.12 (a10787e6d58c). */
const volatile bool has_task_storage = true;

/* From 6.4 it allocates without locks of its own (6ae9d5e99e1d): before, it must not be created in sched_switch. */
const volatile bool has_task_storage_anywhere = true;
