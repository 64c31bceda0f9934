//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* The scheduler: context switches, who preempts whom, and how long tasks waited for a CPU. */
#include "cpu.bpf.h"
#include "histogram.bpf.h"
#include "task.bpf.h"
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile bool run_queue_enabled = true;
const volatile bool context_switches_enabled = true;
const volatile bool preemptions_enabled = true;

struct schedule_cell {
	__u64 voluntary;
	__u64 involuntary;
	struct latency_histogram wait;
};

CACHED_SERIES_BY_WORKLOAD(schedules, __u64, struct schedule_cell)

struct preemption_key {
	__u64 victim;  /* cgroups */
	__u64 culprit;
};

struct preemption_cell {
	__u64 preemptions;
};

SERIES_BY_KEY(preemptions, struct preemption_key, struct preemption_cell)

/* For scheduler_switched alone. */
static __always_inline struct schedule_cell *schedule_cell(struct task_struct *task)
{
	struct cgroup *cgroup = task_cgroup(task);
	__u64 key = workload_id(cgroup);

	return schedules_cell(schedules_cached_slot(&key, cgroup, true));
}

/*
 * A task's sched_info.run_delay when it last began to run. The kernel adds to run_delay when a task begins to run and when
 * it is moved to another CPU's queue while it waits, so a wait is the growth since, plus what is not yet added.
 */
struct task_state {
	__u64 run_delay; /* ns */
};

TASK_STATE(scheduler_task, struct task_state)

static __always_inline struct task_state *task_state(struct task_struct *task)
{
	/* Of a task that never ran, all of it is of its first wait. */
	struct task_state state = {.run_delay = task->sched_info.pcount ? task->sched_info.run_delay : 0};

	return scheduler_task_get(task, &state, has_task_storage_anywhere);
}

static __always_inline void task_state_create(struct task_struct *task)
{
	struct task_state state = {.run_delay = task->sched_info.run_delay};

	if (!scheduler_task_get(task, &state, true))
		miss(MISSED_STORAGE);
}

/* Not behind the gate: what is created before it opens must be known when it does. */
SEC("tp_btf/task_newtask")
int scheduler_task_created(__u64 *ctx)
{
	task_state_create((struct task_struct *)ctx[0]);
	return 0;
}

/* Tasks that are older than the programs. Run once, after they are attached. It may miss some; see task_state(). */
SEC("iter/task")
int scheduler_task_found(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (task)
		task_state_create(task);
	return 0;
}

struct task_struct___switches {
	unsigned long nvcsw;
} KERNEL_TYPE;

/* The task that has the CPU, and how often it gave one up before, by its own will. */
struct running {
	__u64 task; /* its address; 0 up to the first switch */
	__u64 voluntary;
};

CPU_STATE(running, struct running)

/*
 * Whether a task had to give up the CPU, as the kernel has just counted it (kernel/sched/core.c, __schedule). Of prev_state that
 * cannot be told: a signal may make it 0 after the count (8feb053d5319, 6.16), and before 5.18 a wake-up may. Kept while the gate is
 * closed, too.
 */
static __always_inline bool was_preempted(__u64 *ctx, struct task_struct *prev, struct task_struct *next)
{
	__u64 voluntary = ((struct task_struct___switches *)prev)->nvcsw;
	struct running *running = running_here();
	bool preempted = ctx[0] || !prev->pid; /* of the first on its CPU */

	if (!running)
		return preempted;
	if (running->task == (__u64)prev)
		preempted = running->voluntary == voluntary;
	running->task = (__u64)next;
	running->voluntary = ((struct task_struct___switches *)next)->nvcsw;
	return preempted;
}

static __noinline __u32 preemption_create(struct preemption_key *key, struct cgroup *victim, struct cgroup *culprit)
{
	return workload_known(victim) && workload_known(culprit) ? preemptions_create(key) : SERIES_OVERFLOW;
}

static __always_inline void count_preemption(struct task_struct *prev, struct task_struct *next)
{
	struct cgroup *victim = task_cgroup(prev), *culprit = task_cgroup(next);
	struct preemption_key key = {workload_id(victim), workload_id(culprit)};
	__u32 *slot = bpf_map_lookup_elem(&preemptions_keys, &key);
	struct preemption_cell *cell = preemptions_cell(slot ? *slot : preemption_create(&key, victim, culprit));

	if (cell)
		add(&cell->preemptions, 1);
}

static __always_inline void count_switch(__u64 *ctx, struct task_struct *prev, struct task_struct *next)
{
	bool preempted = was_preempted(ctx, prev, next);

	if (!policy.open)
		return;
	if (context_switches_enabled) {
		struct schedule_cell *cell = schedule_cell(prev);

		if (cell)
			add(preempted ? &cell->involuntary : &cell->voluntary, 1);
	}
	if (preemptions_enabled && preempted && prev->pid && next->pid) /* nobody takes the CPU from the idle task, nor does it */
		count_preemption(prev, next);
}

/*
 * What sched_info_arrive() is about to add for the next task, as in /proc/PID/schedstat. The task's state is kept while the
 * gate is closed too, so that the first wait behind it is not longer than it was.
 */
static __always_inline void record_wait(struct task_struct *next)
{
	__u64 queued = next->sched_info.last_queued, before, total;
	struct schedule_cell *cell;
	struct task_state *state;

	if (!queued) /* it did not wait, or it is the idle task */
		return;
	state = task_state(next);
	if (!state) {
		if (policy.open) /* before, it may not have been created yet */
			miss(MISSED_STORAGE);
		return;
	}
	before = state->run_delay;
	total = next->sched_info.run_delay + next->se.cfs_rq->rq->clock - queued;
	state->run_delay = total;
	if (!policy.open)
		return;
	cell = schedule_cell(next);
	if (cell)
		latency_record(&cell->wait, total - before);
}

SEC("tp_btf/sched_switch")
int scheduler_switched(__u64 *ctx)
{
	if (context_switches_enabled || preemptions_enabled)
		count_switch(ctx, (struct task_struct *)ctx[1], (struct task_struct *)ctx[2]);
	if (run_queue_enabled)
		record_wait((struct task_struct *)ctx[2]);
	return 0;
}
