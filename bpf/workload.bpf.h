/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Workloads: which cgroup an event belongs to, and that cgroup's name.
 *
 * A cgroup is learned when its first series is created, from the task that causes the event: so the name is known however
 * short the cgroup lives, and cgroups that never do anything cost nothing. Each entry holds its own name and its parent's
 * id; user space joins them to a path. The names are the kernel's own, so that a container's private cgroup namespace
 * hides nothing.
 *
 * Ids are those of the default (v2) hierarchy, never used again in the life of a kernel.
 */
#pragma once

#include "series.bpf.h"
#include <bpf/bpf_core_read.h>

#define CGROUP_NAME 256	 /* NAME_MAX and a NUL */
#define CGROUP_DEPTH 64	 /* ancestors learned at once */

struct cgroup_entry {
	__u64 parent;  /* id; 0: this is the root */
	__u64 removed; /* ns, CLOCK_MONOTONIC; 0: it is there */
	char name[CGROUP_NAME];
};

SERIES(cgroups, __u64, struct cgroup_entry)

const volatile bool by_workload = true;

static __always_inline struct cgroup *task_cgroup(struct task_struct *task)
{
	return task->cgroups->dfl_cgrp;
}

/* The key of the workload that the cgroup belongs to: its id, or 0 if series are not told apart by workload. */
static __always_inline __u64 workload_id(struct cgroup *cgroup)
{
	return by_workload ? cgroup->kn->id : 0;
}

/*
 * The three functions below are global, so that the verifier looks at each once, and not at every call and at every turn of
 * a loop: those were most of the time that loading takes. Hence their arguments are numbers, addresses too.
 */

static __always_inline bool cgroup_online(struct cgroup *cgroup)
{
	return BPF_CORE_READ(cgroup, self.flags) & CSS_ONLINE;
}

/* Publishes the cgroup at the address. 0: there is no room. */
__noinline int cgroup_learn(__u64 address, __u64 id, __u64 parent)
{
	struct cgroup *cgroup = (struct cgroup *)address;
	__u32 slot = cgroups_claim(), published;
	struct cgroup_entry *entry;

	if (slot == SERIES_OVERFLOW)
		return 0;
	entry = bpf_map_lookup_elem(&cgroups_cells, &slot);
	if (!entry)
		return 0;
	entry->parent = parent;
	entry->removed = 0;
	bpf_probe_read_kernel_str(entry->name, sizeof(entry->name), BPF_CORE_READ(cgroup, kn, name));
	published = cgroups_publish(&id, slot);
	/*
	 * Its removal may have come between the first look and the publication, and found nothing to mark. If another CPU
	 * has published it, the entry is no longer ours, and theirs to mark.
	 */
	if (published == slot && !cgroup_online(cgroup))
		entry->removed = bpf_ktime_get_ns();
	return published != SERIES_OVERFLOW;
}

/* What cgroup_learned() returns, else the address of the cgroup above. */
#define LEARNED_ROOT 1

/*
 * Learns the cgroup at the address. 0: it was removed, or there is no room. That a cgroup is known does not say that those
 * above it are: there may have been no room for them.
 */
__noinline __u64 cgroup_learned(__u64 address)
{
	struct cgroup *cgroup = (struct cgroup *)address;
	__u64 id = BPF_CORE_READ(cgroup, kn, id);
	struct cgroup_subsys_state *parent = BPF_CORE_READ(cgroup, self.parent);

	if (!cgroup_online(cgroup))
		return 0;
	if (!bpf_map_lookup_elem(&cgroups_keys, &id) && !cgroup_learn(address, id, BPF_CORE_READ(parent, cgroup, kn, id)))
		return 0;
	return parent ? (__u64)BPF_CORE_READ(parent, cgroup) : LEARNED_ROOT;
}

/* Learns the cgroup at the address and those above it. 0: not so; the event is the overflow series'. */
__noinline int workload_learn(__u64 address)
{
	for (int depth = 0; depth < CGROUP_DEPTH && address > LEARNED_ROOT; depth++)
		address = cgroup_learned(address);
	return address != 0;
}

/* Whether series can be the cgroup's: it is known, or nobody asks. */
static __always_inline bool workload_known(struct cgroup *cgroup)
{
	__u64 address;

	/* What is read from memory is a number to the verifier. */
	bpf_probe_read_kernel(&address, sizeof(address), &cgroup);
	return !by_workload || workload_learn(address);
}

/*
 * SERIES_BY_WORKLOAD is SERIES whose keys hold a workload_id(). name_slot() returns the key's slot and creates the series
 * at its first event.
 */
#define SERIES_BY_WORKLOAD(name, key_type, cell_type)                                                                  \
	SERIES(name, key_type, cell_type)                                                                              \
                                                                                                                       \
	static __noinline __u32 name##_create(key_type *key, struct cgroup *cgroup)                                    \
	{                                                                                                              \
		__u32 slot;                                                                                            \
                                                                                                                       \
		if (!workload_known(cgroup))                                                                           \
			return SERIES_OVERFLOW;                                                                        \
		slot = name##_claim();                                                                                 \
		return slot == SERIES_OVERFLOW ? SERIES_OVERFLOW : name##_publish(key, slot);                          \
	}                                                                                                              \
                                                                                                                       \
	static __always_inline __u32 name##_slot(key_type *key, struct cgroup *cgroup)                                 \
	{                                                                                                              \
		__u32 *slot = bpf_map_lookup_elem(&name##_keys, key);                                                  \
                                                                                                                       \
		return slot ? *slot : name##_create(key, cgroup);                                                      \
	}

/*
 * CACHED_SERIES_BY_WORKLOAD is the same with a SLOT_CACHE. name_cached_slot() is name_slot() for the one program that may
 * use the cache; others say that they may not.
 */
#define CACHED_SERIES_BY_WORKLOAD(name, key_type, cell_type)                                                           \
	SERIES_BY_WORKLOAD(name, key_type, cell_type)                                                                  \
	SLOT_CACHE(name, key_type)                                                                                     \
                                                                                                                       \
	static __always_inline __u32 name##_cached_slot(key_type *key, struct cgroup *cgroup, bool may)                \
	{                                                                                                              \
		__u32 epoch = policy.epoch, slot = may ? name##_recall(key, epoch) : SERIES_OVERFLOW;                  \
                                                                                                                       \
		if (slot != SERIES_OVERFLOW)                                                                           \
			return slot;                                                                                   \
		slot = name##_slot(key, cgroup);                                                                       \
		if (may)                                                                                               \
			name##_remember(key, slot, epoch);                                                             \
		return slot;                                                                                           \
	}
