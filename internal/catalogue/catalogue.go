// Package catalogue makes what there is to configure of the probes that there are: config knows no probe, and probes know
// no configuration.
package catalogue

import (
	"github.com/ebpf-sidecar/sidecar/config"
	"github.com/ebpf-sidecar/sidecar/probes"
)

// Of lists probes and their metrics for the configuration.
func Of(specs []*probes.Spec) config.Catalogue {
	all := config.Catalogue{}
	for _, spec := range specs {
		metrics := map[string]config.Switch{}
		for instrument := range spec.Instruments() {
			metrics[instrument.Name] = config.Switch{Description: instrument.Description, Default: !instrument.OptIn}
		}
		all[spec.Name] = config.Switch{Description: spec.Description, Default: spec.Default, Metrics: metrics}
	}
	return all
}
