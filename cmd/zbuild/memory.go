package main

import (
	"runtime/debug"

	_ "github.com/zbuild/zbuild/cmd/zbuild/early" // lets garbage lie for longer, from the start
)

// limitMemory bounds what lies about. Whoever sets GOMEMLIMIT is not overruled.
func limitMemory(env func(string) (string, bool)) {
	const limit = 768 << 20 // bytes; from there on memory counts for more than time
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
