//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* Memory: what the kernel killed for want of it, and how long tasks had to free some before they got theirs. */
#include "compat.bpf.h"
#include "cpu.bpf.h"
#include "histogram.bpf.h"
#include "preemption.bpf.h"
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define EXECUTABLE_NAME 256 /* NAME_MAX and a NUL */
#define SIGKILL 9
#define SEND_SIG_PRIV 1 /* in place of an address: from the kernel (include/linux/sched/signal.h) */

const volatile bool by_executable = true;

struct oom_kill_key {
	__u64 cgroup;
	char executable[EXECUTABLE_NAME];
};

struct oom_kill_cell {
	__u64 kills;
};

enum reclaim_type {
	RECLAIM_DIRECT,
	RECLAIM_MEMCG,
};

struct reclaim_key {
	__u64 cgroup;
	__u32 type;
	__u32 padding;
};

struct reclaim_cell {
	struct latency_histogram duration;
};

SERIES_BY_WORKLOAD(oom_kills, struct oom_kill_key, struct oom_kill_cell)
CACHED_SERIES_BY_WORKLOAD(reclaims, struct reclaim_key, struct reclaim_cell)

const volatile bool oom_kills_enabled = true;
const volatile bool reclaims_enabled = true;

/*
 * The kernel counts a kill, sends SIGKILL to the victim, and marks it (mm/oom_kill.c, __oom_kill_process), all on one CPU under
 * the lock of the victim. It also marks victims that it need not kill, since they are dying already. So a kill is a mark
 * that follows such a signal: the last one that was sent on this CPU. Of the members of a memory.oom.group it kills the first
 * again, while some of its threads are there; what has been marked before has signal->oom_mm.
 */
struct signal_struct___memory {
	void *oom_mm;
} KERNEL_TYPE;

struct oom_signal {
	__u64 sender; /* address; 0: none */
	__u64 target; /* address */
	__u32 pid;    /* of the target */
	__u32 padding;
};

CPU_STATE(oom_signal, struct oom_signal)

SEC("tp_btf/signal_generate")
int oom_victim_signalled(__u64 *ctx)
{
	struct task_struct *target = (struct task_struct *)ctx[2];
	struct oom_signal *last;

	if ((int)ctx[0] != SIGKILL || ctx[1] != SEND_SIG_PRIV || !oom_kills_enabled)
		return 0;
	last = oom_signal_here();
	if (last && !((struct signal_struct___memory *)target->signal)->oom_mm) {
		last->sender = bpf_get_current_task();
		last->target = ctx[2];
		last->pid = target->pid;
	}
	return 0;
}

/* mark_victim passes a pid; from 6.8, and in some stable kernels, the task and its user (72ba14deb40a). */
const volatile __u32 arguments_mark_victim = 2;

SEC("tp_btf/mark_victim")
int oom_victim_marked(__u64 *ctx)
{
	__u32 pid = arguments_mark_victim == 1 ? (__u32)ctx[0] : ((struct task_struct *)ctx[0])->pid;
	struct oom_signal *last = oom_signal_here();
	struct oom_kill_key key = {};
	struct task_struct *victim;
	struct oom_kill_cell *cell;
	struct cgroup *cgroup;

	if (!last || last->sender != bpf_get_current_task() || last->pid != pid)
		return 0;
	last->sender = 0;
	if (!policy.open)
		return 0;
	victim = (struct task_struct *)last->target; /* a number to the verifier */
	cgroup = BPF_CORE_READ(victim, cgroups, dfl_cgrp);
	if (by_workload)
		key.cgroup = BPF_CORE_READ(cgroup, kn, id);
	if (by_executable)
		bpf_probe_read_kernel_str(key.executable, sizeof(key.executable),
					  BPF_CORE_READ(victim, mm, exe_file, f_path.dentry, d_name.name));
	cell = oom_kills_cell(oom_kills_slot(&key, cgroup));
	if (cell)
		add(&cell->kills, 1);
	return 0;
}

