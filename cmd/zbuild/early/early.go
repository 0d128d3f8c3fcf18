// Package early is initialised before most of the packages that zbuild is made of.
// What those allocate on their way would bring about a garbage collection of nearly
// nothing, which is a tenth of the time that the program takes to start. What counts
// afterwards main says.
package early

import (
	"os"
	"runtime/debug"
)

// Percent is how much garbage there may be for what lives, as with GOGC.
const Percent = 400

func init() {
	if _, ok := os.LookupEnv("GOGC"); !ok {
		debug.SetGCPercent(Percent)
	}
}
