#!/bin/bash
# Usage: with-tracefs.sh COMMAND... Runs the command where tracefs is mounted, if need be in a mount namespace of its own.
set -euo pipefail
[ ! -e /sys/kernel/tracing/events ] || exec "$@"
exec unshare --mount bash -c 'mount -t tracefs tracefs /sys/kernel/tracing; exec "$@"' bash "$@"
