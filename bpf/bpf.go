// Package bpf holds the BPF programs and what is generated from them: one collection a file, for every little-endian
// machine. It has no logic of its own.
//
// After a change to a .c or .h file, run make generate.
package bpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -Wall -Werror -mcpu=v2" -type cgroup_entry Workload workload.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -Wall -Werror -mcpu=v2" -type creation_cell -type execution_key -type execution_cell -type exit_key -type exit_cell -type lifetime_cell Process process.bpf.c
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -cflags "-O2 -Wall -Werror -mcpu=v2" -type schedule_cell Scheduler scheduler.bpf.c
