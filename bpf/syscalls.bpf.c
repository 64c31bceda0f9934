//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* System calls: how long they took, and the attempts to execute a program. */
#include "compat.bpf.h"
#include "histogram.bpf.h"
#include "task.bpf.h"
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define MAX_ERRNO 4095		   /* include/linux/err.h */
#define X32_SYSCALL_BIT 0x40000000 /* arch/x86/include/uapi/asm/unistd.h */

/* All numbers from here on are one, since a program may make up any. */
#define NO_CALL 1024

/* Whose table a number is of. */
enum abi {
	ABI_NATIVE,
	ABI_COMPAT, /* of 32-bit programs */
	ABI_X32,
};

/* What of a thread_info tells calls by ABI_COMPAT: TS_COMPAT on x86, _TIF_32BIT on arm64. User space knows the machine. */
const volatile __u32 compat_status;
const volatile __u64 compat_flags;

/* The numbers of execve and execveat, by ABI. */
struct execution_numbers {
	__u32 execve;
	__u32 execveat;
};

const volatile struct execution_numbers executions[4];

struct call {
	__u32 number;
	__u16 abi;
	__u16 error; /* 0: none */
};

struct duration_key {
	__u64 cgroup;
	struct call call;
};

struct duration_cell {
	struct latency_histogram duration;
};

struct attempt_key {
	__u64 cgroup;
	__u64 error; /* 0: none */
};

struct attempt_cell {
	__u64 attempts;
};

CACHED_SERIES_BY_WORKLOAD(durations, struct duration_key, struct duration_cell)
SERIES_BY_WORKLOAD(attempts, struct attempt_key, struct attempt_cell)

const volatile bool durations_enabled = true;
const volatile bool attempts_enabled = true;

struct thread_info {
	unsigned long flags;
	__u32 status;
} KERNEL_TYPE;

struct task_struct___syscalls {
	struct thread_info thread_info;
	struct css_set *cgroups;
} KERNEL_TYPE;

struct pt_regs {
	unsigned long orig_ax;
} KERNEL_TYPE;

struct pt_regs___arm64 {
	int syscallno;
} KERNEL_TYPE;

#define on_x86 bpf_core_field_exists(((struct pt_regs *)0)->orig_ax)

/*
 * These tracepoints pass no task, and where there is no task storage there is no bpf_get_current_task_btf() either (it came with
 * 5.11, 3ca1032ab7ab): there the task is a number, and read by a helper.
 */
static __always_inline struct task_struct *current_task(void)
{
	return has_task_storage ? bpf_get_current_task_btf() : (struct task_struct *)bpf_get_current_task();
}

#define READ(pointer, member) (has_task_storage ? (pointer)->member : BPF_CORE_READ(pointer, member))

/* The call that a task is in. It is noted at its beginning: an execution may change the ABI, and rt_sigreturn the number. */
struct call_state {
	__u64 start; /* ns; 0: it is in none */
	struct call call;
	__u32 ended; /* its end was handled, by a program before the last of FOR_EACH_CALL */
	__u32 fresh; /* no beginning was seen yet */
};

TASK_STATE(syscall_task, struct call_state)

static __always_inline struct call call_of(struct task_struct *current, __u32 number)
{
	struct task_struct___syscalls *task = (struct task_struct___syscalls *)current;
	struct call call = {.number = number};

	if (on_x86 ? READ(task, thread_info.status) & compat_status : READ(task, thread_info.flags) & compat_flags) {
		call.abi = ABI_COMPAT;
	} else if (on_x86 && number & X32_SYSCALL_BIT) {
		call.abi = ABI_X32;
		call.number = number & ~X32_SYSCALL_BIT;
	}
	if (call.number > NO_CALL)
		call.number = NO_CALL;
	return call;
}

/* The kernel keeps the number in the registers coherent with the ABI where an execution changes that, on x86. */
static __always_inline struct call call_in_registers(struct task_struct *task, __u64 *ctx)
{
	return call_of(task, on_x86 ? ((struct pt_regs *)ctx[0])->orig_ax : ((struct pt_regs___arm64 *)ctx[0])->syscallno);
}

static __always_inline bool is_execution(struct call *call)
{
	const volatile struct execution_numbers *numbers = &executions[call->abi & 3];

	return call->number == numbers->execve || call->number == numbers->execveat;
}

/* The programs that FOR_EACH_CALL defines. */
enum turn {
	FIRST,
	SECOND,
	LAST,
};

/*
 * FOR_EACH_EVENT (bpf/preemption.bpf.h), with the mark that an event was handled in the state of the task, where it costs a
 * tenth of one in a hash. The body tells whether it handled the event.
 */
