package main

import (
	"errors"

	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/planner"
)

// Exit codes. They are part of the command line's interface: docs/exit-codes.md.
const (
	exitOK          = 0
	exitFailed      = 1   // the build failed
	exitUsage       = 2   // the command line, a build file or a Dockerfile is wrong
	exitUnusable    = 125 // the engine cannot be used here
	exitInterrupted = 130 // by a signal
)

// exitError ends the process with a code. Without an error everything has been
// said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usage is an error of the command line.
func usage(err error) error { return &exitError{code: exitUsage, err: err} }

// errInterrupted is the cause of a context that a signal canceled.
var errInterrupted = errors.New("interrupted")

// exitCode is the code that a verb's error stands for.
func exitCode(err error) int {
	var exit *exitError
	var engine *session.EngineError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		return exit.code
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case errors.As(err, &engine):
		return exitUnusable
	default:
		return exitFailed
	}
}

// diagnosticsCode is the code that errors of loading and planning stand for: an
// image that cannot be had is no mistake of whoever wrote the project.
func diagnosticsCode(diags hcl.Diagnostics) int {
	code := exitOK
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		if planner.CauseOf(d) != planner.CauseImage {
			return exitUsage
		}
		code = exitFailed
	}
	return code
}
