package probes

// All is the catalogue: every probe there is, in the order in which people meet them.
func All() []*Spec {
	return []*Spec{
		process(),
		scheduler(),
		block(),
		tcp(),
		drops(),
		memory(),
		signals(),
		faults(),
		interrupts(),
		syscalls(),
		locks(),
	}
}