#define FOR_EACH_CALL(tracepoint, name)                                                                                \
	__u64 name##_recovered;                                                                                        \
                                                                                                                       \
	static __always_inline bool name##_event(__u64 *ctx, enum turn turn);                                          \
                                                                                                                       \
	SEC("tp_btf/" tracepoint)                                                                                      \
	int name(__u64 *ctx)                                                                                           \
	{                                                                                                              \
		name##_event(ctx, FIRST);                                                                              \
		return 0;                                                                                              \
	}                                                                                                              \
                                                                                                                       \
	SEC("tp_btf/" tracepoint)                                                                                      \
	int name##_retry1(__u64 *ctx)                                                                                  \
	{                                                                                                              \
		if (name##_event(ctx, SECOND))                                                                         \
			add(&name##_recovered, 1);                                                                     \
		return 0;                                                                                              \
	}                                                                                                              \
                                                                                                                       \
	SEC("tp_btf/" tracepoint)                                                                                      \
	int name##_retry2(__u64 *ctx)                                                                                  \
	{                                                                                                              \
		if (name##_event(ctx, LAST))                                                                           \
			add(&name##_recovered, 1);                                                                     \
		return 0;                                                                                              \
	}                                                                                                              \
                                                                                                                       \
	static __always_inline bool name##_event(__u64 *ctx, enum turn turn)

/* Not behind the gate: a call that begins before it opens may end behind it. */
FOR_EACH_CALL("sys_enter", syscall_entered)
{
	struct task_struct *task = current_task();
	struct call_state initial = {}, *state = syscall_task_get(task, &initial, true);

	if (!state) {
		if (turn == FIRST)
			miss(MISSED_STORAGE);
		return false;
	}
	if (turn != FIRST && state->start)
		return false;
	state->call = call_of(task, ctx[1]);
	state->ended = 0;
	state->fresh = 0;
	state->start = bpf_ktime_get_ns();
	return true;
}

/* Whether the end of a call is this program's to handle. */
static __always_inline bool handle_end(struct call_state *state, enum turn turn)
{
	bool handled;

	if (!has_preemptible_tracepoints)
		return true;
	if (!state)
		return turn == FIRST;
	handled = state->ended;
	state->ended = turn != LAST;
	return turn == FIRST || !handled;
}

/*
 * Takes the beginning of a call from the task's state. 0: there is none. A task of which none was seen is in a call that is older
 * than the probe, or new: it begins to run as if it returned from its parent's call. What seccomp refuses, or a tracer skips,
 * ends without a beginning.
 */
static __always_inline __u64 take_start(struct call_state *state, struct call *call)
{
	__u64 start = state->start;

	*call = state->call;
	state->start = 0;
	if (!start && !state->fresh && policy.open)
		miss(MISSED_UNMATCHED);
	return start;
}

FOR_EACH_CALL("sys_exit", syscall_exited)
{
	struct task_struct *task = current_task();
	struct call_state initial = {.fresh = 1}, *state = NULL;
	struct duration_key key = {};
	__u64 start = 0, end = 0;
	struct cgroup *cgroup;
	__s64 result = ctx[1];
	bool execution;

	if (durations_enabled)
		end = bpf_ktime_get_ns();
	if (durations_enabled || has_preemptible_tracepoints)
		state = syscall_task_get(task, &initial, has_preemptible_tracepoints);
	if (!handle_end(state, turn))
		return false;
	if (durations_enabled && state)
		start = take_start(state, &key.call);
	if (!policy.open)
		return true;
	if (!start)
		key.call = call_in_registers(task, ctx);
	execution = attempts_enabled && is_execution(&key.call);
	if (!start && !execution)
		return true;
	cgroup = has_task_storage ? task_cgroup(task) : BPF_CORE_READ(task, cgroups, dfl_cgrp);
	if (by_workload)
		key.cgroup = has_task_storage ? cgroup->kn->id : BPF_CORE_READ(cgroup, kn, id);
	if (result < 0 && result >= -MAX_ERRNO)
		key.call.error = -result;
	if (start) {
		struct duration_cell *cell = durations_cell(durations_cached_slot(&key, cgroup, turn == FIRST));

		if (cell)
			latency_record(&cell->duration, end - start);
	}
	if (execution) {
		struct attempt_key attempt = {key.cgroup, key.call.error};
		struct attempt_cell *cell = attempts_cell(attempts_slot(&attempt, cgroup));

		if (cell)
			add(&cell->attempts, 1);
	}
	return true;
}
