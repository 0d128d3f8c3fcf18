package main

import (
	"runtime/debug"
	"runtime/metrics"

	_ "github.com/zbuild/zbuild/cmd/zbuild/early" // lets garbage lie for longer, from the start
)

// limitMemory bounds what lies about. Whoever sets GOMEMLIMIT is not overruled.
func limitMemory(env func(string) (string, bool)) {
	const limit = 768 << 20 // bytes; from there on memory counts for more than time
	if _, ok := env("GOMEMLIMIT"); !ok {
		debug.SetMemoryLimit(limit)
	}
}

// collectUnknown is for the first build of a process that stays: how much that needs
// is not known, and what it takes at its height is what the process is seen to take.
func collectUnknown(env func(string) (string, bool)) { collectAt(env, 50) }

// collectWaiting is for a process that waits between its builds: what a build has
// used goes back to the system, and the next one may leave so much lying about and no
// more, unless what it needs is much.
func collectWaiting(env func(string) (string, bool)) {
	const (
		garbage      = 32 << 20 // bytes
		fewest, most = 50, 400  // percent of what is needed
		small        = 84 << 20 // bytes in all that nobody minds
	)
	debug.FreeOSMemory()
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples)
	live := max(samples[0].Value.Uint64(), 1)
	collectAt(env, int(min(max(100*garbage/live, fewest), most)))
	// What a build needs for a moment counts for the percentage like all the rest; with
	// many files that is nearly as much again as what stays.
	if _, ok := env("GOMEMLIMIT"); !ok {
		debug.SetMemoryLimit(int64(max(small, 2*live+live/4)))
	}
}

// collectAt sets how much garbage may lie about, in percent of what is needed. Whoever
// sets GOGC is not overruled.
func collectAt(env func(string) (string, bool), percent int) {
	if _, ok := env("GOGC"); !ok {
		debug.SetGCPercent(percent)
	}
}