/*
 * The tasks that are freeing memory, and when they began; none does so twice at a time (mm/vmscan.c, set_task_reclaim_state).
 * Each has a place by its address, or if another has it, one in the map below; if two find it free at the same instant, the
 * end of one is unmatched. Not in the storage of the tasks: to make that would take memory, just then.
 */
struct reclaiming {
	__u64 task;  /* address; 0: none */
	__u64 begun; /* ns */
};

#define RECLAIMING_BITS 10

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << RECLAIMING_BITS);
	__type(key, __u32);
	__type(value, struct reclaiming);
} reclaiming SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} reclaiming_besides SEC(".maps");

static __always_inline struct reclaiming *reclaiming_place(__u64 task)
{
	__u32 index = key_hash(&task, 1) >> (64 - RECLAIMING_BITS);

	return bpf_map_lookup_elem(&reclaiming, &index);
}

/* When the task began, which is then forgotten; 0: it was not seen to. */
static __always_inline __u64 reclaiming_since(__u64 task)
{
	struct reclaiming *place = reclaiming_place(task);
	__u64 *begun, since;

	if (place && place->task == task) {
		since = place->begun;
		place->task = 0;
		return since;
	}
	begun = bpf_map_lookup_elem(&reclaiming_besides, &task);
	if (!begun)
		return 0;
	since = *begun;
	bpf_map_delete_elem(&reclaiming_besides, &task);
	return since;
}

/* From 5.11 (3ca1032ab7ab) the verifier knows that it is a task; before, it is a number to it. */
#define has_current_task (kernel_version >= KERNEL_VERSION(5, 11, 0))

static __always_inline struct cgroup *current_cgroup(void)
{
	if (has_current_task)
		return task_cgroup((struct task_struct *)bpf_get_current_task_btf());
	return BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), cgroups, dfl_cgrp);
}

static __always_inline __u64 current_workload_id(struct cgroup *cgroup)
{
	if (has_current_task)
		return workload_id(cgroup);
	return by_workload ? BPF_CORE_READ(cgroup, kn, id) : 0;
}

/* Not behind the gate: what begins before it opens may end behind it. */
static __always_inline void reclaim_begun(void)
{
	__u64 task = bpf_get_current_task(), now = bpf_ktime_get_ns();
	struct reclaiming *place = reclaiming_place(task);

	if (!place || !reclaims_enabled)
		return;
	if (!place->task || place->task == task) {
		place->begun = now;
		place->task = task;
	} else if (bpf_map_update_elem(&reclaiming_besides, &task, &now, BPF_ANY)) {
		miss(MISSED_UPDATE);
	}
}

/* may says whether the program may use the SLOT_CACHE. */
static __always_inline void reclaim_ended(enum reclaim_type type, bool may)
{
	struct reclaim_key key = {.type = type};
	struct reclaim_cell *cell;
	struct cgroup *cgroup;
	__u64 begun, duration;

	if (!reclaims_enabled)
		return;
	begun = reclaiming_since(bpf_get_current_task());
	duration = bpf_ktime_get_ns() - begun;
	if (!policy.open)
		return;
	if (!begun) {
		miss(MISSED_UNMATCHED);
		return;
	}
	cgroup = current_cgroup();
	key.cgroup = current_workload_id(cgroup);
	cell = reclaims_cell(reclaims_cached_slot(&key, cgroup, may));
	if (cell)
		latency_record(&cell->duration, duration);
}

FOR_EACH_EVENT_OF("mm_vmscan_direct_reclaim_begin", direct_reclaim_begun, bpf_get_current_task())
{
	reclaim_begun();
}

FOR_EACH_EVENT_OF("mm_vmscan_direct_reclaim_end", direct_reclaim_ended, bpf_get_current_task())
{
	reclaim_ended(RECLAIM_DIRECT, false);
}

FOR_EACH_EVENT_OF("mm_vmscan_memcg_reclaim_begin", memcg_reclaim_begun, bpf_get_current_task())
{
	reclaim_begun();
}

FOR_EACH_EVENT_OF("mm_vmscan_memcg_reclaim_end", memcg_reclaim_ended, bpf_get_current_task())
{
	reclaim_ended(RECLAIM_MEMCG, first);
}
