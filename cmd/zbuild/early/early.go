// Package early lets garbage lie for longer. Most of what a bake allocates is little
// and lives as long as the process, and a collection at every four megabytes costs a
// short one half of its time. It is a package of its own to be initialised before most
// of those that zbuild is made of: what they allocate on their way would else be
// collected, for nearly nothing, in a tenth of the time that the program takes to
// start. Whoever sets GOGC is not overruled. Nothing else belongs here.
package early

import (
	"os"
	"runtime/debug"
)

func init() {
	const percent = 400
	if _, ok := os.LookupEnv("GOGC"); !ok {
		debug.SetGCPercent(percent)
	}
}
