package main

import (
	"testing"

	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/probes"
)

// TestTrialMemory gives the enabled probes no more memory than they need: the trial loads the others too.
func TestTrialMemory(t *testing.T) {
	c, err := loadConfig("")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := probes.RunningKernel()
	if err != nil {
		t.Fatal(err)
	}
	for name, probe := range c.Probes {
		probe.Enabled = name == "process"
		c.Probes[name] = probe
	}
	c.SeriesLimit = 1
	plan, err := probes.NewPlan(probes.All(), probeOptions(c), kernel)
	if err != nil {
		t.Fatal(err)
	}
	c.MemoryLimit = config.ByteSize(plan.Memory)
	reports, _, err := tryProbes(c, kernel)
	if err != nil || len(reports) != len(probes.All()) {
		t.Errorf("%v, %v", reports, err)
	}
}
