//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* TCP: connections opened, how long it took and how long they lasted, and what was sent again or reset. */
#include "compat.bpf.h"
#include "histogram.bpf.h"
#include "preemption.bpf.h"
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define AF_INET 2	/* include/linux/socket.h */
#define IPPROTO_TCP 6	/* include/uapi/linux/in.h */

/* include/net/tcp_states.h */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
};

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} KERNEL_TYPE in6_u;
} KERNEL_TYPE;

struct sock_common {
	unsigned short skc_family;
	struct in6_addr skc_v6_daddr;
} KERNEL_TYPE;

struct sock_cgroup_data {
	struct cgroup *cgroup;
	__u64 val; /* before 5.15 (8520e224f547): the cgroup's address, unless one of the two lowest bits is set */
} KERNEL_TYPE;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
	int sk_err;
	struct sock_cgroup_data sk_cgrp_data;
} KERNEL_TYPE;

struct request_sock {
	struct sock_common __req_common;
} KERNEL_TYPE;

struct tcp_sock {
	__u32 segs_out;
} KERNEL_TYPE;

struct sk_buff {
	char cb[48];
} KERNEL_TYPE;

struct tcp_skb_cb {
	__u16 tcp_gso_segs;
} KERNEL_TYPE;

struct cgroup_root___tcp {
	struct cgroup cgrp;
} KERNEL_TYPE;

enum role {
	ROLE_PASSIVE,
	ROLE_ACTIVE,
};

/* In place of an errno; they are known to user space. */
enum {
	ERROR_NONE,
	ERROR_OTHER = 0x10000, /* nothing tells why */
	ERROR_NOT_SENT,	       /* no SYN was: there was no local port, no route, no memory */
};

struct connection_key {
	__u64 cgroup;
	__u32 role;
	__u32 error;
};

struct connection_cell {
	__u64 connections;
};

struct handshake_cell {
	struct latency_histogram duration;
};

struct duration_key {
	__u64 cgroup;
	__u64 role;
};

struct duration_cell {
	struct lifetime_histogram duration;
};

struct retransmit_cell {
	__u64 ipv4;
	__u64 ipv6;
};

struct reset_cell {
	__u64 sent;
	__u64 received;
};

CACHED_SERIES_BY_WORKLOAD(connections, struct connection_key, struct connection_cell)
CACHED_SERIES_BY_WORKLOAD(handshakes, __u64, struct handshake_cell)
CACHED_SERIES_BY_WORKLOAD(durations, struct duration_key, struct duration_cell)
SERIES_BY_WORKLOAD(retransmits, __u64, struct retransmit_cell)
SERIES_BY_KEY(resets, __u64, struct reset_cell)

const volatile bool connections_enabled = true;
const volatile bool handshakes_enabled = true;
const volatile bool durations_enabled = true;
const volatile bool retransmits_enabled = true;
const volatile bool resets_enabled = true;

/* Who opened a socket. To the verifier it is a number before 5.15: read it with socket_cgroup_id() only. */
static __always_inline struct cgroup *socket_cgroup(const struct sock *sk)
{
	struct task_struct *task;
	struct cgroup_root *root;
	__u64 address;

	if (!by_workload)
		return NULL;
	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		return sk->sk_cgrp_data.cgroup;
	address = sk->sk_cgrp_data.val;
	if (address && !(address & 3))
		return (struct cgroup *)address;
	/* Net_cls or net_prio of cgroup v1 is in use, or an interrupt opened the socket: it is the root's (sock_cgroup_ptr()). */
	task = (struct task_struct *)bpf_get_current_task();
	root = BPF_CORE_READ(task, cgroups, dfl_cgrp, root);
	return (struct cgroup *)((__u64)root + bpf_core_field_offset(struct cgroup_root___tcp, cgrp));
}

static __always_inline __u64 socket_cgroup_id(const struct sock *sk, struct cgroup *cgroup)
{
	if (!by_workload)
		return 0;
	return bpf_core_field_exists(sk->sk_cgrp_data.cgroup) ? cgroup->kn->id : BPF_CORE_READ(cgroup, kn, id);
}

