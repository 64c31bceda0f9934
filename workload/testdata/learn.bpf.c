// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* Series by workload, of one event that a test causes in a cgroup of its own; see learn_test.go. */
#include "../../bpf/workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct rename_cell {
	__u64 events;
};

SERIES_BY_WORKLOAD(renames, __u64, struct rename_cell)

__u64 watched; /* the id of a cgroup */

/* A task gets a name when it executes a program. */
SEC("tp_btf/task_rename")
int renamed(__u64 *ctx)
{
	struct cgroup *cgroup = task_cgroup((struct task_struct *)ctx[0]);
	__u64 key = workload_id(cgroup);
	struct rename_cell *cell;

	if (key != watched)
		return 0;
	cell = renames_cell(renames_slot(&key, cgroup));
	if (cell)
		add(&cell->events, 1);
	return 0;
}
