//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/* The maps that all probes share, and the ends of cgroups. Their beginnings are learned by whoever meets them. */
#include "workload.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* After this the cgroup takes no new task. Its last switches, sockets and writes may come later; user space waits a while. */
SEC("tp_btf/cgroup_rmdir")
int workload_removed(__u64 *ctx)
{
	struct cgroup *cgroup = (struct cgroup *)ctx[0];
	struct cgroup_entry *entry;
	__u32 *slot;
	__u64 id;

	if (cgroup->root->hierarchy_id) /* v1: its ids are other cgroups' ids on the default hierarchy */
		return 0;
	id = cgroup->kn->id;
	slot = bpf_map_lookup_elem(&cgroups_keys, &id);
	if (!slot)
		return 0;
	entry = cgroups_cell(*slot);
	if (entry)
		entry->removed = bpf_ktime_get_ns();
	return 0;
}