/* What is kept of a connection, from its first event to its last. */
struct connection {
	__u64 socket; /* socket_number(); 0: none */
	__u64 since;  /* ns, CLOCK_MONOTONIC: when it began to connect, then when it was connected. 0: not known */
	__u32 role;
	__u32 open;
};

#define SOCKETS_BITS 16

/*
 * Where a connection is kept: at its place in an array, or if another is there in a hash. A connection costs half as much as with
 * the hash alone, and a third of what it costs with the kernel's socket storage (6.18). Two that take a place at the same
 * time are one too many: the next event of one of them does not match.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << SOCKETS_BITS);
	__type(key, __u32);
	__type(value, struct connection);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << (SOCKETS_BITS - 2));
	__type(key, __u64);
	__type(value, struct connection);
} displaced SEC(".maps");

__u64 displaced_count; /* never less than there are */

/* A socket's address as a number that the verifier lets us reckon with: the difference of two pointers, one of which is constant. */
static __always_inline __u64 socket_number(const struct sock *sk)
{
	return (__u64)sk - (__u64)&policy;
}

static __always_inline struct connection *place(__u64 socket)
{
	__u32 index = key_hash(&socket, 1) >> (64 - SOCKETS_BITS);

	return bpf_map_lookup_elem(&sockets, &index);
}

static __always_inline struct connection *find(__u64 socket)
{
	struct connection *here = place(socket);

	if (here && here->socket == socket)
		return here;
	return displaced_count ? bpf_map_lookup_elem(&displaced, &socket) : NULL;
}

/* Keeps a connection that find() does not find. */
static __always_inline bool keep(struct connection *connection)
{
	struct connection *here = place(connection->socket);

	if (here && !here->socket) {
		here->since = connection->since;
		here->role = connection->role;
		here->open = connection->open;
		*(volatile __u64 *)&here->socket = connection->socket; /* last: it is whole for who finds it */
		return true;
	}
	add(&displaced_count, 1);
	if (!bpf_map_update_elem(&displaced, &connection->socket, connection, BPF_NOEXIST))
		return true;
	add(&displaced_count, -1);
	return false;
}

static __always_inline void forget(__u64 socket)
{
	struct connection *here = place(socket);

	if (here && here->socket == socket)
		here->socket = 0;
	else if (!bpf_map_delete_elem(&displaced, &socket))
		add(&displaced_count, -1);
}

static __always_inline void count_connection(struct sock *sk, enum role role, __u32 error, bool first)
{
	struct connection_key key = {.role = role, .error = error};
	struct connection_cell *cell;
	struct cgroup *cgroup;

	if (!connections_enabled)
		return;
	cgroup = socket_cgroup(sk);
	key.cgroup = socket_cgroup_id(sk, cgroup);
	cell = connections_cell(connections_cached_slot(&key, cgroup, first && has_recursion_guard));
	if (cell)
		add(&cell->connections, 1);
}

static __always_inline void record_handshake(struct sock *sk, __u64 since, __u64 now, bool first)
{
	struct handshake_cell *cell;
	struct cgroup *cgroup;
	__u64 key;

	if (!since) {
		miss(MISSED_UNMATCHED);
		return;
	}
	if (!handshakes_enabled)
		return;
	cgroup = socket_cgroup(sk);
	key = socket_cgroup_id(sk, cgroup);
	cell = handshakes_cell(handshakes_cached_slot(&key, cgroup, first && has_recursion_guard));
	if (cell)
		latency_record(&cell->duration, now - since);
}

static __always_inline void record_duration(struct sock *sk, enum role role, __u64 since, bool first)
{
	struct duration_key key = {.role = role};
	struct duration_cell *cell;
	struct cgroup *cgroup;

	if (!since) { /* it was connected before the probe was there */
		miss(MISSED_UNMATCHED);
		return;
	}
	if (!durations_enabled)
		return;
	cgroup = socket_cgroup(sk);
	key.cgroup = socket_cgroup_id(sk, cgroup);
	cell = durations_cell(durations_cached_slot(&key, cgroup, first && has_recursion_guard));
	if (cell)
		lifetime_record(&cell->duration, bpf_ktime_get_ns() - since);
}

