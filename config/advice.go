package config

import (
	"fmt"
	"os"

	"github.com/agext/levenshtein"
)

// pathHint says how to name a build file or a directory to somebody who has named one
// where a target belongs.
func (r *resolver) pathHint(written string) string {
	info, err := os.Stat(r.abs(written))
	switch {
	case err != nil || written == "":
		return ""
	case info.IsDir():
		return " It is a directory: which to build from is said in the build file, by context."
	default:
		return fmt.Sprintf(" It is a file: build files are named with --file %s.", written)
	}
}

// verbs are zbuild's own.
var verbs = [...]string{"bake", "watch", "graph", "list", "validate", "fmt", "init", "cache", "doctor", "completion", "version"}

// misspelledVerb names the verb of zbuild that somebody may have meant who has written
// a word where a target belongs: one that is a letter away, or two as a swap is.
func misspelledVerb(written string) string {
	for _, verb := range verbs {
		if levenshtein.Distance(written, verb, nil) <= min(2, len(verb)/5+1) {
			return fmt.Sprintf(" Did you mean the command 'zbuild %s'?", verb)
		}
	}
	return ""
}

// verbHint says what zbuild has for a verb of docker, podman, make and the like, to
// somebody who has written one where a target belongs.
func verbHint(written string) string {
	switch written {
	case "build", "create", "make":
		return " Leave the word out: 'zbuild TARGET' builds a target, 'zbuild' the default ones."
	case "run", "start", "exec":
		return " zbuild builds images; 'podman run IMAGE' runs one."
	case "login", "logout", "pull", "tag", "rm", "rmi", "save", "inspect":
		return fmt.Sprintf(" 'podman %s' does that.", written)
	case "all":
		return " All targets are 'zbuild \"*\"'."
	case "up", "dev":
		return " 'zbuild watch' builds, and rebuilds what each edit affects."
	case "push":
		return " To build and push: 'zbuild --push'."
	case "ls", "ps", "targets":
		return " 'zbuild list' lists what there is to build; 'podman images' lists images."
	case "images":
		return " Images are where 'podman images' and 'buildah images' list them."
	case "config", "render", "plan":
		return " 'zbuild bake --print' shows what the project evaluates to, 'zbuild bake --dry-run' what building it would do."
	case "clean", "prune", "gc":
		return " 'zbuild cache prune' removes what builds have cached."
	case "du":
		return " 'zbuild cache du' shows what builds have cached."
	case "check", "lint":
		return " 'zbuild validate' checks the build files, 'zbuild bake --check' the Dockerfiles."
	case "diagnose", "info":
		return " 'zbuild doctor' says whether this machine can build, and how."
	default:
		return ""
	}
}
