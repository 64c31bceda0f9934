// Command sidecar counts and times what the Linux kernel does, for each workload, and exports it as OpenTelemetry metrics.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}
