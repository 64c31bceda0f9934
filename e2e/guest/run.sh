#!/usr/bin/env bash
# Boots a guest with systemd in QEMU, runs a Go test binary in it as root, and powers off.
#
#   run.sh [option]... GUEST BINARY... [-- TEST-FLAG...]
#
#   GUEST      a name that image.sh knows
#   BINARY     a static test binary (CGO_ENABLED=0 go test -c -o x.test ./x)
#   TEST-FLAG  such as -test.run=TestName
#
#   -f FILE    a file or folder to put beside the test binary, which runs in a folder that is read-only; may be repeated
#   -m SIZE    memory (2G)
#   -l LOG     the file that gets the console (~/.cache/sidecar/vm/GUEST.log)
#   -t SECONDS the time limit, boot and tests together (900)
#
# Prints the guest's SIDECAR- lines. Fails when a binary failed and, with the end of the console, when the guest did not
# get through all of them.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$here/../vm/common.sh"

files=() memory=2G log='' limit=900
while getopts f:m:l:t: option; do
	case $option in
	f) files+=("$OPTARG") ;;
	m) memory=$OPTARG ;;
	l) log=$OPTARG ;;
	t) limit=$OPTARG ;;
	*) die "see the head of $0" ;;
	esac
done
shift $((OPTIND - 1))
[[ $# -ge 2 ]] || die "which guest and which test binaries? See the head of $0"
guest_name=$1
shift
fresh_log "$guest_name"
need qemu-system-x86_64=qemu-system-x86 mke2fs=e2fsprogs
image=$("$here/image.sh" "$guest_name")

work=$(mktemp -d)
trap 'end_guest; rm -rf "$work"' EXIT
mkdir "$work/payload"
while [[ $# -gt 0 && $1 != -- ]]; do
	files+=("$1")
	shift
done
[[ ${1:-} != -- ]] || shift
cp -r "$here/init" "${files[@]}" "$work/payload/"
echo "-test.timeout=$((limit * 4 / 5))s $*" >"$work/payload/flags"
mke2fs -q -t ext4 -d "$work/payload" "$work/disk" $(($(du -sm "$work/payload" | cut -f1) * 5 / 4 + 16))M >/dev/null

drive=format=raw,if=virtio
boot "$guest_name" "$limit" -cpu max -smp 2 -m "$memory" -device virtio-rng-pci \
	-drive "file=$image/disk,$drive,snapshot=on" -drive "file=$work/disk,$drive,readonly=on" \
	-kernel "$image/vmlinuz" -initrd "$image/initrd" -append "console=ttyS0 root=/dev/vda rw quiet panic=-1 systemd.default_timeout_start_sec=300"
