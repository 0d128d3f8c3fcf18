package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/render"
	"github.com/zbuild/zbuild/internal/session"
)

// warnings writes what it is warned of, and nothing else.
type warnings struct {
	mu sync.Mutex
	w  io.Writer
}

// Emit is part of event.Sink.
func (s *warnings) Emit(e event.Event) {
	if warning, ok := e.(event.Warning); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		fmt.Fprintf(s.w, "zbuild: warning: %s\n", warning.Text)
	}
}

// dryRun says what building would do.
func (c *bakeCmd) dryRun(a *app, overrides []string) error {
	opt, err := a.session(c.Project, c.Targets, overrides, &warnings{w: a.stderr})
	if err != nil {
		return err
	}
	opt.Since = c.Since
	if err := enterNamespace(); err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background(), a.stderr)
	defer stop()
	s := session.New(opt)
	g := s.Generate(ctx, session.Look)
	closeErr := s.Close()
	if err := a.ended(g); err != nil {
		return err
	}
	if g.Err != nil {
		failures := []error{g.Err}
		if joined, ok := g.Err.(interface{ Unwrap() []error }); ok {
			failures = joined.Unwrap()
		}
		if err := render.Failures(a.stderr, g.Plan, failures, a.style); err != nil {
			return err
		}
		return &exitError{code: exitFailed}
	}
	if g.Plan == nil || c.unaffected(a, g) { // or targets are only asked about
		return closeErr
	}
	return errors.Join(render.Preview(a.stdout, g.Plan, g.Preview, a.outStyle), closeErr)
}
