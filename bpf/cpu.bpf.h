/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* What a probe keeps of a CPU. */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>

/*
 * CPU_STATE(name, state_type) declares it, zero at first; name_here() is this CPU's. User space makes room for all possible CPUs,
 * of which no two share a cache line.
 */
#define CPU_STATE(name, state_type)                                                                                    \
	struct name##_of_cpu {                                                                                         \
		state_type state;                                                                                      \
		char apart[128];                                                                                       \
	};                                                                                                             \
                                                                                                                       \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(max_entries, 1);                                                                                \
		__type(key, __u32);                                                                                    \
		__type(value, struct name##_of_cpu);                                                                   \
	} name##_by_cpu SEC(".maps");                                                                                  \
                                                                                                                       \
	static __always_inline state_type *name##_here(void)                                                           \
	{                                                                                                              \
		__u32 cpu = bpf_get_smp_processor_id();                                                                \
                                                                                                                       \
		return bpf_map_lookup_elem(&name##_by_cpu, &cpu); /* it begins with the state */                       \
	}
