package config

import "strconv"

// checkEnvironment is about variables with which buildx is told to do what this
// release does not: none is ignored in silence.
func (l *loader) checkEnvironment() {
	const policy = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"
	if name := l.env(policy); name != "" {
		// bake reads it to print, too.
		if _, err := readRegular(l.abs(name)); err != nil {
			l.errorf(nil, "Cannot read the source policy", "%s: %s", name, readProblem(err))
		} else if !l.req.EvaluateOnly {
			l.errorf(nil, "Source policies are not available yet",
				"%s is set, and a build without it could use what it forbids. Unset it to build without, or write what may be used in the project's policy.", policy)
		}
	}
	if l.req.EvaluateOnly {
		return
	}
	for name, what := range map[string]string{
		"BUILDX_GIT_LABELS":     "images get no labels that say which commit they were built from",
		"BUILDX_DEFAULT_POLICY": "only the project's own policies are evaluated",
	} {
		if on, err := strconv.ParseBool(l.env(name)); on && err == nil || l.env(name) == "full" {
			l.warnf(nil, name+" is not available yet", "This release ignores it: %s.", what)
		}
	}
}
