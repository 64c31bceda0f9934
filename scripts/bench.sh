#!/bin/bash
# Usage: bench.sh [-only REGEXP]
# Measures what the sidecar costs, and writes docs/benchmarks.md, in about fifteen minutes. With -only it prints the sections
# of such a title instead. The applications are started here and ended again; the distribution's services are not.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/packages.sh bpftrace libbpf-tools nginx redis-server redis-tools wrk
[ $# -gt 0 ] || set -- -o docs/benchmarks.md
TMPDIR=$(mktemp -d)
export TMPDIR

# Where the kernel shares the CPUs out among sessions (sched(7), autogroup), this one goes before the others meanwhile.
precedence=$(sed 's/.* //' /proc/self/autogroup 2>/dev/null || true)
clean() {
	rm -rf "$TMPDIR"
	[ -z "$precedence" ] || echo "$precedence" >/proc/self/autogroup
}
trap clean EXIT
[ -z "$precedence" ] || echo -20 >/proc/self/autogroup

scripts/with-tracefs.sh nice -n -20 go run ./bench "$@"
