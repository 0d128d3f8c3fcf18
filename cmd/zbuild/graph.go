package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/zbuild/zbuild/internal/graphview"
	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/planner"
)

// graphCmd shows the graph of stages.
type graphCmd struct {
	Targets []string `arg:"" optional:"" predictor:"target" placeholder:"TARGET" help:"Targets and groups to show; globs are allowed. Default: the group or target 'default'."`

	Project projectFlags `embed:""`

	Format string `predictor:"graph" default:"tree" help:"tree, mermaid (for Markdown) or dot (for Graphviz)."`
	Steps  bool   `help:"Show the steps of each stage, too."`
}

// Help is shown by 'zbuild graph --help'.
func (graphCmd) Help() string {
	return `Plans what 'zbuild bake' would build and shows its stages, each once, with the targets that need it. Nothing is built. Base images are looked up if there are any.

Examples:

  zbuild graph                           as text
  zbuild graph api --format mermaid      for a README
  zbuild graph --format dot | dot -Tsvg > graph.svg`
}

// graphFormats are the forms that a graph can be written in.
func graphFormats() []string { return []string{"tree", "mermaid", "dot"} }

// Validate checks what the parser cannot.
func (c *graphCmd) Validate() error {
	if slices.Contains(graphFormats(), c.Format) {
		return nil
	}
	switch c.Format {
	case "svg", "png", "pdf":
		return fmt.Errorf("--format=%s is not available yet. Graphviz draws it: zbuild graph --format=dot | dot -T%s > graph.%s", c.Format, c.Format, c.Format)
	case "html":
		return errors.New("--format=html is not available yet. Write it to a Markdown file, which most viewers draw: zbuild graph --format=mermaid")
	default:
		return fmt.Errorf("--format=%s does not exist; there are tree, mermaid and dot", c.Format)
	}
}

// Run plans and draws.
func (c *graphCmd) Run(a *app) error {
	opt, err := a.session(c.Project, c.Targets, c.Project.Set, nil)
	if err != nil {
		return err
	}
	if err := enterLate(&opt); err != nil {
		return err
	}
	ctx, stop := interruptible(context.Background(), a.stderr)
	defer stop()
	s := session.New(opt)
	g := s.Generate(ctx, session.Plan)
	closeErr := s.Close()
	if err := a.ended(g); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := c.draw(&b, g.Plan); err != nil {
		return err
	}
	if _, err := a.stdout.Write(b.Bytes()); err != nil {
		return err
	}
	return closeErr
}

func (c *graphCmd) draw(w io.Writer, plan *planner.Plan) error {
	view := graphview.View{Steps: c.Steps}
	switch c.Format {
	case "mermaid":
		return view.Mermaid(w, plan)
	case "dot":
		return view.DOT(w, plan)
	default:
		return view.Tree(w, plan)
	}
}
