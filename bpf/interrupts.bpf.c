//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* Interrupts: how long their handlers ran, and the softirqs that do the rest. */
#include "compat.bpf.h"
#include "cpu.bpf.h"
#include "histogram.bpf.h"
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define IRQ_NAME 48 /* a device and a queue, as a rule, and a NUL; what is longer is cut */

#define SOFTIRQS 16 /* a power of two; the kernel has ten (include/linux/interrupt.h) */

const volatile bool softirqs_enabled = true;
const volatile bool irqs_enabled = true;

struct irqaction {
	const char *name;
} KERNEL_TYPE;

struct irq_key {
	char name[IRQ_NAME];
};

struct softirq_cell {
	struct latency_histogram duration;
};

struct irq_cell {
	struct latency_histogram duration;
};

CACHED_SERIES_BY_KEY(softirqs, __u64, struct softirq_cell)
CACHED_SERIES_BY_KEY(irqs, struct irq_key, struct irq_cell)

/*
 * When what runs on a CPU began, in ns; 0: it does not run. Neither softirqs nor handlers nest, but for two exceptions. With
 * PREEMPT_RT a softirq can preempt another from 6.18 on (3253cb49cbad), so each has a start of its own. And on arm64 a
 * pseudo-NMI can come in the middle of a handler, whose end then has no start.
 */
struct interrupt_state {
	__u64 softirqs[SOFTIRQS];
	__u64 irq;
	__u64 action;
} __attribute__((aligned(64))); /* a CPU's own cache lines */

CPU_STATE(interrupts, struct interrupt_state)

/* The starts are kept while the gate is closed too. */
SEC("tp_btf/softirq_entry")
int softirq_entered(__u64 *ctx)
{
	struct interrupt_state *state = interrupts_here();

	if (state)
		state->softirqs[ctx[0] & (SOFTIRQS - 1)] = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/softirq_exit")
int softirq_exited(__u64 *ctx)
{
	__u64 now = bpf_ktime_get_ns(), vector = ctx[0] & (SOFTIRQS - 1), start;
	struct interrupt_state *state = interrupts_here();
	struct softirq_cell *cell;

	if (!state)
		return 0;
	start = state->softirqs[vector];
	state->softirqs[vector] = 0;
	if (!policy.open)
		return 0;
	if (!start) {
		miss(MISSED_UNMATCHED);
		return 0;
	}
	cell = softirqs_cell(softirqs_cached_slot(&vector, true));
	if (cell)
		latency_record(&cell->duration, now - start);
	return 0;
}

/* The arguments are (int irq, struct irqaction *action). */
SEC("tp_btf/irq_handler_entry")
int irq_entered(__u64 *ctx)
{
	struct interrupt_state *state = interrupts_here();

	if (state) {
		state->action = ctx[1];
		state->irq = bpf_ktime_get_ns();
	}
	return 0;
}

/* The name is read each time: after a driver was loaded again, another's may be where it was. */
SEC("tp_btf/irq_handler_exit")
int irq_exited(__u64 *ctx)
{
	struct irqaction *action = (struct irqaction *)ctx[1];
	struct interrupt_state *state = interrupts_here();
	__u64 now = bpf_ktime_get_ns(), start;
	struct irq_key key = {};
	struct irq_cell *cell;

	if (!state)
		return 0;
	start = state->action == (__u64)action ? state->irq : 0;
	state->irq = 0;
	if (!policy.open)
		return 0;
	if (!start) {
		miss(MISSED_UNMATCHED);
		return 0;
	}
	bpf_probe_read_kernel_str(key.name, sizeof(key.name), action->name);
	cell = irqs_cell(irqs_cached_slot(&key, has_recursion_guard));
	if (cell)
		latency_record(&cell->duration, now - start);
	return 0;
}
