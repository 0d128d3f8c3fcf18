package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/internal/watch"
)

// watchCmd builds targets, and again what an edit affects.
type watchCmd struct {
	Targets []string `arg:"" optional:"" predictor:"target" placeholder:"TARGET" help:"Targets and groups to build and watch; globs are allowed. Default: the group or target 'default'."`

	Project projectFlags `embed:""`

	Debounce  time.Duration `placeholder:"TIME" help:"How long to wait after the last change before building. Default: the project's, or 50ms."`
	Ceiling   time.Duration `placeholder:"TIME" help:"How long further changes can delay a build at most. Default: the project's, or 1s."`
	OnBusy    string        `placeholder:"WHAT" enum:"restart,queue," default:"" help:"What a change does to a running build: restart cancels it, queue lets it finish. Default: the project's, or restart."`
	Poll      pollFlag      `placeholder:"INTERVAL" help:"Look for changes every INTERVAL, 1s if none is given, instead of being notified: for network file systems."`
	Exec      string        `placeholder:"COMMAND" help:"A shell command to run after every successful build, after the project's own."`
	Notify    string        `placeholder:"HOW" enum:"bell,osc9," default:"" help:"Tell the terminal when a build has ended: bell, or osc9 for a notification of the desktop."`
	Events    string        `placeholder:"FILE" help:"Write events to a file, as JSON lines; '-' is standard output."`
	Progress  string        `predictor:"progress" placeholder:"MODE" env:"BUILDKIT_PROGRESS" help:"How to show progress: ${modes}. Default: auto."`
	Prune     bool          `negatable:"" default:"true" help:"Remove images that a later build of this watch has replaced, unless they have a name or something uses them. Default: true."`
	Push      bool          `help:"Push to the registries that the tags name, too. Short for --set=*.push=true."`
	Jobs      jobsFlag      `short:"j" placeholder:"N" help:"How many steps may run at once. Default: the number of cores. As with bake also MODE[,parallel=N]: fail-fast, defer-output or defer-error."`
	KeepGoing bool          `short:"k" help:"After a failure go on with what does not depend on it. What succeeds is tagged."`
}

// Help is shown by 'zbuild watch --help'.
func (watchCmd) Help() string {
	return `Builds, waits until a file changes that a target is made of, and rebuilds the targets that are affected, until it is interrupted.

What is watched is what the build reads: build files, Dockerfiles, ignore files, and of each build context the files that some step takes. A change that leaves the content as it is builds nothing.

On a terminal: r builds all targets, Enter what has failed, p pauses, e explains the last build, q quits.`
}

// pollFlag is --poll, with or without a value.
type pollFlag time.Duration

// IsBool says that the flag may stand without a value.
func (pollFlag) IsBool() bool { return true }

// Decode is part of kong's protocol.
func (f *pollFlag) Decode(ctx *kong.DecodeContext) error {
	text := optionalValue(ctx)
	if text == "true" {
		*f = pollFlag(watch.DefaultPoll)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return fmt.Errorf("want a time above zero, such as 2s, not %q", text)
	}
	*f = pollFlag(d)
	return nil
}

// Validate checks what the parser cannot.
func (c *watchCmd) Validate() error {
	for name, d := range map[string]time.Duration{"debounce": c.Debounce, "ceiling": c.Ceiling} {
		if d < 0 {
			return fmt.Errorf("--%s=%s: want a time above zero", name, d)
		}
	}
	if slices.Contains(c.Project.Files, "-") {
		return errors.New("--file -: standard input cannot be watched")
	}
	build := bakeCmd{Progress: c.Progress}
	return build.Validate()
}

// errQuit is the cause of a context that the user ended by a key.
var errQuit = errors.New("quit")

// Run watches.
func (c *watchCmd) Run(a *app) error {
	if err := enterNamespace(); err != nil {
		return err
	}
	v, err := newWatchView(a, c, a.progressMode(c.Progress))
	if err != nil {
		return err
	}
	defer v.close()
	overrides := slices.Clone(c.Project.Set)
	if c.Push {
		overrides = append(overrides, "*.push=true")
	}
	opt, err := a.session(c.Project, c.Targets, overrides, v)
	if err != nil {
		return err
	}
	opt.Jobs, opt.KeepGoing = c.Jobs.Steps, c.KeepGoing || c.Jobs.KeepGoing
	ctx, stop := interruptible(context.Background(), a.stderr)
	defer stop()
	ctx, quit := context.WithCancelCause(ctx)
	defer quit(nil)

	v.after = newAfter(ctx, a)
	defer v.after.close()
	commands := make(chan session.Command)
	keys, err := startKeys(a.stdin, func(key rune) {
		v.key(key, commands, ctx.Done(), func() { quit(errQuit) })
	})
	if err != nil {
		return err
	}
	defer keys.close()
	v.keys = keys.active() && !a.dumb

	observe := func(n session.Notice) {
		v.observe(n)
		if _, idle := n.(session.Waiting); idle {
			collectWaiting(os.LookupEnv)
		}
	}
	collectUnknown(os.LookupEnv)
	s := session.New(opt)
	a.logs.divert(v)
	err = s.Watch(ctx, session.WatchOptions{
		Quiet: c.Debounce, Ceiling: c.Ceiling, Poll: time.Duration(c.Poll), OnBusy: config.OnBusy(c.OnBusy),
		Commands: commands, Observe: observe, Sync: a.podmanSync, Prune: c.Prune, Written: c.written(a.dir),
	})
	a.logs.divert(nil)
	v.end()
	if closeErr := s.Close(); err == nil || errors.Is(err, errQuit) {
		err = closeErr
	}
	var engine *session.EngineError
	if errors.As(err, &engine) {
		return withDoctor(engine)
	}
	return err
}

// eventsFile is the absolute path of the file of --events; empty if events go nowhere, or
// to standard output.
func (c *watchCmd) eventsFile(dir string) string {
	switch {
	case c.Events == "" || c.Events == "-":
		return ""
	case filepath.IsAbs(c.Events):
		return filepath.Clean(c.Events)
	}
	return filepath.Join(dir, c.Events)
}

// written knows the files that this process writes.
func (c *watchCmd) written(dir string) func(string) bool {
	name := c.eventsFile(dir)
	if name == "" {
		return nil
	}
	return func(path string) bool { return path == name }
}

// openEvents opens the file of --events.
func (c *watchCmd) openEvents(a *app) (*os.File, error) {
	f, err := os.OpenFile(c.eventsFile(a.dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, usage(fmt.Errorf("--events: %w", err))
	}
	return f, nil
}

// list names some of many things.
func list(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most-1], ", "), len(names)-most+1)
}
