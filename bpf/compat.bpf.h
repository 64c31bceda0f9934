/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What differs between kernels, where CO-RE cannot tell. The loader answers, by the names of these constants:
 *
 *	kernel_version		as LINUX_VERSION_CODE
 *	arguments_TRACEPOINT	how many arguments a tracepoint passes; 0: there is none. Each probe declares those that it
 *				asks about, and reads an argument only behind the question, so that the verifier never
 *				meets the read.
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>

const volatile __u32 kernel_version = KERNEL_VERSION(255, 0, 0);

/* Tracing programs have task storage from 5.12 (a10787e6d58c). */
#define has_task_storage (kernel_version >= KERNEL_VERSION(5, 12, 0))

/* From 6.4 it allocates without locks of its own (6ae9d5e99e1d): before, it must not be created in sched_switch. */
#define has_task_storage_anywhere (kernel_version >= KERNEL_VERSION(6, 4, 0))

/* From 7.0 a tracepoint can be preempted (bpf/preemption.bpf.h). */
#define has_preemptible_tracepoints (kernel_version >= KERNEL_VERSION(7, 0, 0))

/*
 * A program that is running on its CPU is not run again there, by an interrupt or its own doing, from 6.1 (05b24ff9b2cf); the
 * event is skipped, and the kernel counts it.
 */
#define has_recursion_guard (kernel_version >= KERNEL_VERSION(6, 1, 0))
