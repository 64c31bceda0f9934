//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* Locks of the kernel: how long was waited for them. */
#include "compat.bpf.h"
#include "cpu.bpf.h"
#include "histogram.bpf.h"
#include "task.bpf.h"
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* include/trace/events/lock.h */
enum {
	LCB_F_SPIN = 1U << 0,
	LCB_F_RT = 1U << 3,
	LCB_F_MUTEX = 1U << 5,
};

struct wait_key {
	__u64 flags;
};

struct wait_cell {
	struct latency_histogram duration;
};

CACHED_SERIES_BY_KEY(waits, struct wait_key, struct wait_cell)

struct wait {
	__u64 lock;  /* its address */
	__u64 start; /* ns */
	__u64 flags;
};

/*
 * Waits that go on, each inside the one before. Spinning: each of four contexts (kernel/locking/qspinlock.c, MAX_NODES) may
 * interrupt the one before, and a rwlock is queued for on a spinlock. Sleeping: a task that goes to sleep for a lock first submits
 * its requests to disks, which may take another.
 */
#define MAX_DEPTH 8 /* a power of two */

struct waiter {
	__u32 depth;
	__u32 ending; /* contention_ended runs on the CPU */
	struct wait waits[MAX_DEPTH];
};

/* Who spins stays on its CPU, and who sleeps is a task. */
CPU_STATE(lock_cpu, struct waiter)
TASK_STATE(lock_task, struct waiter)

static __always_inline bool spins(__u64 flags)
{
	return (flags & (LCB_F_SPIN | LCB_F_MUTEX)) == LCB_F_SPIN; /* a mutex has tasks spin before they sleep */
}

static __always_inline struct waiter *task_waiter(bool create)
{
	return lock_task_get(bpf_get_current_task_btf(), NULL, create);
}

/*
 * Where programs cannot be preempted each has one turn. Elsewhere three have, as in bpf/preemption.bpf.h; what is to be done
 * shows whether it was.
 */
static __always_inline bool contention_begins(__u64 *ctx, bool first)
{
	__u64 lock = ctx[0], flags = (__u32)ctx[1];
	/* Before 6.4 an allocation would sleep, on a kernel for real time. */
	bool create = has_task_storage_anywhere || !(flags & LCB_F_RT);
	struct waiter *waiter = spins(flags) ? lock_cpu_here() : task_waiter(create);
	struct wait *wait;
	__u32 depth;

	if (!waiter) {
		if (first)
			miss(MISSED_STORAGE);
		return false;
	}
	/* Its end will be skipped, and so never take it away. */
	if (!has_preemptible_tracepoints && waiter->ending)
		return false;
	depth = waiter->depth;
	wait = &waiter->waits[(depth - 1) & (MAX_DEPTH - 1)];
	if (depth && wait->lock == lock) {
		/* A mutex goes on to be slept for after it was spun for, and the other way round. No other lock begins twice. */
		if (first && !(flags & LCB_F_MUTEX))
			wait->start = bpf_ktime_get_ns();
		return false;
	}
	if (depth >= MAX_DEPTH) /* they cannot be that many: of some the end was missed */
		depth = 0;
	wait = &waiter->waits[depth];
	*(volatile __u32 *)&waiter->depth = depth + 1; /* first: what interrupts this uses those behind it */
	wait->lock = lock;
	wait->flags = flags;
	wait->start = bpf_ktime_get_ns();
	return true;
}

/* Takes the last wait for a lock, and what is in it, of which the ends were missed. 0: there is none. */
static __always_inline __u64 take_wait(struct waiter *waiter, __u64 lock, __u64 *flags)
{
	__u32 depth = waiter->depth;

	for (int i = 0; i < MAX_DEPTH && depth; i++) {
		struct wait *wait = &waiter->waits[--depth & (MAX_DEPTH - 1)];

		if (wait->lock == lock) {
			wait->lock = 0; /* so that nobody finds it again */
			waiter->depth = depth;
			*flags = wait->flags;
			return wait->start;
		}
	}
	return 0;
}

static __always_inline bool contention_ends(__u64 *ctx, bool first)
{
	__u64 end = bpf_ktime_get_ns(), lock = ctx[0], start = 0;
	struct waiter *cpu = lock_cpu_here(), *task;
	struct wait_key key = {};
	struct wait_cell *cell;

	if (!cpu)
		return false;
	if (first)
		*(volatile __u32 *)&cpu->ending = 1;
	start = take_wait(cpu, lock, &key.flags);
	if (!start) {
		task = task_waiter(false);
		if (task)
			start = take_wait(task, lock, &key.flags);
	}
	if (first && !start && policy.open)
		miss(MISSED_UNMATCHED);
	if (start && policy.open) {
		if (key.flags & LCB_F_MUTEX)
			key.flags &= ~(__u64)LCB_F_SPIN;
		cell = waits_cell(waits_cached_slot(&key, first));
		if (cell)
			latency_record(&cell->duration, end - start);
	}
	if (first)
		*(volatile __u32 *)&cpu->ending = 0;
	return start;
}

#define FOR_EACH_CONTENTION(tracepoint, name, handler)                                                                 \
	__u64 name##_recovered;                                                                                        \
                                                                                                                       \
	SEC("tp_btf/" tracepoint)                                                                                      \
	int name(__u64 *ctx)                                                                                           \
	{                                                                                                              \
		handler(ctx, true);                                                                                    \
		return 0;                                                                                              \
	}                                                                                                              \
                                                                                                                       \
	SEC("tp_btf/" tracepoint)                                                                                      \
	int name##_retry1(__u64 *ctx)                                                                                  \
	{                                                                                                              \
		if (handler(ctx, false))                                                                               \
			add(&name##_recovered, 1);                                                                     \
		return 0;                                                                                              \
	}                                                                                                              \
                                                                                                                       \
	SEC("tp_btf/" tracepoint)                                                                                      \
	int name##_retry2(__u64 *ctx)                                                                                  \
	{                                                                                                              \
		if (handler(ctx, false))                                                                               \
			add(&name##_recovered, 1);                                                                     \
		return 0;                                                                                              \
	}

/* Not behind the gate: what begins before it opens may end behind it. */
FOR_EACH_CONTENTION("contention_begin", contention_began, contention_begins)
FOR_EACH_CONTENTION("contention_end", contention_ended, contention_ends)
