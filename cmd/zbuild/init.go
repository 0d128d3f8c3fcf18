package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/atomicwriter"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/render"
	"github.com/zbuild/zbuild/internal/scaffold"
)

// initCmd writes a build file.
type initCmd struct {
	From   string `placeholder:"FILE" help:"Convert this Compose or bake file. Default: the Compose file that is here, if there is one."`
	Output string `short:"o" placeholder:"FILE" default:"zbuild.hcl" help:"The file to write; '-' is standard output. Default: ${default}."`
	Force  bool   `help:"Replace a file that is there."`
}

// Help is shown by 'zbuild init --help'.
func (initCmd) Help() string {
	return `Looks for Dockerfiles here and in the directories below, and writes a zbuild.hcl that builds them: a target for each, one for each stage that nothing else builds on, and a group "default" of those that make a release. If there is a Compose file, or --from names a file, its services become targets instead.

Nothing is built, and a file that is there is not replaced without --force.`
}

// composeFiles are the names that Compose looks for.
var composeFiles = []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}

// bakeFiles are the names that bake looks for.
var bakeFiles = []string{"docker-bake.hcl", "docker-bake.json"}

// Run writes the file.
func (c *initCmd) Run(a *app) error {
	if c.Output != "-" && !c.Force {
		if _, err := os.Lstat(filepath.Join(a.dir, c.Output)); !errors.Is(err, fs.ErrNotExist) {
			return usage(fmt.Errorf("%s is there already. Replace it with --force, or write another with --output", c.Output))
		}
	}
	from := c.From
	for _, name := range composeFiles {
		if _, err := os.Stat(filepath.Join(a.dir, name)); from == "" && err == nil {
			from = name
		}
	}
	var text []byte
	var what string
	var err error
	if from != "" {
		text, what, err = c.convert(a, from)
	} else {
		text, what, err = c.scaffold(a)
	}
	if err != nil {
		return err
	}
	if c.Output == "-" {
		_, err := a.stdout.Write(text)
		return err
	}
	path := c.Output
	if !filepath.IsAbs(path) {
		path = filepath.Join(a.dir, path)
	}
	if err := atomicwriter.WriteFile(path, text, 0o644); err != nil {
		var file *fs.PathError // a temporary one, which nobody asked for
		if errors.As(err, &file) {
			err = file.Err
		}
		return usage(fmt.Errorf("cannot write %s: %w. Write it elsewhere with --output, or to standard output with --output -", c.Output, err))
	}
	for _, name := range bakeFiles {
		if _, err := os.Stat(filepath.Join(a.dir, name)); err == nil && from != name {
			fmt.Fprintf(a.stderr, "zbuild: %s, which zbuild reads as it is, is not looked at any more where there is a zbuild.hcl; 'zbuild init --force --from %s' converts it\n", name, name)
		}
	}
	_, err = fmt.Fprintf(a.stdout, "Wrote %s with %s.\nLook at it with 'zbuild list' and 'zbuild bake --print'; 'zbuild' builds it.\n", c.Output, what)
	return err
}

// scaffold writes for the Dockerfiles that are here.
func (c *initCmd) scaffold(a *app) (text []byte, what string, err error) {
	files, err := scaffold.Find(a.dir)
	if err != nil {
		return nil, "", usage(err)
	}
	targets := 0
	var names []string
	for _, f := range files {
		if f.Err != nil {
			fmt.Fprintf(a.stderr, "zbuild: %s is left out: %v\n", f.Path, f.Err)
			continue
		}
		targets += len(f.Stages)
		names = append(names, f.Path)
	}
	switch {
	case targets > 0:
	case len(files) > 0:
		return nil, "", usage(errors.New("there is no Dockerfile here or in the directories below that can be read. Mend one, or name a Compose or bake file with --from"))
	default:
		return nil, "", usage(errors.New("there is no Dockerfile here or in the directories below. " + withoutDockerfiles(a.dir)))
	}
	return scaffold.Write(filepath.Base(a.dir), files), fmt.Sprintf("%s, for %s", render.Count(targets, "target"), strings.Join(names, ", ")), nil
}

// withoutDockerfiles says what to do in a directory that has none.
func withoutDockerfiles(dir string) string {
	for _, name := range bakeFiles {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return fmt.Sprintf("There is %s, which zbuild reads as it is; 'zbuild init --from %s' converts it", name, name)
		}
	}
	return "Write one, or name a Compose or bake file with --from"
}

// convert writes what another build file says.
func (c *initCmd) convert(a *app, from string) (text []byte, what string, err error) {
	opt, err := a.session(projectFlags{Files: []string{from}}, nil, nil, nil)
	if err != nil {
		return nil, "", err
	}
	opt.Load.EvaluateOnly = true
	opt.Load.Targets = []string{"*"}
	project, diags := config.Load(context.Background(), opt.Load)
	if err := a.showDiagnostics(project.Sources, diags); err != nil {
		return nil, "", err
	}
	var printed bytes.Buffer
	if err := project.Print(&printed); err != nil {
		return nil, "", usage(err)
	}
	kind := "targets"
	if ext := filepath.Ext(from); ext == ".yaml" || ext == ".yml" {
		kind = "services"
	}
	comment := fmt.Sprintf("The %s of %s, as 'zbuild init' found them. 'zbuild' builds\nthe group \"default\", 'zbuild list' shows what else there is. Paths are relative to\nthis file. Variables have been replaced by the values that they had.", kind, from)
	if text, err = scaffold.Convert(comment, printed.Bytes()); err != nil {
		return nil, "", usage(err)
	}
	if _, diags := format(c.Output, text); diags.HasErrors() {
		return nil, "", usage(diags)
	}
	return text, fmt.Sprintf("%s, from %s", render.Count(len(project.Targets), "target"), from), nil
}
