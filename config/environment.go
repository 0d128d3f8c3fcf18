package config

import (
	"maps"
	"slices"
	"strconv"

	"github.com/zbuild/zbuild/internal/exporter"
)

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
	l.project.CommitLabels = CommitLabels{
		Wanted:    l.envFlag("BUILDX_GIT_LABELS") || l.env("BUILDX_GIT_LABELS") == "full",
		MarkDirty: l.envFlag("BUILDX_GIT_CHECK_DIRTY"),
	}
	for name, what := range map[string]string{
		"BUILDX_GIT_INFO":       "provenance does not say which commit an image was built from",
		"BUILDX_DEFAULT_POLICY": "only the project's own policies are evaluated",
	} {
		if l.envFlag(name) {
			l.warnf(nil, name+" is not available yet", "This release ignores it: %s.", what)
		}
	}
	for _, name := range []string{"BUILDX_BUILDER", "BUILDKIT_HOST"} {
		if value := l.env(name); value != "" {
			l.warnf(nil, name+" is ignored", "It names a builder for buildx; zbuild builds in its own process.")
		}
	}
	for _, name := range []string{"BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP", envNoLoad, envNoArtifact} {
		if value := l.env(name); value != "" {
			if _, err := strconv.ParseBool(value); err != nil {
				l.warnf(nil, "Invalid environment", "%s is %q, which is not a bool; it is ignored.", name, value)
			}
		}
	}
	if value := l.env(envEpoch); value != "" {
		if _, err := strconv.ParseInt(value, 10, 64); err != nil {
			l.errorf(nil, "Invalid environment", "%s is %q, which is not a number of seconds since 1970. Unset it, or set it to one, such as that of the last commit: git log -1 --format=%%ct.", envEpoch, value)
		}
	}
}

// Variables by which buildx is told what targets leave.
const (
	envNoLoad     = "BUILDX_NO_DEFAULT_LOAD"
	envNoArtifact = "BUILDX_NO_DEFAULT_OCI_ARTIFACT"
)

// defaultOutputs are those of a target that says nothing of outputs.
func (l *loader) defaultOutputs(annotations map[string]string) []Output {
	if l.envFlag(envNoLoad) && !l.req.EvaluateOnly {
		return []Output{{Type: exporter.CacheOnly}}
	}
	return []Output{{Type: exporter.Image, Attrs: annotations}}
}

// artifactDefault lets the environment say in which form attestations leave, where the
// output does not.
func (l *loader) artifactDefault(o *Output) {
	const attr = "oci-artifact"
	if _, said := o.Attrs[attr]; said || !l.envFlag(envNoArtifact) || l.req.EvaluateOnly {
		return
	}
	if slices.Contains([]string{exporter.Image, exporter.Registry, exporter.OCI}, o.Type) {
		attrs := map[string]string{attr: "false"}
		maps.Copy(attrs, o.Attrs)
		o.Attrs = attrs
	}
}