/* Why a connection was not opened. What keeps connect(2) from sending a SYN it tells its caller alone. */
static __always_inline __u32 failure(struct sock *sk, enum role role)
{
	int error = sk->sk_err;
	struct tcp_sock *tcp;

	if (error > 0 && error < ERROR_OTHER)
		return error;
	if (role == ROLE_PASSIVE)
		return ERROR_OTHER;
	tcp = bpf_skc_to_tcp_sock(sk);
	return tcp && !tcp->segs_out ? ERROR_NOT_SENT : ERROR_OTHER;
}

/*
 * What the events of a connection do. In a storm of connections interrupts change the states of sockets on top of tasks that do, and
 * the kernel, which skips a program that is half way on its CPU, skipped the first for one event in 2,000 (6.18). Hence the
 * retries, as in preemption.bpf.h but from 6.1 on, to which what is kept tells whether the event was handled. What all
 * were skipped for, some ends in a storm, does not match what comes next, and is counted then.
 */

static __always_inline void began(struct sock *sk, enum role role, bool first)
{
	struct connection connection = {.socket = socket_number(sk), .role = role}, *known;

	known = find(connection.socket);
	if (known && !known->open && !first)
		return;
	if (role == ROLE_ACTIVE)
		connection.since = bpf_ktime_get_ns();
	if (known) { /* an earlier socket's, whose end was missed */
		miss(MISSED_UNMATCHED);
		*known = connection;
	} else {
		keep(&connection); /* without room, what comes next is unmatched */
	}
}

static __always_inline void opened(struct sock *sk, int old, bool first)
{
	struct connection *known, fresh = {.socket = socket_number(sk), .open = true};
	enum role role = old == TCP_SYN_SENT ? ROLE_ACTIVE : ROLE_PASSIVE;
	__u64 now, since = 0;

	known = find(fresh.socket);
	if (known ? known->open : !first)
		return;
	now = bpf_ktime_get_ns();
	if (known) {
		role = known->role;
		since = known->since;
		known->since = now;
		known->open = true;
	} else {
		fresh.since = now;
		fresh.role = role;
		if (!keep(&fresh))
			miss(MISSED_STORAGE);
	}
	if (!policy.open)
		return;
	count_connection(sk, role, ERROR_NONE, first);
	if (role == ROLE_ACTIVE)
		record_handshake(sk, since, now, first);
}

static __always_inline void ended(struct sock *sk, int old, bool first)
{
	enum role role = old == TCP_SYN_SENT ? ROLE_ACTIVE : ROLE_PASSIVE;
	__u64 socket = socket_number(sk), since = 0;
	struct connection *known;
	bool open = false;

	known = find(socket);
	if (known) {
		role = known->role;
		open = known->open;
		since = open ? known->since : 0;
		forget(socket);
	} else if (!first) {
		return;
	}
	if (!policy.open)
		return;
	if (old == TCP_SYN_SENT || old == TCP_SYN_RECV) {
		count_connection(sk, role, failure(sk, role), first);
		return;
	}
	if (known && !open) { /* all were skipped for its opening */
		count_connection(sk, role, ERROR_NONE, first);
		if (role == ROLE_ACTIVE)
			record_handshake(sk, 0, 0, first);
	}
	record_duration(sk, role, since, first);
}

/*
 * The arguments are (sk, old state, new state). What is kept is kept while the gate is closed, too, so that what begins before it
 * opens and ends behind it is known.
 *
 * A passive connection's socket is made in SYN_RECV, at the last ACK of the handshake, or by TCP Fast Open at the SYN. An active one
 * passes through it when both sides open at once. From FIN_WAIT2 a socket goes to CLOSE: what is in TIME_WAIT is none.
 */
