//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Page faults, from the kernel's own counts of each task: what they grew by while the task had the CPU is added when it gives
 * it up. Only the running task's counts grow (mm/memory.c, mm_account_fault).
 */
#include "cpu.bpf.h"
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct task_struct___faults {
	unsigned long min_flt;
	unsigned long maj_flt;
} KERNEL_TYPE;

struct fault_cell {
	__u64 minor;
	__u64 major;
};

CACHED_SERIES_BY_WORKLOAD(faults, __u64, struct fault_cell)

/* The counts of the task that has the CPU, of when it got it. */
struct fault_counts {
	__u64 task; /* its address; 0 up to the first switch */
	__u64 minor;
	__u64 major;
};

CPU_STATE(fault_counts, struct fault_counts)

SEC("tp_btf/sched_switch")
int faults_switched(__u64 *ctx)
{
	struct task_struct___faults *prev = (void *)ctx[1], *next = (void *)ctx[2];
	struct fault_counts *counts;
	__u64 minor, major;

	if (!policy.open)
		return 0;
	counts = fault_counts_here();
	if (!counts)
		return 0;
	minor = prev->min_flt - counts->minor;
	major = prev->maj_flt - counts->major;
	if (counts->task != (__u64)prev) {
		if (counts->task)
			miss(MISSED_UNMATCHED);
	} else if (minor | major) {
		struct cgroup *cgroup = task_cgroup((struct task_struct *)ctx[1]);
		__u64 key = workload_id(cgroup);
		struct fault_cell *cell = faults_cell(faults_cached_slot(&key, cgroup, true));

		if (cell && minor)
			add(&cell->minor, minor);
		if (cell && major)
			add(&cell->major, major);
	}
	counts->task = (__u64)next;
	counts->minor = next->min_flt;
	counts->major = next->maj_flt;
	return 0;
}
