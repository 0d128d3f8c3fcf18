package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/docker/buildx/util/buildflags"

	"github.com/zbuild/zbuild/internal/render"
	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/runner"
)

// bakeCmd builds targets.
type bakeCmd struct {
	Targets []string `arg:"" optional:"" predictor:"target" placeholder:"TARGET" help:"Targets and groups to build; globs are allowed. Default: the group or target 'default'."`

	Project projectFlags `embed:""`
	Report  reportFlags  `embed:""`

	Print      bool     `help:"Print the evaluated targets as JSON and build nothing."`
	DryRun     bool     `short:"n" help:"Show which steps would run, and what would be tagged, pushed or written, and build nothing."`
	List       string   `predictor:"list" placeholder:"WHAT" help:"List targets or variables and build nothing; type=targets,format=json as JSON."`
	Push       bool     `help:"Push to the registries that the tags name, after all targets have succeeded. Short for --set=*.push=true."`
	Load       bool     `help:"Accepted for compatibility with bake: images are in the local store anyway."`
	Pull       pullFlag `placeholder:"WHEN" help:"Fetch base images even if they are in the local store; or missing, newer, always, never, as with podman. Short for --set=*.pull=true."`
	NoCache    *bool    `help:"Run every step, take nothing from the cache, begin with empty cache mounts. Short for --set=*.no-cache=true."`
	Call       string   `predictor:"call" placeholder:"METHOD" help:"Instead of building: check (of the Dockerfile, by BuildKit's rules), outline or targets; with ,format=json as JSON."`
	Check      bool     `help:"Short for --call=check. Findings make the exit code 1."`
	Provenance string   `placeholder:"WHAT" help:"Attest how images were built: true, false or parameters such as mode=max. Short for --set=*.attest=type=provenance."`
	SBOM       string   `name:"sbom" placeholder:"WHAT" help:"Attest what is in images: true, false or parameters. Short for --set=*.attest=type=sbom."`
	Policy     []string `placeholder:"OPTIONS" sep:"none" help:"How policies are evaluated: disabled, strict, log-level. Repeatable."`
	Builder    string   `placeholder:"NAME" hidden:""`

	ListTargets   bool `hidden:"" help:"What --list=targets is called now."`
	ListVariables bool `hidden:"" help:"What --list=variables is called now."`

	Progress     string   `predictor:"progress" placeholder:"MODE" env:"BUILDKIT_PROGRESS" help:"How to show progress: ${modes}. Default: auto."`
	Jobs         jobsFlag `short:"j" placeholder:"N" help:"How many steps may run at once. Default: the number of cores. As with bake also MODE[,parallel=N]: fail-fast, defer-output or defer-error."`
	KeepGoing    bool     `short:"k" help:"After a failure go on with what does not depend on it. What succeeds is tagged; nothing is pushed."`
	Since        string   `placeholder:"REVISION" help:"Build only the targets that use files which have changed since a revision of git, such as origin/main. Registries and URLs are not checked."`
	Explain      bool     `help:"Say why each step that ran was not taken from the cache: what has changed since the last run."`
	MetadataFile string   `placeholder:"FILE" help:"Write the digests and names of the images to a JSON file."`
	IIDFile      string   `name:"iidfile" placeholder:"FILE" help:"Write the ID of the one image that is built to a file."`
	Layers       *bool    `hidden:"" negatable:"" help:"Accepted for compatibility with buildah: steps are always cached."`

	// order is the order of the flags --set, --push, --load, --call and --check.
	order []string
}

// Help is shown by 'zbuild bake --help'.
func (bakeCmd) Help() string {
	return `Builds the targets of a project as one graph: a stage that several targets need is built once. Nothing is tagged or pushed unless every target succeeded (but see --keep-going).

Progress and errors go to standard error; errors come last, where they are not missed. The list of what was built goes to standard output.`
}

