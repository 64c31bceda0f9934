#!/bin/bash
# Usage: version.sh VERSION  Makes of a version, as git describe prints it, one that dpkg and rpm order alike: 1.2.0~rc1 is before
# 1.2.0, and 1.2.0+3.gabcdef0, three commits later, after it.
set -euo pipefail
version=${1#v}
if [[ $version =~ ^[0-9a-f]{7,40}(-dirty)?$ ]]; then # there is no tag
	version=0.0.0-$(git rev-list --count HEAD)-g$version
fi
version=$(sed -E 's/-dirty$/+dirty/; s/-([0-9]+)-g([0-9a-f]+)/+\1.g\2/; s/-/~/g' <<<"$version")
if [[ ! $version =~ ^[0-9][A-Za-z0-9.+~]*$ ]]; then
	echo "\"$1\" is no version of a package: write VERSION=1.2.3, or VERSION=1.2.3-rc1" >&2
	exit 1
fi
echo "$version"
