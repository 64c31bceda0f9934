//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* Processes: created, executed, exited, and how long they lived. */
#include "compat.bpf.h"
#include "histogram.bpf.h"
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

SERIES_BY_WORKLOAD(creations, __u64, struct creation_cell)
SERIES_BY_WORKLOAD(executions, struct execution_key, struct execution_cell)
SERIES_BY_WORKLOAD(exits, struct exit_key, struct exit_cell)
SERIES_BY_WORKLOAD(lifetimes, __u64, struct lifetime_cell)

const volatile bool creations_enabled = true;
const volatile bool executions_enabled = true;
const volatile bool exits_enabled = true;
const volatile bool lifetimes_enabled = true;

/* Fires right after total_forks++, the kernel workers that sched_process_fork misses included. */
SEC("tp_btf/task_newtask")
int process_created(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct cgroup *cgroup = task_cgroup(task);
	__u64 clone_flags = ctx[1], key;
	struct creation_cell *cell;

	if (!policy.open || !creations_enabled)
		return 0;
	key = workload_id(cgroup);
	cell = creations_cell(creations_slot(&key, cgroup));
	if (cell)
		add(clone_flags & CLONE_THREAD ? &cell->threads : &cell->processes, 1);
	return 0;
}

/* Fires for executions that succeeded. The executable is the file that is mapped: for a script, its interpreter. */
SEC("tp_btf/sched_process_exec")
int process_executed(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct cgroup *cgroup = task_cgroup(task);
	struct execution_key key = {};
	struct execution_cell *cell;

	if (!policy.open || !executions_enabled)
		return 0;
	key.cgroup = workload_id(cgroup);
	if (by_executable)
		bpf_probe_read_kernel_str(key.executable, sizeof(key.executable),
					  task->mm->exe_file->f_path.dentry->d_name.name);
	cell = executions_cell(executions_slot(&key, cgroup));
	if (cell)
		add(&cell->executions, 1);
	return 0;
}

/* The status that wait(2) gives (kernel/exit.c, wait_task_zombie). */
static __always_inline __u32 wait_status(struct task_struct *task)
{
	struct signal_struct *signal = task->signal;

	if (signal->flags & SIGNAL_GROUP_EXIT)
		return signal->group_exit_code;
	return task->group_leader->exit_code;
}

SEC("tp_btf/sched_process_exit")
int process_exited(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct cgroup *cgroup = task_cgroup(task);

	if (!policy.open || !exit_group_dead(ctx, task))
		return 0;
	if (exits_enabled) {
		struct exit_key key = {.cgroup = workload_id(cgroup), .status = wait_status(task) & ~0x80};
		struct exit_cell *cell = exits_cell(exits_slot(&key, cgroup));

		if (cell)
			add(&cell->exits, 1);
	}
	if (lifetimes_enabled) {
		__u64 key = workload_id(cgroup);
		struct lifetime_cell *cell = lifetimes_cell(lifetimes_slot(&key, cgroup));

		if (cell)
			lifetime_record(&cell->lifetime, bpf_ktime_get_ns() - task->group_leader->start_time);
	}
	return 0;
}
