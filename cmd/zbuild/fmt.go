package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/moby/sys/atomicwriter"
	"github.com/rogpeppe/go-internal/diff"
)

// exitUnformatted is terraform fmt's code for files that -check found wanting.
const exitUnformatted = 3

// fmtCmd formats build files.
type fmtCmd struct {
	Paths []string `arg:"" optional:"" placeholder:"PATH" help:"Files, and directories whose build files are meant; '-' is standard input. Default: the working directory."`

	Check     bool        `help:"Change nothing; end with 3 if a file is not formatted. Also -check."`
	Diff      bool        `help:"Show the changes. Also -diff."`
	Recursive bool        `help:"Format the build files of all directories below, too. Also -recursive."`
	Write     bool        `default:"true" negatable:"" help:"Write the files. Default: true."`
	List      bool        `default:"true" negatable:"" help:"Print the names of the files that are not formatted. Default: true."`
	Report    reportFlags `embed:""`
}

// Help is shown by 'zbuild fmt --help'.
func (fmtCmd) Help() string {
	return `Puts build files (*.hcl) into HCL's usual form: indentation, spaces, aligned equal signs. What they mean stays the same. In a directory zbuild.hcl, docker-bake.hcl, their overrides (zbuild.*.hcl, docker-bake.*.hcl) and *.zbuild.hcl are formatted.

Ends with 0, with 3 if --check found a file that is not formatted, or with 2 if a file cannot be read or parsed; such a file is left as it is.`
}

// Run formats.
func (c *fmtCmd) Run(a *app) error {
	if len(c.Paths) == 1 && c.Paths[0] == "-" {
		return c.stream(a)
	}
	paths := c.Paths
	if len(paths) == 0 {
		paths = []string{"."}
	}
	f := &formatter{cmd: c, app: a}
	for _, path := range paths {
		f.path(path)
	}
	if len(f.diags) > 0 {
		return a.showDiagnostics(f.sources, f.diags)
	}
	if c.Check && f.unformatted {
		return &exitError{code: exitUnformatted}
	}
	return f.err
}

// stream formats standard input to standard output.
func (c *fmtCmd) stream(a *app) error {
	const most = 64 << 20
	text, err := io.ReadAll(io.LimitReader(a.stdin, most))
	if err != nil {
		return usage(err)
	}
	formatted, diags := format("<stdin>", text)
	if diags.HasErrors() {
		return a.showDiagnostics(map[string][]byte{"<stdin>": text}, diags)
	}
	if c.Diff {
		_, err = a.stdout.Write(diff.Diff("old/<stdin>", text, "new/<stdin>", formatted))
	} else if !c.Check {
		_, err = a.stdout.Write(formatted)
	}
	if err == nil && c.Check && !bytes.Equal(text, formatted) {
		return &exitError{code: exitUnformatted}
	}
	return err
}

// formatter goes through files.
type formatter struct {
	cmd         *fmtCmd
	app         *app
	sources     map[string][]byte
	diags       hcl.Diagnostics
	unformatted bool
	err         error
}

// path formats a file, or the build files of a directory.
func (f *formatter) path(path string) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		f.problem(path, err)
		return
	case !info.IsDir():
		f.file(path)
		return
	}
	err = filepath.WalkDir(path, func(p string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			f.problem(p, err)
		case entry.IsDir() && p != path && (!f.cmd.Recursive || strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules"):
			return filepath.SkipDir
		case entry.Type().IsRegular() && isBuildFile(entry.Name()):
			f.file(p)
		}
		return nil
	})
	f.err = errors.Join(f.err, err)
}

func isBuildFile(name string) bool {
	return strings.HasSuffix(name, ".hcl") &&
		(strings.HasPrefix(name, "zbuild.") || strings.HasSuffix(name, ".zbuild.hcl") || strings.HasPrefix(name, "docker-bake."))
}

func (f *formatter) problem(path string, err error) {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	f.diags = append(f.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Cannot format the file", Detail: fmt.Sprintf("%s: %v.", path, err)})
}

func (f *formatter) file(path string) {
	if filepath.Ext(path) == ".json" {
		f.problem(path, errors.New("this is JSON, and fmt formats HCL"))
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		f.problem(path, err)
		return
	}
	formatted, diags := format(path, text)
	if diags.HasErrors() {
		if f.sources == nil {
			f.sources = map[string][]byte{}
		}
		f.sources[path] = text
		f.diags = append(f.diags, diags...)
		return
	}
	if bytes.Equal(text, formatted) {
		return
	}
	f.unformatted = true
	if f.cmd.List {
		fmt.Fprintln(f.app.stdout, path)
	}
	if f.cmd.Diff {
		_, err = f.app.stdout.Write(diff.Diff("old/"+path, text, "new/"+path, formatted))
		f.err = errors.Join(f.err, err)
	}
	if f.cmd.Write && !f.cmd.Check {
		if err := replace(path, formatted); err != nil {
			f.problem(path, err)
		}
	}
}

// replace writes a file so that it is either the old or the new one.
func replace(path string, text []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return atomicwriter.WriteFile(path, text, info.Mode().Perm())
}

// format is the text in HCL's usual form. A byte order mark stays.
func format(name string, text []byte) ([]byte, hcl.Diagnostics) {
	mark := []byte("\xef\xbb\xbf")
	body, marked := bytes.CutPrefix(text, mark)
	if _, diags := hclsyntax.ParseConfig(body, name, hcl.InitialPos); diags.HasErrors() {
		return nil, diags
	}
	formatted := hclwrite.Format(body)
	if marked {
		formatted = append(bytes.Clone(mark), formatted...)
	}
	return formatted, nil
}
