#!/bin/sh
# Builds the Collector of the end-to-end tests unless it is there, and prints its path. Beside it are prometheus, promtool
# and compose. They are kept by a hash of the module's files, so that a change builds anew: some minutes with an empty
# build cache.
set -eu
cd "$(dirname "$0")"

hash=$(cat go.mod go.sum ./*.go ./*/*.go build.sh | sha256sum | cut -c 1-16)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/sidecar/collector-$hash
if [ ! -x "$dir/otelcol" ]; then
	mkdir -p "$dir"
	new=$(mktemp -d "$dir/XXXXXX")
	trap 'rm -rf "$new"' EXIT
	prometheus=github.com/prometheus/prometheus/cmd
	# Prometheus finds no targets here: it is built without the clients of the clouds.
	GOWORK=off CGO_ENABLED=0 go build -mod=readonly -buildvcs=false -trimpath -tags remove_all_sd -ldflags='-s -w' \
		-o "$new" . ./compose $prometheus/prometheus $prometheus/promtool >&2
	# The Collector last: whoever finds it finds all of it.
	mv "$new/compose" "$new/prometheus" "$new/promtool" "$dir"
	mv "$new/collector" "$dir/otelcol"
fi
echo "$dir/otelcol"
