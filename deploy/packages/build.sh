#!/bin/bash
# Usage: build.sh FOLDER VERSION [ARCHITECTURE]...  Builds the .deb and .rpm packages of a version, as git describe prints it, for
# amd64 and arm64 unless told, and puts them into the folder. make packages calls it.
set -euo pipefail
folder=$(realpath -m "$1")
here=$(dirname "$(readlink -f "$0")")
cd "$here/../.."
version=$2
architectures=("${@:3}")
VERSION=$("$here/version.sh" "$version")
# The time of every file, so that the same commit makes the same packages.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export VERSION SOURCE_DATE_EPOCH ARCH

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
build() { make --no-print-directory build BINARY="$1" VERSION="$version"; }

cp -r "$here"/{deb,rpm,default,copyright,lintian-overrides} LICENSE "$stage"
build "$stage/ours"
ours() { env -i "$stage/ours" "$@"; } # without what configures it in this environment
ours install --packaged >"$stage/sidecar.service"
ours config default >"$stage/config.yaml"
ours completion bash >"$stage/completion.bash"
gzip -9n >"$stage/changelog.gz" <<CHANGES
sidecar ($VERSION) unstable; urgency=medium

  * https://github.com/ebpf-sidecar/sidecar/blob/main/CHANGELOG.md

 -- The sidecar authors <sidecar@ebpf-sidecar.invalid>  $(date --utc --date "@$SOURCE_DATE_EPOCH" --rfc-email)
CHANGES

mkdir -p "$folder"
nfpm=$(cd deploy && go tool -n nfpm)
[ ${#architectures[@]} -gt 0 ] || architectures=(amd64 arm64)
for ARCH in "${architectures[@]}"; do
	GOARCH=$ARCH build "$stage/sidecar"
	for kind in deb rpm; do
		(cd "$stage" && "$nfpm" package --config "$here/nfpm.yaml" --packager $kind --target "$folder")
	done
done
