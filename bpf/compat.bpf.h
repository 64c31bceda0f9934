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

/* Tracing programs have task storage from 5.12 (a10787e6d58c). */
const volatile bool has_task_storage = true;

/* From 6.4 it allocates without locks of its own (6ae9d5e99e1d): before, it must not be created in sched_switch. */
const volatile bool has_task_storage_anywhere = true;