// Validate checks what the parser cannot.
func (c *bakeCmd) Validate() error {
	// Not an enum: the variable may be set to nothing, which is no mistake.
	if modes := render.Modes(); c.Progress != "" && !slices.Contains(modes, c.Progress) {
		return fmt.Errorf("--progress=%s does not exist; there are %s", c.Progress, strings.Join(modes, ", "))
	}
	if c.Layers != nil && !*c.Layers {
		return errors.New("--layers=false does not exist: steps are always cached. --no-cache uses nothing of the cache")
	}
	for _, other := range []struct {
		flag string
		set  bool
	}{
		{"--print", c.Print}, {"--list", c.List != "" || c.ListTargets || c.ListVariables}, {"--check", c.Check}, {"--call", c.Call != ""}, {"--dry-run", c.DryRun},
	} {
		if c.IIDFile != "" && other.set {
			return fmt.Errorf("--iidfile and %s exclude each other: no image is built", other.flag)
		}
		if c.Since != "" && other.set && other.flag != "--dry-run" {
			return fmt.Errorf("--since and %s exclude each other: what a target is made of is known when it is planned", other.flag)
		}
	}
	if c.Since != "" && c.IIDFile != "" {
		return errors.New("--since and --iidfile exclude each other: there may be no image")
	}
	return nil
}

// AfterApply notes in which order flags were given: what --set, --push and --load do to
// outputs depends on it, and of --call and --check it is the last that counts.
func (c *bakeCmd) AfterApply(parsed *kong.Context) error { //nolint:unparam // as Kong asks for it
	for _, p := range parsed.Path {
		if p.Flag != nil && slices.Contains([]string{"set", "push", "load", "call", "check"}, p.Flag.Name) {
			c.order = append(c.order, p.Flag.Name)
		}
	}
	return nil
}

// overrides are --set and what other flags are short for. Of the flags, those
// that are about outputs apply in the order in which they were given; the others
// win over --set, as they do for bake.
func (c *bakeCmd) overrides() ([]string, error) {
	var all []string
	set := c.Project.Set
	for _, flag := range c.order {
		switch {
		case flag == "set" && len(set) > 0:
			all, set = append(all, set[0]), set[1:]
		case flag == "push" && c.Push:
			all = append(all, "*.push=true")
		case flag == "load" && c.Load:
			all = append(all, "*.load=true")
		}
	}
	all = append(all, set...)
	if c.NoCache != nil {
		all = append(all, fmt.Sprintf("*.no-cache=%t", *c.NoCache))
	}
	if c.Pull != "" {
		all = append(all, "*.pull="+string(c.Pull))
	}
	if c.SBOM != "" {
		all = append(all, "*.attest="+buildflags.CanonicalizeAttest("sbom", c.SBOM))
	}
	if c.Provenance != "" {
		all = append(all, "*.attest="+buildflags.CanonicalizeAttest("provenance", c.Provenance))
	}
	policy, err := c.policyOverrides()
	if err != nil {
		return nil, err
	}
	call, err := c.callFunc()
	if err != nil {
		return nil, err
	}
	if call != nil {
		all = append(all, "*.call="+call.Name)
	}
	return append(all, policy...), nil
}

// callFunc is what to do instead of building; nil to build.
func (c *bakeCmd) callFunc() (*buildflags.CallFunc, error) {
	method := c.Call
	for _, flag := range c.order {
		switch {
		case flag == "call":
			method = c.Call
		case flag == "check" && c.Check:
			method = "check"
		}
	}
	call, err := buildflags.ParseCallFunc(method)
	if err != nil {
		if strings.Contains(err.Error(), "ignorestatus") {
			err = errors.New("ignorestatus is true or false")
		}
		return nil, fmt.Errorf("--call=%s: %w", method, err)
	}
	return call, nil
}

// policyOverrides are what --policy is short for. Which policies there are is the
// build file's to say.
func (c *bakeCmd) policyOverrides() ([]string, error) {
	configs, err := buildflags.ParsePolicyConfigs(c.Policy)
	if err != nil {
		return nil, fmt.Errorf("--policy: %w", err)
	}
	var all []string
	for i, p := range configs {
		switch {
		case len(p.Files) > 0:
			return nil, errors.New("--policy: filename belongs in the build file")
		case p.Reset:
			return nil, errors.New("--policy: reset belongs in the build file")
		case p.Disabled && (p.Strict != nil || p.LogLevel != nil || len(configs) > 1):
			return nil, errors.New("--policy: disabled=true stands by itself")
		case p.Disabled:
			return []string{"*.policy=disabled=true"}, nil
		}
		all = append(all, "*.policy+="+c.Policy[i])
	}
	return all, nil
}

