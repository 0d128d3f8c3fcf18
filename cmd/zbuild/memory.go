package main

import (
	"runtime/debug"

	"github.com/zbuild/zbuild/cmd/zbuild/early"
)

// collectLess lets garbage lie for longer. Most of what a bake allocates is little
// and lives as long as the process, and a collection at every four megabytes costs
// a short one half of its time. Whoever sets GOGC or GOMEMLIMIT is not overruled.
func collectLess(env func(string) (string, bool)) {
	const limit = 768 << 20 // bytes; from there on memory counts for more than time
	if _, ok := env("GOGC"); !ok {
		debug.SetGCPercent(early.Percent)
	}
	if _, ok := env("GOMEMLIMIT"); !ok {
		debug.SetMemoryLimit(limit)
	}
}

// collectWaiting is for a process that waits between its builds: what a build has
// used goes back to the system, and the next one takes as little as it can.
func collectWaiting(env func(string) (string, bool)) {
	const percent = 100
	if _, ok := env("GOGC"); !ok {
		debug.SetGCPercent(percent)
	}
	debug.FreeOSMemory()
}
