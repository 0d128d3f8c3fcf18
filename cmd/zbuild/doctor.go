package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// doctorCmd says whether this machine can build.
type doctorCmd struct {
	Format string `enum:"text,json" default:"text" help:"text or json."`
}

// Help is shown by 'zbuild doctor --help'.
func (doctorCmd) Help() string {
	return `Tries out what a build needs of this machine. Says what was chosen and why, and what to do about what is missing. Ends with 0 if zbuild can build here, else with 125.`
}

// The states of a check.
const (
	checkOK   = "ok"
	checkWarn = "warn" // builds work, something does not
	checkFail = "fail" // builds do not work
)

// check is one thing that was tried.
type check struct {
	Name   string `json:"name"`
	Value  string `json:"value,omitempty"`
	Status string `json:"status"`
	// Detail says why, Fix what to do.
	Detail string `json:"detail,omitempty"`
	Fix    string `json:"fix,omitempty"`
}

// examination is what 'doctor --format json' prints.
type examination struct {
	Usable bool    `json:"usable"`
	Checks []check `json:"checks"`
}

// versionCheck names what is linked in.
func versionCheck(v versions) check {
	var libs []string
	for _, module := range libraries() {
		if version, ok := v.Libraries[module]; ok {
			libs = append(libs, strings.TrimPrefix(module, "go.podman.io/")+" "+version)
		}
	}
	return check{
		Name: "zbuild", Status: checkOK,
		Value:  fmt.Sprintf("%s, %s %s", cmp.Or(v.Version, "unknown version"), v.Go, v.Platform),
		Detail: strings.Join(libs, ", "),
	}
}

// unusable is what there is to say if nothing more can be tried.
func unusable(err error) examination {
	return examination{Checks: []check{{Name: "engine", Status: checkFail, Detail: err.Error()}}}
}

// Run examines and prints.
func (c *doctorCmd) Run(a *app) error {
	if err := enterNamespace(); err != nil {
		return errors.Join(c.print(a, unusable(err)), &exitError{code: exitUnusable})
	}
	ctx, stop := interruptible(context.Background(), a.stderr)
	defer stop()
	e := probe(ctx, a.engine, a.log)
	e.Checks = append([]check{versionCheck(currentVersions())}, e.Checks...)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := c.print(a, e); err != nil {
		return err
	}
	if !e.Usable {
		return &exitError{code: exitUnusable}
	}
	return nil
}

func (c *doctorCmd) print(a *app, e examination) error {
	if c.Format == "json" {
		return writeJSON(a.stdout, e)
	}
	_, err := io.WriteString(a.stdout, e.String())
	return err
}

// String is the examination for people: a line per check, and what to say about
// it below.
func (e examination) String() string {
	names, values := 0, 0
	for _, c := range e.Checks {
		names, values = max(names, len(c.Name)), max(values, len(c.Status))
	}
	var b strings.Builder
	for _, c := range e.Checks {
		line := fmt.Sprintf("%-*s  %-*s  %s", values, c.Status, names, c.Name, c.Value)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		indent := strings.Repeat(" ", values+names+4)
		text := c.Detail
		if c.Fix != "" {
			text = strings.TrimLeft(text+"\nfix: "+c.Fix, "\n")
		}
		for line := range strings.Lines(text) {
			b.WriteString(indent + strings.TrimRight(line, " \n") + "\n")
		}
	}
	switch {
	case !e.Usable:
		b.WriteString("\nzbuild cannot build on this machine; see what failed above.\n")
	default:
		b.WriteString("\nzbuild can build on this machine.\n")
	}
	return b.String()
}
