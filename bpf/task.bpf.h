/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* What a probe keeps of a task, for as long as the task is there. */
#pragma once

#include "compat.bpf.h"
#include "kernel.h"
#include <bpf/bpf_helpers.h>

/*
 * TASK_STATE(name, state_type) declares it: in the kernel's task storage, which goes with the task, and where there is none in a
 * hash by the address of the task, which unlike its pid is not used again before sched_process_free. User space leaves out of
 * the collection what the kernel does not need, and makes room for as many tasks as there may be.
 */
#define TASK_STATE(name, state_type)                                                                                   \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_TASK_STORAGE);                                                               \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                  \
		__type(key, int);                                                                                      \
		__type(value, state_type);                                                                             \
	} name SEC(".maps");                                                                                           \
                                                                                                                       \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_HASH);                                                                       \
		__uint(max_entries, 32768);                                                                            \
		__type(key, __u64);                                                                                    \
		__type(value, state_type);                                                                             \
	} name##_by_address SEC(".maps");                                                                              \
                                                                                                                       \
	/* The task's state, made of initial if there is none and create says so. NULL: there is none. */              \
	static __always_inline state_type *name##_get(struct task_struct *task, state_type *initial, bool create)      \
	{                                                                                                              \
		__u64 address = (__u64)task;                                                                           \
		state_type *state;                                                                                     \
                                                                                                                       \
		if (has_task_storage)                                                                                  \
			return bpf_task_storage_get(&name, task, initial, create ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0); \
		state = bpf_map_lookup_elem(&name##_by_address, &address);                                             \
		if (state || !create)                                                                                  \
			return state;                                                                                  \
		bpf_map_update_elem(&name##_by_address, &address, initial, BPF_NOEXIST);                               \
		return bpf_map_lookup_elem(&name##_by_address, &address);                                              \
	}                                                                                                              \
                                                                                                                       \
	SEC("tp_btf/sched_process_free")                                                                               \
	int name##_freed(__u64 *ctx)                                                                                   \
	{                                                                                                              \
		__u64 address = ctx[0];                                                                                \
                                                                                                                       \
		bpf_map_delete_elem(&name##_by_address, &address);                                                     \
		return 0;                                                                                              \
	}
