#!/bin/bash
# All tests but the long ones: this kernel, the kernel matrix in QEMU, a real Collector and Prometheus, the packages and Kubernetes
# manifests.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/packages.sh ca-certificates gcc libc6-dev qemu-system-x86 busybox-static cpio mmdebstrap e2fsprogs stress-ng libbpf-tools bpftrace \
	fio strace tmux lintian rpm runc

# It takes minutes with an empty build cache, which are not the tests'.
e2e/collector/build.sh >/dev/null

# Kernel tests share the machine's counters, so packages run one after the other. The race detector needs cgo; probes has few
# goroutines, and its test binary is run thousands of times, which the detector makes slow.
CGO_ENABLED=1 go run ./internal/tally -race -count=1 -timeout 30m -p 1 $(go list ./... | grep -v '/probes$')
scripts/with-tracefs.sh go run ./internal/tally -count=1 -timeout 30m ./probes
scripts/fuzz.sh 40000
(cd deploy && go test -count=1 -p 1 -timeout 30m -v ./...)
# A boot takes two to five minutes on a machine of its own, and several times that on a busy one.
SIDECAR_VM_TIMEOUT=1200 go test -tags matrix -count=1 -timeout 65m -v ./e2e/vm
