#!/bin/sh
# Builds the Collector of the end-to-end tests unless it is there, and prints its path. It is kept by a hash of the
# module's files, so that a change builds anew: some minutes with an empty build cache.
set -eu
cd "$(dirname "$0")"

hash=$(cat go.mod go.sum ./*.go | sha256sum | cut -c 1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/sidecar/collector-$hash
if [ ! -x "$dir/otelcol" ]; then
	mkdir -p "$dir"
	# Under a name of its own first: whoever finds otelcol finds all of it.
	GOWORK=off CGO_ENABLED=0 go build -mod=readonly -buildvcs=false -trimpath -ldflags='-s -w' -o "$dir/otelcol.$$" . >&2
	mv "$dir/otelcol.$$" "$dir/otelcol"
fi
echo "$dir/otelcol"