static __always_inline int change(__u64 *ctx, bool first)
{
	struct sock *sk = (struct sock *)ctx[0];
	int old = ctx[1], new = ctx[2];
	bool opening = old == TCP_SYN_SENT || old == TCP_SYN_RECV;
	bool begins = (old == TCP_CLOSE && new == TCP_SYN_SENT) || (old == TCP_LISTEN && new == TCP_SYN_RECV);
	bool opens = opening && new != TCP_SYN_RECV && new != TCP_CLOSE;
	bool ends = new == TCP_CLOSE && old != TCP_LISTEN && old != TCP_CLOSE;

	if (!(begins || opens || ends) || sk->sk_protocol != IPPROTO_TCP) /* MPTCP's sockets have those of TCP below them */
		return 0;
	if (begins)
		began(sk, new == TCP_SYN_SENT ? ROLE_ACTIVE : ROLE_PASSIVE, first);
	else if (opens)
		opened(sk, old, first);
	else
		ended(sk, old, first);
	return 0;
}

const volatile bool tcp_changed_interrupted = true;

SEC("tp_btf/inet_sock_set_state")
int tcp_changed(__u64 *ctx)
{
	return change(ctx, true);
}

SEC("tp_btf/inet_sock_set_state")
int tcp_changed_retry1(__u64 *ctx)
{
	return change(ctx, false);
}

SEC("tp_btf/inet_sock_set_state")
int tcp_changed_retry2(__u64 *ctx)
{
	return change(ctx, false);
}

/* An IPv6 socket's peer may be an IPv4 one. */
static __always_inline bool is_ipv4(const struct sock_common *common)
{
	const __be32 *address = common->skc_v6_daddr.in6_u.u6_addr32;

	return common->skc_family == AF_INET ||
	       (!address[0] && !address[1] && address[2] == __builtin_bswap32(0xffff));
}

static __always_inline void count_retransmits(const struct sock *sk, bool ipv4, __u64 segments)
{
	struct retransmit_cell *cell;
	struct cgroup *cgroup;
	__u64 key;

	if (!policy.open || !retransmits_enabled)
		return;
	cgroup = socket_cgroup(sk);
	key = socket_cgroup_id(sk, cgroup);
	cell = retransmits_cell(retransmits_slot(&key, cgroup));
	if (cell)
		add(ipv4 ? &cell->ipv4 : &cell->ipv6, segments);
}

/* From 6.17 it is told how the transmission ended, and fires when it failed, too (net/ipv4/tcp_output.c, __tcp_retransmit_skb). */
const volatile __u32 arguments_tcp_retransmit_skb = 3;

FOR_EACH_EVENT("tcp_retransmit_skb", tcp_retransmitted)
{
	const struct sock *sk = (const struct sock *)ctx[0];
	const struct sk_buff *skb = (const struct sk_buff *)ctx[1];

	if (arguments_tcp_retransmit_skb >= 3 && (int)ctx[2])
		return;
	/* tcp_skb_pcount(), as many as RetransSegs grew by */
	count_retransmits(sk, is_ipv4(&sk->__sk_common), ((const struct tcp_skb_cb *)skb->cb)->tcp_gso_segs);
}

/* The socket is the one that listens: what is not open yet has none. */
SEC("tp_btf/tcp_retransmit_synack")
int tcp_retransmitted_synack(__u64 *ctx)
{
	const struct request_sock *request = (const struct request_sock *)ctx[1];

	count_retransmits((const struct sock *)ctx[0], is_ipv4(&request->__req_common), 1);
	return 0;
}

static __always_inline struct reset_cell *reset_cell(void)
{
	__u64 key = 0;

	return policy.open && resets_enabled ? resets_cell(resets_slot(&key)) : NULL;
}

/* The socket and the packet may be NULL. */
SEC("tp_btf/tcp_send_reset")
int tcp_sent_reset(__u64 *ctx)
{
	struct reset_cell *cell = reset_cell();

	if (cell)
		add(&cell->sent, 1);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int tcp_received_reset(__u64 *ctx)
{
	struct reset_cell *cell = reset_cell();

	if (cell)
		add(&cell->received, 1);
	return 0;
}
