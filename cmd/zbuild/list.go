package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tonistiigi/go-csvvalue"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/session"
)

// listCmd lists what there is to build and to set.
type listCmd struct {
	What string `arg:"" optional:"" enum:"targets,variables,all" default:"all" placeholder:"WHAT" help:"targets, variables or all."`

	Project projectFlags `embed:""`

	Format string `enum:"table,json" default:"table" help:"table or json."`
}

// Help is shown by 'zbuild list --help'.
func (listCmd) Help() string {
	return `Lists the targets and groups of the project and its variables, each with its description; variables with their types and values, too. Targets whose names start with _ are there to be inherited from and not listed.

JSON is what bake's --list=type=targets,format=json and its like print; for all it is an object of both.`
}

// Run lists.
func (c *listCmd) Run(a *app) error {
	project, err := a.listing(c.Project, nil)
	if err != nil {
		return err
	}
	switch {
	case c.What == "targets":
		return listTargets(a.stdout, c.Format, project.Listed)
	case c.What == "variables":
		return listVariables(a.stdout, c.Format, project.Variables)
	case c.Format == "json":
		return writeBakeJSON(a.stdout, struct {
			Targets   []listedTarget   `json:"targets"`
			Variables []listedVariable `json:"variables"`
		}{targetsJSON(project.Listed), variablesJSON(project.Variables)})
	}
	if err := listTargets(a.stdout, c.Format, project.Listed); err != nil || len(project.Variables) == 0 {
		return err
	}
	fmt.Fprintln(a.stdout)
	return listVariables(a.stdout, c.Format, project.Variables)
}

// list is bake's --list, and what it was called before.
func (c *bakeCmd) list(a *app) error {
	what := c.List
	switch {
	case what != "":
	case c.ListTargets:
		what = "targets"
	default:
		what = "variables"
	}
	if c.Print {
		return usage(errors.New("--print and --list are two things: use one of them"))
	}
	kind, format, err := parseList(what)
	if err != nil {
		return usage(fmt.Errorf("--list: %w", err))
	}
	project, err := a.listing(c.Project, c.Targets)
	if err != nil {
		return err
	}
	if kind == "targets" {
		return listTargets(a.stdout, format, project.Listed)
	}
	return listVariables(a.stdout, format, project.Variables)
}

// parseList reads the value of --list: what to list by itself, or as
// type=WHAT,format=HOW.
func parseList(value string) (kind, format string, err error) {
	format = "table"
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return "", "", err
	}
	for _, field := range fields {
		key, text, ok := strings.Cut(field, "=")
		switch key = strings.ToLower(strings.TrimSpace(key)); {
		case !ok && len(fields) == 1:
			kind = field
		case ok && key == "type":
			kind = text
		case ok && key == "format":
			format = cmp.Or(text, format)
		default:
			return "", "", fmt.Errorf("there is nothing called %q; write type=targets,format=json", field)
		}
	}
	if kind != "targets" && kind != "variables" {
		return "", "", fmt.Errorf("there are targets and variables to list, and no %q", kind)
	}
	if format != "table" && format != "json" {
		return "", "", fmt.Errorf("there is no format %q; there are table and json", format)
	}
	return kind, format, nil
}

// listing loads a project for what it has, and not for building it.
func (a *app) listing(flags projectFlags, arguments []string) (*config.Project, error) {
	opt, err := a.session(flags, arguments, nil, nil)
	if err != nil {
		return nil, err
	}
	ctx, stop := interruptible(context.Background(), a.stderr)
	defer stop()
	opt.Load.ListOnly, opt.Load.EvaluateOnly = true, true
	project, diags := session.New(opt).Load(ctx)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return project, a.showDiagnostics(project.Sources, diags)
}

// listedTarget and listedVariable are what bake's --list prints as JSON.
type listedTarget struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Group       bool   `json:"group,omitempty"`
}

type listedVariable struct {
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	Type        string  `json:"type,omitempty"`
	Value       *string `json:"value,omitempty"`
}

func targetsJSON(list []config.Listed) []listedTarget {
	result := []listedTarget{}
	for _, t := range list {
		result = append(result, listedTarget(t))
	}
	return result
}

func variablesJSON(list []*config.Variable) []listedVariable {
	result := []listedVariable{}
	for _, v := range list {
		result = append(result, listedVariable(*v))
	}
	slices.SortStableFunc(result, func(a, b listedVariable) int { return cmp.Compare(a.Name, b.Name) })
	return result
}

// listTargets writes targets and groups as bake's --list=targets does.
func listTargets(w io.Writer, format string, list []config.Listed) error {
	if format == "json" {
		return writeBakeJSON(w, targetsJSON(list))
	}
	t := tabwriter.NewWriter(w, 1, 8, 1, '\t', 0)
	fmt.Fprintln(t, "TARGET\tDESCRIPTION")
	for _, e := range list {
		fmt.Fprintf(t, "%s\t%s\n", e.Name, e.Description)
	}
	return t.Flush()
}

// listVariables writes variables as bake's --list=variables does.
func listVariables(w io.Writer, format string, list []*config.Variable) error {
	all := variablesJSON(list)
	if format == "json" {
		return writeBakeJSON(w, all)
	}
	t := tabwriter.NewWriter(w, 1, 8, 1, '\t', 0)
	fmt.Fprintln(t, "VARIABLE\tTYPE\tVALUE\tDESCRIPTION")
	for _, v := range all {
		value := "<null>"
		if v.Value != nil {
			value = *v.Value
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", v.Name, v.Type, value, v.Description)
	}
	return t.Flush()
}
