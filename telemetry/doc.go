// Package telemetry carries the probes' values to the receivers of OpenTelemetry metrics.
//
// [Start] builds one pipeline. Once an interval, in one goroutine:
//
//	reader     the SDK's PeriodicReader starts a cycle
//	collector  takes one Snapshot from the Source; counters are observed in callbacks,
//	           histograms are produced beside the SDK, which has no observable histogram
//	delivery   puts each series' own start time into the points, cuts the cycle into
//	           requests that a receiver accepts, sends them, and tells the Source when
//	           all of them were accepted
//
// Nothing here knows BPF: what comes in are the plain values of package probes.
package telemetry
