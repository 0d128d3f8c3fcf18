package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/containerd/platforms"
	"github.com/hashicorp/hcl/v2"
	"golang.org/x/term"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/render"
	"github.com/zbuild/zbuild/internal/session"
)

// app is what verbs get from the process.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	dir            string       // working directory
	environ        []string     // the user's, before the engine has added to it
	style          render.Style // of stderr
	outStyle       render.Style // of stdout
	dumb           bool         // the terminal can only go on to the next line
	logs           *logs
	log            *slog.Logger
	engine         engineFlags
	// jsonDiagnostics is set if diagnostics are for an editor to read.
	jsonDiagnostics bool
}

// run is the whole program; it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	err := a.run(args)
	code := exitCode(err)
	if err != nil && err.Error() != "" {
		fmt.Fprintf(stderr, "zbuild: %v\n", err)
	}
	return code
}

func (a *app) run(args []string) error {
	a.environ = os.Environ()
	var err error
	if a.dir, err = os.Getwd(); err != nil {
		return usage(fmt.Errorf("the working directory cannot be found: %w", err))
	}
	a.style = styleOf(a.stderr, a.dir, os.LookupEnv)
	a.outStyle = styleOf(a.stdout, a.dir, os.LookupEnv)
	kind, _ := os.LookupEnv("TERM")
	a.dumb = kind == "dumb"
	var c cli
	parser, err := newParser(&c, a.stdout, a.stderr)
	if err != nil {
		return err
	}
	if complete(parser, a) {
		return nil
	}
	verb, err := parser.Parse(otherVerbs(shortValues(terraformFlags(args))))
	if err != nil {
		return usage(fmt.Errorf("%w\nTry '%s --help'", commandLineError(err, parser, args), command(err)))
	}
	a.engine = c.Engine
	a.jsonDiagnostics = c.Diagnostics == "json" || slices.ContainsFunc(verb.Flags(), func(f *kong.Flag) bool {
		return f.Name == "format" && f.Target.String() == "json"
	})
	a.logs = newLogs(a.stderr, c.Debug)
	a.log = a.logs.install()
	return verb.Run(a)
}

// terraformFlags are the arguments, with the flags that people know from terraform in
// the form that they are used to (-check) taken, too.
func terraformFlags(args []string) []string {
	known := []string{"-var", "-var-file"}
	if len(args) > 0 && (args[0] == "fmt" || args[0] == "validate") {
		known = append(known, "-check", "-diff", "-recursive", "-json", "-write", "-list")
	}
	args = slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		name, _, _ := strings.Cut(arg, "=")
		if slices.Contains(known, name) {
			args[i] = "-" + arg
		}
	}
	return args
}

// shortValues are the arguments, with -f=FILE, as buildx takes it, made into --file=FILE.
func shortValues(args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		for short, long := range map[string]string{"-f=": "--file=", "-j=": "--jobs=", "-o=": "--output="} {
			if value, ok := strings.CutPrefix(arg, short); ok {
				args[i] = long + value
			}
		}
	}
	return args
}

// otherVerbs are the arguments, with 'zbuild help' and 'zbuild help VERB', as many
// programs have it, made into --help, and buildx's short name for bake into that. As an
// alias of the parser's it would be in every message.
func otherVerbs(args []string) []string {
	if len(args) == 0 {
		return args
	}
	switch args[0] {
	case "help":
		return append(slices.Clone(args[1:]), "--help")
	case "f":
		return append([]string{"bake"}, args[1:]...)
	}
	return args
}

// styleOf finds out what the terminal can do. NO_COLOR and CLICOLOR_FORCE are
// what many programs follow: no-color.org, bixense.com/clicolors.
func styleOf(w io.Writer, dir string, env func(string) (string, bool)) render.Style {
	style := render.Style{Dir: dir}
	if fd, ok := terminal(w); ok {
		style.Color = true
		if width, _, err := term.GetSize(fd); err == nil {
			style.Width = width
		}
	}
	if v, _ := env("TERM"); v == "dumb" {
		style.Color = false
	}
	if v, _ := env("CLICOLOR_FORCE"); v != "" && v != "0" {
		style.Color = true
	}
	if v, _ := env("NO_COLOR"); v != "" {
		style.Color = false
	}
	return style
}

