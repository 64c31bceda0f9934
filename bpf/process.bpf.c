//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* Processes: created, executed, exited, and how long they lived. */
#include "compat.bpf.h"
#include "histogram.bpf.h"
#include "preemption.bpf.h"
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define EXECUTABLE_NAME 256 /* NAME_MAX and a NUL */

const volatile bool by_executable = true;

struct creation_cell {
	__u64 processes;
	__u64 threads;
};

struct execution_key {
	__u64 cgroup;
	char executable[EXECUTABLE_NAME];
};

/* The key of most executables, all of whose name fits. It is how an execution_key begins. */
struct short_execution_key {
	__u64 cgroup;
	char executable[40];
};

struct execution_cell {
	__u64 executions;
};

struct exit_key {
	__u64 cgroup;
	__u32 status; /* as wait(2) gives it, without the core-dump bit */
	__u32 padding;
};

struct exit_cell {
	__u64 exits;
};

struct lifetime_cell {
	struct lifetime_histogram lifetime;
};

CACHED_SERIES_BY_WORKLOAD(creations, __u64, struct creation_cell)
SERIES_BY_WORKLOAD(executions, struct execution_key, struct execution_cell)
SLOT_CACHE(executions, struct short_execution_key)
CACHED_SERIES_BY_WORKLOAD(exits, struct exit_key, struct exit_cell)
CACHED_SERIES_BY_WORKLOAD(lifetimes, __u64, struct lifetime_cell)

const volatile bool creations_enabled = true;
const volatile bool executions_enabled = true;
const volatile bool exits_enabled = true;
const volatile bool lifetimes_enabled = true;

/* Fires right after total_forks++, the kernel workers that sched_process_fork misses included. */
FOR_EACH_EVENT("task_newtask", process_created)
{
	__u64 clone_flags = ctx[1], key;
	struct creation_cell *cell;
	struct cgroup *cgroup;

	if (!policy.open || !creations_enabled)
		return;
	cgroup = task_cgroup((struct task_struct *)ctx[0]);
	key = workload_id(cgroup);
	cell = creations_cell(creations_cached_slot(&key, cgroup, first));
	if (cell)
		add(clone_flags & CLONE_THREAD ? &cell->threads : &cell->processes, 1);
}

/* Fires for executions that succeeded. The executable is the file that is mapped: for a script, its interpreter. */
FOR_EACH_EVENT("sched_process_exec", process_executed)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct execution_key key = {};
	struct short_execution_key *short_key = (struct short_execution_key *)&key;
	__u32 epoch = policy.epoch, slot = SERIES_OVERFLOW;
	struct execution_cell *cell;
	struct cgroup *cgroup;
	int size = 0; /* not long: see SERIES */

	if (!policy.open || !executions_enabled)
		return;
	cgroup = task_cgroup(task);
	key.cgroup = workload_id(cgroup);
	if (by_executable)
		size = bpf_probe_read_kernel_str(key.executable, sizeof(key.executable),
						 task->mm->exe_file->f_path.dentry->d_name.name);
	first = first && size <= (int)sizeof(short_key->executable);
	if (first)
		slot = executions_recall(short_key, epoch);
	if (slot == SERIES_OVERFLOW) {
		slot = executions_slot(&key, cgroup);
		if (first)
			executions_remember(short_key, slot, epoch);
	}
	cell = executions_cell(slot);
	if (cell)
		add(&cell->executions, 1);
}

/* sched_process_exit got group_dead in 6.18. */
const volatile __u32 arguments_sched_process_exit = 2;

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

	if (arguments_sched_process_exit >= 2)
		return (bool)ctx[1];
	if (task->signal->live.counter)
		return false;
	id.tgid = task->tgid;
	id.start_time = task->group_leader->start_time;
	err = bpf_map_update_elem(&exited, &id, &one, BPF_NOEXIST);
	return err != -EEXIST;
}

/* The status that wait(2) gives (kernel/exit.c, wait_task_zombie). */
static __always_inline __u32 wait_status(struct task_struct *task)
{
	struct signal_struct *signal = task->signal;

	if (signal->flags & SIGNAL_GROUP_EXIT)
		return signal->group_exit_code;
	return task->group_leader->exit_code;
}

FOR_EACH_EVENT("sched_process_exit", process_exited)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct cgroup *cgroup;
	__u64 workload;

	if (!policy.open || !exit_group_dead(ctx, task))
		return;
	cgroup = task_cgroup(task);
	workload = workload_id(cgroup);
	if (exits_enabled) {
		struct exit_key key = {.cgroup = workload, .status = wait_status(task) & ~0x80};
		struct exit_cell *cell = exits_cell(exits_cached_slot(&key, cgroup, first));

		if (cell)
			add(&cell->exits, 1);
	}
	if (lifetimes_enabled) {
		struct lifetime_cell *cell = lifetimes_cell(lifetimes_cached_slot(&workload, cgroup, first));

		if (cell)
			lifetime_record(&cell->lifetime, bpf_ktime_get_ns() - task->group_leader->start_time);
	}
}
