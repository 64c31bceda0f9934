#!/usr/bin/env bash
# Fetches the kernels of the matrix from a Debian mirror and prints, for each, "name version path-of-vmlinuz".
#
#   kernels.sh [5.10|6.1|6.12|newest]...     without arguments: all four
#
# A kernel that is in the cache is used as it is, without network; remove its folder to get a newer build. common.sh says
# where the mirror is.
set -euo pipefail

source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/sidecar/kernels

cache=${XDG_CACHE_HOME:-$HOME/.cache}/sidecar/kernels
# Writes an apt configuration that reads the suites $2... and keeps all its state below $1, so that the machine's own
# package lists stay as they are and no root is needed.
configure_apt() {
	local dir=$1
	shift
	mkdir -p "$dir"/{lists,archives}/partial
	debian_sources "$@" >"$dir/debian.sources"
	# The machine's hooks (cleaning its own archives, refreshing its software catalogue) are not for this apt.
	cat >"$dir/apt.conf" <<-END
		#clear APT::Update;
		#clear DPkg::Post-Invoke;
		Dir::State "$dir";
		Dir::State::status "/dev/null";
		Dir::Cache "$dir";
		Dir::Etc::SourceList "$dir/debian.sources";
		Dir::Etc::SourceParts "/dev/null";
		Dir::Etc::Preferences "/dev/null";
		Dir::Etc::PreferencesParts "/dev/null";
		APT::Architecture "amd64";
		APT::Architectures { "amd64"; };
		APT::Sandbox::User "root";
	END
}

# Fetches the newest package whose name matches $2, from the suites $3..., into the cache as $1.
fetch() {
	local name=$1 pattern=$2 work image packages
	shift 2
	work=$(mktemp -d "$cache/.$name.XXXXXX")
	# shellcheck disable=SC2064 # the value of now
	trap "rm -rf '$work'" EXIT
	configure_apt "$work/apt" "$@"
	# One suite that cannot be read (a release moves to the archive site some day) leaves the others.
	apt-get -c "$work/apt/apt.conf" -qq update >&2 || echo "kernels: $name: not all of $* could be read" >&2

	# An index outlives the packages it names when a release is near its end, so try the next older one.
	while read -r image; do
		packages=("$image")
		[[ $image == linux-binary-* ]] && packages+=("linux-modules-${image#linux-binary-}")
		(cd "$work" && apt-get -c apt/apt.conf -qq download "${packages[@]}" >&2) && break
		rm -f "$work"/*.deb
	done < <(apt-cache -c "$work/apt/apt.conf" pkgnames | grep -E "$pattern" | sort -rV)

	local deb
	for deb in "$work"/*.deb; do
		[[ -e $deb ]] || die "$name: no kernel in $*: is the archive reachable, and does it still have that release?"
		dpkg -x "$deb" "$work/kernel"
	done
	mkdir -p "$work/done/lib"
	mv "$(find "$work/kernel" -type f -name 'vmlinuz*')" "$work/done/vmlinuz"
	mv "$(find "$work/kernel" -type d -path '*/lib/modules')" "$work/done/lib/" # below /lib, or /usr/lib from 7.x on
	dpkg-deb -f "$work/${packages[0]}"_*.deb Version >"$work/done/version"
	busybox depmod -b "$work/done" "$(basename "$work"/done/lib/modules/*)"
	mv "$work/done" "$cache/$name"
	rm -rf "$work"
}

# Point releases, security updates and, for the newest, sid. From 7.x on the image package is only a name for the two
# that hold the kernel and its modules.
ensure() {
	exec {lock}>"$cache/.$1.lock"
	flock "$lock" # two boots of one kernel may start together
	[[ -d $cache/$1 ]] && return
	case $1 in
	5.10) fetch "$1" '^linux-image-5\.10\.[0-9].*-cloud-amd64$' bullseye bullseye-security ;;
	6.1) fetch "$1" '^linux-image-6\.1\.[0-9].*-cloud-amd64$' bookworm bookworm-security ;;
	6.12) fetch "$1" '^linux-image-6\.12\.[0-9].*-cloud-amd64$' trixie trixie-security bookworm-security ;;
	newest) fetch "$1" '^linux-binary-[0-9].*-cloud-amd64$' sid ;;
	*) die "unknown kernel $1: one of 5.10, 6.1, 6.12, newest" ;;
	esac
}

mkdir -p "$cache"
[[ $# -gt 0 ]] || set -- 5.10 6.1 6.12 newest
for name; do
	(ensure "$name")
	echo "$name $(<"$cache/$name/version") $cache/$name/vmlinuz"
done