// terminal is the descriptor of a stream, if that is a terminal.
func terminal(stream any) (fd int, ok bool) {
	f, ok := stream.(interface{ Fd() uintptr })
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}

// notTerminal is w, or nil if a person would have to read what is written there.
func notTerminal(w io.Writer) io.Writer {
	if _, ok := terminal(w); ok {
		return nil
	}
	return w
}

// session makes a session on the project that the flags ask for.
func (a *app) session(p projectFlags, targets, overrides []string, sink event.Sink) (session.Options, error) {
	vars, err := p.vars()
	if err != nil {
		return session.Options{}, usage(err)
	}
	return session.Options{
		Load: config.Request{
			Dir:           a.dir,
			Files:         p.Files,
			Stdin:         a.stdin,
			LookupEnv:     os.LookupEnv,
			Environ:       a.environ,
			Version:       cmp.Or(version, "devel"),
			Vars:          vars,
			VarFiles:      p.VarFiles,
			EnvFiles:      p.EnvFiles,
			Pipes:         &config.Pipes{},
			Targets:       targets,
			Overrides:     overrides,
			Allow:         p.Allow,
			LocalPlatform: platforms.FormatAll(platforms.DefaultSpec()),
		},
		OpenEngine: func(ctx context.Context) (session.Engine, error) {
			return openEngine(ctx, a.engine, a.log)
		},
		Limits: a.engine.limits(),
		Bucket: openBucket,
		Stdout: notTerminal(a.stdout),
		Sink:   sink,
	}, nil
}

// enterLate has the user namespace entered when the engine is asked for and not
// before: only what starts from an image needs the store. Nothing has been printed
// or built by then, so the process may start itself again; but standard input and
// pipes can be read only once.
func enterLate(opt *session.Options) error {
	for _, name := range slices.Concat(opt.Load.Files, opt.Load.EnvFiles, opt.Load.VarFiles) {
		if info, err := os.Stat(name); name == "-" || err == nil && !info.Mode().IsRegular() {
			return enterNamespace()
		}
	}
	open := opt.OpenEngine
	opt.OpenEngine = func(ctx context.Context) (session.Engine, error) {
		if err := enterNamespace(); err != nil {
			return nil, err
		}
		return open(ctx)
	}
	return nil
}

// diagnostics shows what loading and planning had to say and gives the error
// that it comes to, if any.
func (a *app) diagnostics(g *session.Generation) error {
	if len(g.Diagnostics) > 0 {
		if g.Result != nil && !a.jsonDiagnostics {
			fmt.Fprintln(a.stderr) // after the progress
		}
	}
	return a.showDiagnostics(g.Sources(), g.Diagnostics)
}

// showDiagnostics shows diagnostics and gives the error that they come to.
func (a *app) showDiagnostics(sources map[string][]byte, diags hcl.Diagnostics) error {
	if len(diags) > 0 {
		var err error
		if a.jsonDiagnostics {
			err = render.DiagnosticsJSON(a.stderr, sources, diags)
		} else {
			err = render.Diagnostics(a.stderr, sources, diags, a.style)
		}
		if err != nil {
			return err
		}
	}
	if allow, _ := config.Refusals(diags); len(allow) > 1 && !a.jsonDiagnostics {
		fmt.Fprintf(a.stderr, "To allow all of it: %s\n", allowFlags(allow))
	}
	if code := diagnosticsCode(diags); code != exitOK {
		return &exitError{code: code}
	}
	return nil
}

// ended gives the error that a generation ended with before it was run, if any.
func (a *app) ended(g *session.Generation) error {
	var engine *session.EngineError
	var exit *exitError
	switch {
	case errors.Is(g.Err, errInterrupted), errors.As(g.Err, &exit):
		return g.Err
	case errors.As(g.Err, &engine):
		return withDoctor(engine)
	}
	return a.diagnostics(g)
}

// withDoctor says of an engine that cannot be used what says more, unless that is said
// already.
func withDoctor(err *session.EngineError) error {
	if strings.Contains(err.Error(), "zbuild doctor") {
		return err
	}
	return fmt.Errorf("%w\n'zbuild doctor' says more", err)
}
