package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// scriptSwitchFaults takes the faults from the tasks, as we do.
const scriptSwitchFaults = `tracepoint:sched:sched_switch {
	$faults = curtask->min_flt + curtask->maj_flt;
	if (@before[tid] != $faults) { @faults[cgroup] = sum($faults - @before[tid]); @before[tid] = $faults; }
}
`

func faultEvents() []event {
	return []event{
		{"context switch", "faults", []string{"sched_switch"}, "switches", 1, 300, true, scriptSwitchFaults, nil},
		{"context switch with a page fault", "faults", []string{"sched_switch"}, "faults", 1, 300, true, scriptSwitchFaults, nil},
	}
}

// faults is a part: switches between two threads, one of which touches a page before each of its own.
func faults(arguments []string) error {
	var cpu int
	if err := numbers(arguments, &cpu); err != nil {
		return err
	}
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	return pingPong(cpu, cpu, func() error {
		err := unix.Madvise(page, unix.MADV_DONTNEED)
		page[0]++
		return err
	})
}
