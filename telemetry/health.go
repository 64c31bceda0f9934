package telemetry

import (
	"time"

	"github.com/ebpf-sidecar/sidecar/probes"
)

// Health is how a Pipeline does.
type Health struct {
	Probes   []probes.Status // at the last collection that worked; nil before
	Cycle    time.Time       // when the last collection and export ended, whatever became of them; before the first, the start
	Accepted time.Time       // when a receiver last had all of a collection; zero before
	Err      error           // why a receiver does not have all of the last collection
}

// Health may be called at any time.
func (p *Pipeline) Health() Health { return *p.delivery.health.Load() }

// ended notes how a cycle ended.
func (d *delivery) ended(err error) {
	health := *d.health.Load()
	health.Cycle, health.Err = time.Now(), err
	if err == nil {
		health.Accepted = health.Cycle
	}
	if d.collector.snapshot != nil {
		health.Probes = d.collector.snapshot.Probes
	}
	d.health.Store(&health)
}
