package main

import (
	"context"
	"fmt"

	"github.com/docker/buildx/util/urlutil"

	"github.com/zbuild/zbuild/internal/render"
	"github.com/zbuild/zbuild/internal/session"
)

// validateCmd checks the build files.
type validateCmd struct {
	Targets []string `arg:"" optional:"" predictor:"target" placeholder:"TARGET" help:"Targets and groups to check; globs are allowed. Default: all."`

	Project projectFlags `embed:""`
	Report  reportFlags  `embed:""`

	JSON bool `name:"json" help:"Write the result as JSON, in the form of 'terraform validate -json'. Also -json; the same as --format=json."`
}

// Help is shown by 'zbuild validate --help'.
func (validateCmd) Help() string {
	return `Checks the build files, and every target in them, without looking at Dockerfiles or images: it is quick, and needs no engine. All mistakes are told at once.

Ends with 0 if the project can be evaluated, warnings or not, else with 2.`
}

// Run checks.
func (c *validateCmd) Run(a *app) error {
	opt, err := a.session(c.Project, c.Targets, c.Project.Set, nil)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background(), a.stderr)
	defer stop()
	if n := len(c.Targets); n == 0 || urlutil.IsRemoteURL(c.Targets[n-1]) {
		opt.Load.Targets = append(opt.Load.Targets, "*")
	}
	project, diags := session.New(opt).Load(ctx)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if c.JSON || a.jsonDiagnostics {
		if err := render.DiagnosticsJSON(a.stdout, project.Sources, diags); err != nil {
			return err
		}
		if code := diagnosticsCode(diags); code != exitOK {
			return &exitError{code: code}
		}
		return nil
	}
	if err := a.showDiagnostics(project.Sources, diags); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "The project is valid: %s.\n", render.Count(len(project.Targets), "target"))
	return err
}
