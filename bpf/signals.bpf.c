//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* Signals: those sent to the tasks of each workload, and what became of them. */
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct signal_key {
	__u64 cgroup;
	__u32 signal;
	__u32 result; /* TRACE_SIGNAL_DELIVERED and so on (include/trace/events/signal.h) */
};

struct signal_cell {
	__u64 signals;
};

CACHED_SERIES_BY_WORKLOAD(signals, struct signal_key, struct signal_cell)

/*
 * The arguments are (int sig, info, struct task_struct *task, int group, int result). It fires with interrupts off, under the
 * lock of the task's signal handlers, so that nothing runs it on top of itself.
 */
SEC("tp_btf/signal_generate")
int signal_generated(__u64 *ctx)
{
	struct signal_key key = {.signal = ctx[0], .result = ctx[4]};
	struct signal_cell *cell;
	struct cgroup *cgroup;

	if (!policy.open)
		return 0;
	cgroup = task_cgroup((struct task_struct *)ctx[2]);
	key.cgroup = workload_id(cgroup);
	cell = signals_cell(signals_cached_slot(&key, cgroup, true));
	if (cell)
		add(&cell->signals, 1);
	return 0;
}
