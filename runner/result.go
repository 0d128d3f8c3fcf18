package runner

import (
	"encoding/json"
	"fmt"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/planner"
)

// ExitError is a process of a RUN that ended with a status other than zero, or
// by a signal.
type ExitError struct {
	Code   int    // exit status; 128 + the signal's number for a signal
	Signal string // name of the signal, or empty
}

func (e *ExitError) Error() string {
	if e.Signal != "" {
		return "killed by " + e.Signal
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// StepError is the failure of a step: the root cause of a failed build.
type StepError struct {
	Step *planner.Step
	// Output is the end of what the step printed, whole lines.
	Output []string
	Err    error
}

func (e *StepError) Error() string { return e.Step.Name + ": " + e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

// Result is how a run ended.
type Result struct {
	BuildID string
	// Targets are in the order of Plan.Targets, the requested ones only.
	Targets []TargetResult
	// Failures are the root causes, in the order of the steps in the plan. Steps
	// that were stopped or never started because of them are not in it.
	Failures []error
	// Ran and Cached count the steps that did work and those that were found.
	Ran, Cached int
	// Explanations say why steps ran, in the order of the plan. Only with
	// Options.History.
	Explanations []Explanation
	Duration     time.Duration
}

// TargetResult is what became of one target.
type TargetResult struct {
	Name string
	// Image is nil if the target failed, was not reached or yields none.
	Image *Image
	// Platforms are the images of a list, in the order of the target's platforms;
	// empty for a single image.
	Platforms []*Image
	// Tags are the names that the image has got, Pushed those it was pushed to.
	Tags, Pushed []string
	// Outputs are in the order of the target's outputs, those that were made.
	Outputs []OutputResult
	// Provenance has SLSA v0.2 predicates by platform, that of a single image by the
	// empty string. Only with Options.Provenance.
	Provenance map[string]json.RawMessage
}

// OutputResult is what became of one output of a target.
type OutputResult struct {
	// Type is that of the output, Dest where it went: a path, "-", or empty.
	Type, Dest string
	// Descriptor is that of the image or list, as it left or as it is in the
	// store. It is empty for a file tree.
	Descriptor ocispecs.Descriptor
	// Config is the digest of the image's configuration; empty for a list.
	Config digest.Digest
	// Names are those that the image has there.
	Names []string

	order int // among the target's outputs
}

// PlatformError says that programs for a platform cannot be run on this machine.
type PlatformError struct {
	Platform string // wanted, as "linux/arm64"
	Host     string
}

func (e *PlatformError) Error() string {
	return fmt.Sprintf("this machine (%s) cannot run programs for %s; install an emulator: on Debian 'apt install qemu-user-static binfmt-support', elsewhere 'podman run --privileged --rm docker.io/tonistiigi/binfmt --install all'",
		e.Host, e.Platform)
}
