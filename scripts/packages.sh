#!/bin/bash
# Usage: packages.sh PACKAGE...  Installs those Debian or Ubuntu packages that are not there yet; what is there stays as it is.
# Services that come with them are not started.
set -euo pipefail
missing=()
for package in "$@"; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
	echo "These packages are missing: ${missing[*]}. Type: sudo apt-get install ${missing[*]}" >&2
	exit 1
fi
policy=/usr/sbin/policy-rc.d # invoke-rc.d(8)
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod +x $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -o DPkg::Lock::Timeout=300 update
apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-remove --no-install-recommends "${missing[@]}" >/dev/null
