#!/usr/bin/env bash
# Builds the disk of a guest unless it is there, and prints the folder that has it, with its kernel and initrd.
#
#   image.sh trixie|bookworm
#
# trixie has systemd 257 and Docker's engine, bookworm systemd 252 and no Docker; both have their release's stock kernel. A disk
# is kept in ~/.cache/sidecar/guest by a hash of what it is built from and the month, so that updates come in. The packages come
# from the Debian mirror that the machine's apt knows. Needs root.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$here/../vm/common.sh"

suite=${1:-}
packages=(apt dbus linux-image-cloud-amd64 passwd systemd-sysv)
# Services that take long in a guest and that no test needs. docker and containerd are for the tests to start.
masked=(systemd-logind.service e2scrub_all.timer fstrim.timer apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
	getty@tty1.service serial-getty@ttyS0.service)
disabled=()
case $suite in
trixie)
	# apparmor.service would load a hundred profiles; Docker loads its own.
	packages+=(apparmor busybox-static docker-cli docker.io iptables)
	masked+=(apparmor.service)
	disabled+=(docker.service docker.socket containerd.service)
	;;
bookworm) ;;
*) die "unknown guest '$suite': one of trixie, bookworm" ;;
esac

cache=${XDG_CACHE_HOME:-$HOME/.cache}/sidecar/guest
mkdir -p "$cache"
exec {lock}>"$cache/.$suite.lock"
flock "$lock" # two boots of one guest may start together
image=$cache/$suite-$(date +%Y-%m | cat - "$here/image.sh" "$here/guest.service" | sha256sum | cut -c 1-16)
if [[ -d $image ]]; then
	echo "$image"
	exit
fi
need mmdebstrap=mmdebstrap mke2fs=e2fsprogs
[[ $(id -u) -eq 0 ]] || die "building a disk takes root. Type: sudo $0 $suite"
work=$(mktemp -d "$cache/.$suite.XXXXXX")
trap 'rm -rf "$work"' EXIT

debian_sources "$suite" "$suite-updates" "$suite-security" >"$work/sources"
# The initrd has what finds the disk, and no more: all modules would take longer to unpack than the rest of the boot.
cat >"$work/configure" <<-'END'
	mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/payload"
	echo MODULES=list >"$1/etc/initramfs-tools/conf.d/guest"
	printf 'virtio_pci\nvirtio_blk\next4\n' >"$1/etc/initramfs-tools/modules"
END
# With an id and nothing to update, the first boot is as any other.
cat >"$work/settle" <<-'END'
	systemd-machine-id-setup --root="$1" && touch "$1/etc/.updated" "$1/var/.updated"
	echo guest >"$1/etc/hostname" && printf '127.0.0.1 localhost guest\n::1 localhost\n' >"$1/etc/hosts"
END
mmdebstrap --quiet --mode=root --variant=minbase --include="$(IFS=, && echo "${packages[*]}")" \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--essential-hook="sh $work/configure \"\$1\"" \
	--customize-hook="sh $work/settle \"\$1\"" \
	--customize-hook="copy-in $here/guest.service /etc/systemd/system" \
	--customize-hook="chroot \"\$1\" systemctl --quiet enable guest.service" \
	--customize-hook="chroot \"\$1\" systemctl --quiet mask ${masked[*]}" \
	${disabled:+--customize-hook="chroot \"\$1\" systemctl --quiet disable ${disabled[*]}"} \
	--customize-hook="rm -f \"\$1\"/etc/apt/sources.list \"\$1\"/etc/apt/sources.list.d/*" \
	"$suite" "$work/root" - <"$work/sources" >&2
mkdir "$work/done"
mv "$work"/root/boot/vmlinuz-* "$work/done/vmlinuz"
mv "$work"/root/boot/initrd.img-* "$work/done/initrd"
mke2fs -q -t ext4 -d "$work/root" "$work/done/disk" 2G >/dev/null
rm -rf "$cache/$suite"-* # what it was built from before
mv "$work/done" "$image"
echo "$image"
