// Command zbuild builds many container images as one graph of stages, by buildah
// in this process.
//
// This package is the process: its environment and streams, the command line
// (one file per verb), signals and exit codes. What a verb does is done by the
// rooms below.
package main

import (
	"os"
)

func main() {
	// The engine starts this program again for what has to be done in a process
	// of its own. Nothing may come before that.
	if initReexec() {
		return
	}
	limitMemory(os.LookupEnv)
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
