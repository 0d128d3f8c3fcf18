package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zbuild/zbuild/internal/render"
	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/runner"
)

// bakeCmd builds targets.
type bakeCmd struct {
	Targets []string `arg:"" optional:"" placeholder:"TARGET" help:"Targets and groups to build; globs are allowed. Default: the group or target 'default'."`

	Project projectFlags `embed:""`

	Print        bool   `help:"Print the evaluated targets as JSON and build nothing."`
	Push         bool   `help:"Push to the registries that the tags name, after all targets have succeeded. Short for --set=*.push=true."`
	Load         bool   `help:"Accepted for bake's sake: images are always in the local store."`
	Pull         *bool  `help:"Fetch base images even if they are in the local store. Short for --set=*.pull=true."`
	NoCache      *bool  `help:"Run every step, take nothing from the cache. Short for --set=*.no-cache=true."`
	Progress     string `placeholder:"MODE" env:"BUILDKIT_PROGRESS" help:"How to show progress: ${modes}. Default: auto."`
	Jobs         int    `short:"j" placeholder:"N" help:"How many steps may run at once. Default: the number of cores."`
	KeepGoing    bool   `short:"k" help:"After a failure go on with what does not depend on it. What succeeds is tagged; nothing is pushed."`
	Explain      bool   `help:"Say of every step that ran why it was not taken from the cache: what changed, against the last run."`
	MetadataFile string `placeholder:"FILE" help:"Write the digests and names of the images to a JSON file."`
}

// Help is shown by 'zbuild bake --help'.
func (bakeCmd) Help() string {
	return `Builds the targets of a project as one graph: a stage that several targets need is built once. Nothing is tagged or pushed unless every target succeeded (but see --keep-going).

Progress and problems go to standard error, and so that they are not missed, problems come last. The list of what was built goes to standard output.`
}

// Validate checks what the parser cannot.
func (c *bakeCmd) Validate() error {
	if c.Jobs < 0 {
		return fmt.Errorf("--jobs=%d: want a number of steps, or 0 for one per core", c.Jobs)
	}
	// Not an enum: the variable may be set to nothing, which is no mistake.
	if modes := render.Modes(); c.Progress != "" && !slices.Contains(modes, c.Progress) {
		return fmt.Errorf("--progress=%s does not exist; there are %s", c.Progress, strings.Join(modes, ", "))
	}
	return nil
}

// overrides are --set and, after it, what the other flags are short for: a flag
// wins over --set, as it does for bake.
func (c *bakeCmd) overrides() []string {
	all := append([]string(nil), c.Project.Set...)
	if c.Push {
		all = append(all, "*.push=true")
	}
	if c.Load {
		all = append(all, "*.load=true")
	}
	if c.NoCache != nil {
		all = append(all, fmt.Sprintf("*.no-cache=%t", *c.NoCache))
	}
	if c.Pull != nil {
		all = append(all, fmt.Sprintf("*.pull=%t", *c.Pull))
	}
	return all
}

// Run builds, or prints.
func (c *bakeCmd) Run(a *app) error {
	if c.Print {
		return c.print(a)
	}
	mode := render.Mode(cmp.Or(c.Progress, string(render.ModeAuto)))
	if a.logs.debug && mode == render.ModeAuto {
		mode = render.ModePlain // log lines and a redrawn picture do not mix
	}
	progress, err := render.NewProgress(a.stderr, mode, a.style)
	if err != nil {
		return usage(err)
	}
	opt, err := a.session(c.Project, c.Targets, c.overrides(), progress)
	if err != nil {
		return err
	}
	opt.Jobs, opt.KeepGoing = c.Jobs, c.KeepGoing
	if err := enterNamespace(); err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background(), a.stderr)
	defer stop()
	s := session.New(opt)
	a.logs.divert(progress)
	g := s.Generate(ctx, session.Run)
	closeErr := errors.Join(s.Close(), progress.Close())
	a.logs.divert(nil)
	if err := c.report(a, g, progress.Mode()); err != nil {
		return err
	}
	return closeErr
}

// print prints the evaluated targets.
func (c *bakeCmd) print(a *app) error {
	opt, err := a.session(c.Project, c.Targets, c.overrides(), nil)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background(), a.stderr)
	defer stop()
	g := session.New(opt).Generate(ctx, session.Load)
	if err := a.ended(g); err != nil {
		return err
	}
	return g.Project.Print(a.stdout)
}

// report says what came of the build, failures last.
func (c *bakeCmd) report(a *app, g *session.Generation, mode render.Mode) error {
	if err := a.ended(g); err != nil {
		return err
	}
	out := a.stdout
	if writesToStdout(g.Result) {
		out = a.stderr
	}
	if c.Explain && g.Result != nil {
		if err := render.Explain(out, g.Plan, g.Result.Explanations, a.outStyle); err != nil {
			return err
		}
	}
	built := g.Result
	if g.Err != nil {
		built = succeeded(g.Result)
	}
	if built != nil && (mode == render.ModePlain || mode == render.ModeTTY) {
		if err := render.Summary(out, built, a.outStyle); err != nil {
			return err
		}
	}
	if g.Err != nil {
		failures := []error{g.Err}
		if g.Result != nil && len(g.Result.Failures) > 0 {
			failures = g.Result.Failures
		}
		fmt.Fprintln(a.stderr)
		if err := render.Failures(a.stderr, g.Plan, failures, a.style); err != nil {
			return err
		}
		return &exitError{code: exitFailed}
	}
	if c.MetadataFile != "" {
		return writeMetadata(c.MetadataFile, g.Result)
	}
	return nil
}

// writesToStdout reports whether standard output is taken by what was built.
func writesToStdout(r *runner.Result) bool {
	return r != nil && slices.ContainsFunc(r.Targets, func(t runner.TargetResult) bool {
		return slices.ContainsFunc(t.Outputs, func(o runner.OutputResult) bool { return o.Dest == "-" })
	})
}

// succeeded is what a failed run has made nevertheless; nil if that is nothing.
func succeeded(r *runner.Result) *runner.Result {
	if r == nil {
		return nil
	}
	part := *r
	part.Targets = nil
	for _, t := range r.Targets {
		if t.Image != nil || len(t.Outputs) > 0 {
			part.Targets = append(part.Targets, t)
		}
	}
	if len(part.Targets) == 0 {
		return nil
	}
	return &part
}