// Run builds, or prints.
func (c *bakeCmd) Run(a *app) error {
	overrides, err := c.overrides()
	if err != nil {
		return usage(err)
	}
	call, err := c.callFunc()
	switch {
	case err != nil:
		return usage(err)
	case c.List != "" || c.ListTargets || c.ListVariables:
		return c.list(a)
	case c.Print:
		return c.print(a, overrides)
	case call != nil:
		return c.call(a, overrides, call)
	case c.DryRun:
		return c.dryRun(a, overrides)
	}
	opt, err := a.session(c.Project, c.Targets, overrides, nil)
	if err != nil {
		return err
	}
	opt.Jobs, opt.KeepGoing, opt.Since = c.Jobs.Steps, c.KeepGoing || c.Jobs.KeepGoing, c.Since
	if c.MetadataFile != "" {
		opt.Provenance = metadataProvenance(os.LookupEnv)
	}
	if c.IIDFile != "" {
		opt.Accept = oneImage
	}
	if c.Builder != "" {
		fmt.Fprintf(a.stderr, "zbuild: --builder=%s is ignored: it names a builder for buildx, and zbuild builds in its own process\n", c.Builder)
	}
	if err := enterNamespace(); err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background(), a.stderr)
	defer stop()
	for {
		again, err := c.build(ctx, a, &opt)
		if !again {
			return err
		}
	}
}

// progressMode is how progress is shown that a flag asks to be shown so.
func (a *app) progressMode(flag string) render.Mode {
	mode := render.Mode(cmp.Or(flag, string(render.ModeAuto)))
	if mode == render.ModeAuto && (a.dumb || a.logs.debug) {
		return render.ModePlain // log lines and a redrawn picture do not mix
	}
	return mode
}

// build makes one generation and says what came of it. If it was refused what the
// user then allows, again is set, and the options allow it.
func (c *bakeCmd) build(ctx context.Context, a *app, opt *session.Options) (again bool, err error) {
	mode := a.progressMode(c.Progress)
	progress, err := render.NewProgress(a.stderr, mode, a.style)
	if err != nil {
		return false, usage(err)
	}
	opt.Sink = progress
	s := session.New(*opt)
	a.logs.divert(progress)
	g := s.Generate(ctx, session.Run)
	answers := s.Ask(ctx, g)
	closeErr := errors.Join(s.Close(), progress.Close())
	a.logs.divert(nil)
	if err := c.report(a, g, progress.Mode()); err != nil {
		if mode == render.ModeRawJSON {
			return false, err
		}
		again, asked := a.grants(ctx, g, opt)
		return again, cmp.Or(asked, err)
	}
	if len(answers) > 0 {
		closeErr = errors.Join(writeAnswers(a.stdout, g.Project, answers), closeErr)
	}
	return false, cmp.Or(closeErr, answersError(answers, false))
}

// print prints the evaluated targets.
func (c *bakeCmd) print(a *app, overrides []string) error {
	opt, err := a.session(c.Project, c.Targets, overrides, nil)
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
	if c.unaffected(a, g) {
		if c.MetadataFile == "" {
			return nil
		}
		return writeMetadata(c.MetadataFile, map[string]any{})
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
	if c.MetadataFile != "" && g.Result != nil && (g.Err == nil || c.KeepGoing || c.Jobs.KeepGoing) {
		if err := writeMetadata(c.MetadataFile, buildMetadata(g)); err != nil {
			return err
		}
	}
	if g.Err != nil {
		fmt.Fprintln(a.stderr)
		if err := render.Failures(a.stderr, g.Plan, failures(g), a.style); err != nil {
			return err
		}
		return &exitError{code: exitFailed}
	}
	if c.IIDFile != "" {
		return writeImageID(c.IIDFile, g.Result)
	}
	return nil
}

// unaffected says which targets --since leaves out, and reports whether these are all.
func (c *bakeCmd) unaffected(a *app, g *session.Generation) bool {
	if len(g.Unaffected) == 0 {
		return false
	}
	all := len(g.Plan.Targets) == 0
	if all {
		fmt.Fprintf(a.stdout, "Nothing to build: no target is made of what has changed since %s.\n", c.Since)
	} else {
		fmt.Fprintf(a.stderr, "zbuild: not built, because nothing of it has changed since %s: %s\n", c.Since, strings.Join(g.Unaffected, ", "))
	}
	return all
}

// failures are what a generation has failed for.
func failures(g *session.Generation) []error {
	if g.Result != nil && len(g.Result.Failures) > 0 {
		return g.Result.Failures
	}
	return []error{g.Err}
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
