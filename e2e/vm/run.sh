#!/usr/bin/env bash
# Boots a kernel of the matrix in QEMU, runs Go test binaries in it as root, and powers off.
#
#   run.sh [option]... KERNEL BINARY... [-- TEST-FLAG...]
#
#   KERNEL     a name that kernels.sh knows
#   BINARY     a static test binary (CGO_ENABLED=0 go test -c -o x.test ./x); a folder testdata beside it goes with it,
#              and the binary runs in the folder that holds both
#   TEST-FLAG  for every binary, such as -test.run=TestName
#
#   -n NAME    what the tests find in SIDECAR_VM_KERNEL (KERNEL)
#   -s SMP     QEMU's -smp (2); matrix_test.go says how 2,maxcpus=128 makes 128 possible CPUs
#   -m SIZE    memory (1536M)
#   -a WORDS   more words for the kernel's command line
#   -q WORDS   more options for QEMU
#   -k NAMES   modules that modprobe finds in the guest, besides what they depend on (null_blk loop veth sch_netem openvswitch)
#   -f FILE    a file or folder to put into the guest's /files; may be repeated
#   -l LOG     the file that gets the console (~/.cache/sidecar/vm/NAME.log)
#   -t SECONDS the time limit, boot and tests together (600)
#
# Prints the guest's SIDECAR- lines. Fails when a binary failed and, with the end of the console, when the guest did not
# get through all of them.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$here/common.sh"

name='' smp=2 memory=1536M append='' qemu=() modules='null_blk loop veth sch_netem openvswitch' files=() log='' limit=600
while getopts n:s:m:a:q:k:f:l:t: option; do
	case $option in
	n) name=$OPTARG ;;
	s) smp=$OPTARG ;;
	m) memory=$OPTARG ;;
	a) append=$OPTARG ;;
	q) read -ra qemu <<<"$OPTARG" ;;
	k) modules=$OPTARG ;;
	f) files+=("$OPTARG") ;;
	l) log=$OPTARG ;;
	t) limit=$OPTARG ;;
	*) die "see the head of $0" ;;
	esac
done
shift $((OPTIND - 1))
[[ $# -ge 2 ]] || die "which kernel and which test binaries? See the head of $0"
kernel=$1
shift
name=${name:-$kernel}
fresh_log "$name"
need qemu-system-x86_64=qemu-system-x86 cpio=cpio busybox=busybox-static
fetched=$("$here/kernels.sh" "$kernel")
read -r _ version vmlinuz <<<"$fetched"

work=$(mktemp -d)
trap 'end_guest; rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,dev,files,lib,proc,sys,tests,tmp}
ln -s bin "$root/sbin" # where the kernel looks for modprobe
cp "$(command -v busybox)" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
cp "$here/init" "$root/init"

# Only the modules asked for: unpacking all of them would take longer than the rest of the boot.
from=$(echo "$(dirname "$vmlinuz")"/lib/modules/*)
target=$root/lib/modules/$(basename "$from")
mkdir -p "$target"
for module in $modules; do
	awk -v module="/$module.ko" -F '[: ]+' 'index($1, module) { for (i = 1; i <= NF; i++) if ($i) print $i }' \
		"$from/modules.dep" >"$work/wanted"
	[[ -s $work/wanted ]] || die "kernel $version has no module $module"
	(cd "$from" && xargs -a "$work/wanted" cp -n --parents -t "$target")
done
busybox depmod -b "$root" "$(basename "$from")"

while [[ $# -gt 0 && $1 != -- ]]; do
	[[ -x $1 ]] || die "$1 is no executable: build it with go test -c"
	folder=$root/tests/$(basename "$1")
	mkdir "$folder"
	cp "$1" "$folder/"
	[[ ! -d $(dirname "$1")/testdata ]] || cp -r "$(dirname "$1")/testdata" "$folder/"
	shift
done
[[ ${#files[@]} -eq 0 ]] || cp -r "${files[@]}" "$root/files/"
[[ ${1:-} != -- ]] || shift

(cd "$root" && find . | cpio --quiet --create --format=newc --owner=0:0 | gzip -1) >"$work/initrd"

boot "$name" "$limit" -smp "$smp" -m "$memory" "${qemu[@]}" -kernel "$vmlinuz" -initrd "$work/initrd" \
	-append "console=ttyS0 panic=-1 $append SIDECAR_VM_KERNEL=$name -- -test.timeout=$((limit * 4 / 5))s $*"
