#!/bin/bash
# Usage: bpf2go.sh [IDENTIFIER FILE]
# Builds a BPF file and the Go types for it; without arguments each of the working folder, NAME.bpf.c as Name. For go:generate.
set -euo pipefail
build() {
	go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -Wall -Werror -mcpu=v2" "$@"
}
[ $# -eq 0 ] || { build "$@" && exit; }
rm -f ./*_bpfel.go ./*_bpfel.o # of files that are no more
for file in *.bpf.c; do
	name=${file%.bpf.c}
	build "${name^}" "$file"
done
