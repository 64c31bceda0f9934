// Package bpf holds the BPF programs and what is generated from them: one collection a file, for every little-endian
// machine. It has no logic of its own.
//
// After a change to a .c or .h file, run make generate.
package bpf

//go:generate ../scripts/bpf2go.sh
