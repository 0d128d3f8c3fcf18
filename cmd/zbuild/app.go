package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/containerd/platforms"
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
	style          render.Style // of stderr
	outStyle       render.Style // of stdout
	logs           *logs
	log            *slog.Logger
	engine         engineFlags
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
	var err error
	if a.dir, err = os.Getwd(); err != nil {
		return usage(fmt.Errorf("the working directory cannot be found: %w", err))
	}
	a.style = styleOf(a.stderr, a.dir, os.LookupEnv)
	a.outStyle = styleOf(a.stdout, a.dir, os.LookupEnv)
	var c cli
	parser, err := newParser(&c, a.stdout, a.stderr)
	if err != nil {
		return err
	}
	verb, err := parser.Parse(args)
	if err != nil {
		return usage(fmt.Errorf("%w\nTry 'zbuild --help'", err))
	}
	a.engine = c.Engine
	a.logs = newLogs(a.stderr, c.Debug)
	a.log = a.logs.install()
	return verb.Run(a)
}

// styleOf finds out what the terminal can do. NO_COLOR and CLICOLOR_FORCE are
// what many programs follow: no-color.org, bixense.com/clicolors.
func styleOf(w io.Writer, dir string, env func(string) (string, bool)) render.Style {
	style := render.Style{Dir: dir}
	if f, ok := w.(interface{ Fd() uintptr }); ok && term.IsTerminal(int(f.Fd())) {
		style.Color = true
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			style.Width = width
		}
	}
	if v, _ := env("CLICOLOR_FORCE"); v != "" && v != "0" {
		style.Color = true
	}
	if v, _ := env("NO_COLOR"); v != "" {
		style.Color = false
	}
	return style
}

// notTerminal is w, or nil if a person would have to read what is written there.
func notTerminal(w io.Writer) io.Writer {
	if f, ok := w.(interface{ Fd() uintptr }); ok && term.IsTerminal(int(f.Fd())) {
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
			Environ:       os.Environ(),
			Version:       cmp.Or(version, "devel"),
			Vars:          vars,
			Targets:       targets,
			Overrides:     overrides,
			Allow:         p.Allow,
			LocalPlatform: platforms.FormatAll(platforms.DefaultSpec()),
		},
		OpenEngine: func(ctx context.Context) (session.Engine, error) {
			return openEngine(ctx, a.engine, a.log)
		},
		Limits: a.engine.limits(),
		Stdout: notTerminal(a.stdout),
		Sink:   sink,
	}, nil
}

// diagnostics shows what loading and planning had to say and gives the error
// that it comes to, if any.
func (a *app) diagnostics(g *session.Generation) error {
	if len(g.Diagnostics) > 0 {
		if g.Result != nil {
			fmt.Fprintln(a.stderr) // after the progress
		}
		if err := render.Diagnostics(a.stderr, g.Sources(), g.Diagnostics, a.style); err != nil {
			return err
		}
	}
	if code := diagnosticsCode(g.Diagnostics); code != exitOK {
		return &exitError{code: code}
	}
	return nil
}

// ended gives the error that a generation ended with before it was run, if any.
func (a *app) ended(g *session.Generation) error {
	var engine *session.EngineError
	switch {
	case errors.Is(g.Err, errInterrupted):
		return g.Err
	case errors.As(g.Err, &engine):
		return fmt.Errorf("%w\n'zbuild doctor' says more", engine)
	}
	return a.diagnostics(g)
}
