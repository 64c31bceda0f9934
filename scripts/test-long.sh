#!/bin/bash
# What takes too long for every change: fuzzing, storms.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/packages.sh gcc libc6-dev
SIDECAR_LONG=1 go test -count=1 -timeout 3h -v -run "TestStorm|TestKilled" ./e2e
scripts/fuzz.sh 4000000
