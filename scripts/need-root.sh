#!/bin/bash
# Usage: need-root.sh COMMAND. Fails with what to type unless the process may load BPF programs.
set -euo pipefail
if [ "$(id -u)" -ne 0 ]; then
	echo "$1 loads BPF programs, which takes root (or CAP_BPF and CAP_PERFMON). Type: sudo $1" >&2
	exit 1
fi
