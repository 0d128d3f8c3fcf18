package config

import (
	"context"
	"io"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/hashicorp/hcl/v2"
)

// Request says what to load, and stands for everything outside of the build
// files that evaluation depends on.
type Request struct {
	// Dir is the working directory, absolute. Paths of the command line and of
	// bake's own files are relative to it.
	Dir string
	// Files are the build files in the order of -f; "-" is Stdin. If there are
	// none they are looked up: see the package documentation.
	Files []string
	// Stdin is what the file "-" reads.
	Stdin io.Reader
	// ReadFile reads a build file; nil reads regular files of this host, up to a
	// limit. It is never asked for anything but build files and files of values.
	ReadFile func(path string) ([]byte, error)
	// Pipes are read where the command line names one instead of a file; nil if none
	// shall be.
	Pipes *Pipes
	// ReadRemote reads build files from behind a URL, if the first of Targets is
	// one; nil if there is nothing that does.
	ReadRemote ReadRemote
	// LookupEnv looks up an environment variable; nil finds none.
	LookupEnv func(string) (string, bool)
	// Environ is the whole environment as NAME=value, which Compose files are
	// interpolated with.
	Environ []string
	// Vars are the values of --var.
	Vars map[string]string
	// VarFiles are the files of --var-file, with values for variables under those of
	// Vars and over all others; later ones win.
	VarFiles []string
	// EnvFiles are the files of --env-file, whose values stand for variables of the
	// environment that are not set; later ones win.
	EnvFiles []string
	// Targets are the names of targets and groups to build, globs allowed. None
	// means "default".
	Targets []string
	// Overrides are the values of --set, in order, including those that stand
	// for other flags ("*.push=true" for --push).
	Overrides []string
	// Allow are the values of --allow.
	Allow []string
	// LocalPlatform is the platform of this machine, such as linux/amd64.
	LocalPlatform string
	// ListOnly leaves out everything about what to build: the project only has what
	// Listed and Variables say.
	ListOnly bool
	// Version is zbuild's own version, which a project can make demands on; they
	// are not checked if it is none.
	Version string
	// Calling says that targets are not built, but asked about: bake's call.
	Calling bool
	// EvaluateOnly leaves out the checks that only matter to a build: what may be
	// read and written, and what is not available yet. It is for bake --print.
	EvaluateOnly bool
}

// Load reads and evaluates build files.
//
// The project is never nil. If the diagnostics have errors it has no targets,
// but its Sources and Files are still complete: what was read is what the
// diagnostics point into, and what has to change for the errors to go away. Listed
// then has what can be known of the targets in spite of them.
// The diagnostics are all there are, ordered by file and position; the same
// request gives the same ones.
func Load(ctx context.Context, req Request) (*Project, hcl.Diagnostics) {
	l := &loader{req: req, project: &Project{Dir: req.Dir, Sources: map[string][]byte{}}, broken: map[string]bool{}}
	if l.req.LookupEnv == nil {
		l.req.LookupEnv = func(string) (string, bool) { return "", false }
	}
	l.run(ctx)
	diags := l.sorted()
	if diags.HasErrors() {
		p := l.project
		l.project = &Project{Dir: p.Dir, Sources: p.Sources, Files: p.Files, Listed: l.listTorn(p.Listed)}
	}
	slices.Sort(l.project.Files)
	l.project.Files = slices.Compact(l.project.Files)
	return l.project, diags
}

// loader is the state of one Load.
type loader struct {
	req     Request
	project *Project
	diags   hcl.Diagnostics

	sources []*source
	// remote is where the build files come from, if that is a URL; commandContext is
	// what BAKE_CMD_CONTEXT stands for.
	remote         *remoteDefinition
	commandContext string
	// fileRelative is set where paths of bake's own files start from the files.
	fileRelative bool
	items        *items
	compose      *composeFile
	// meter is what evaluation may still cost.
	meter *meter
	file  *wireFile
	// variables are those of the project, evaluated.
	variables []*Variable
	// broken are the names of targets that could not be evaluated: they exist,
	// so that nobody shall be told they do not.
	broken map[string]bool
	// hidden is set if targets may exist whose names are not known.
	hidden bool
	// renamed are the names that a matrix made of a target's label.
	renamed map[string][]string
	// overrides are those of req.Overrides, by target.
	overrides map[string][]*override
	// projectEnv are the project's env-files, givenEnv those of --env-file; givenVars
	// are the values of --var-file.
	projectEnv, givenEnv envFiles
	givenVars            map[string]givenValue
	allow                allowance
}

func (l *loader) run(ctx context.Context) {
	l.parseAllow()
	l.find(ctx)
	if l.diags.HasErrors() || ctx.Err() != nil {
		l.canceled(ctx)
		return
	}
	l.readVarFiles(ctx)
	l.readEnvFiles(ctx)
	before := len(l.diags)
	l.prepare(ctx)
	if !l.diags[before:].HasErrors() { // of the files by themselves
		l.compose = l.loadCompose(ctx)
	}
	l.meter = newMeter(l.sources)
	l.items = l.collect()
	l.evaluate()
	if l.canceled(ctx) || l.file == nil {
		return
	}
	l.addMatrixGroups()
	l.project.Listed, l.project.Variables = l.list(), l.variables
	if l.req.ListOnly {
		return
	}
	l.parseOverrides()
	l.resolve()
	if over := l.meter.over; over != nil {
		l.diags = append(l.diags, over)
	}
	l.canceled(ctx)
}

func (l *loader) canceled(ctx context.Context) bool {
	err := context.Cause(ctx)
	if err != nil {
		l.errorf(nil, "Loading the project was interrupted", "%v", err)
	}
	return err != nil
}

// lookupVar finds the value that --var, the environment or an env-file gives a
// variable.
func (l *loader) lookupVar(name string) (string, bool) {
	if v, ok := l.req.Vars[name]; ok {
		return v, true
	}
	return l.lookupEnvValue(name)
}

// lookupEnvValue finds the value that the environment gives a name, or an env-file,
// which the environment wins over.
func (l *loader) lookupEnvValue(name string) (string, bool) {
	if v, ok := l.lookupEnvVar(name); ok {
		return v, true
	}
	if v, ok := l.givenEnv.values[name]; ok {
		return v, true
	}
	v, ok := l.projectEnv.values[name]
	return v, ok
}

// lookupEnvVar finds the value that the environment gives a variable, if it may.
func (l *loader) lookupEnvVar(name string) (string, bool) {
	if l.envFlag("BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP") {
		return "", false
	}
	return l.req.LookupEnv(name)
}

// env is the value of an environment variable, empty if it is not set.
func (l *loader) env(name string) string {
	if v, ok := l.req.LookupEnv(name); ok {
		return v
	}
	return ""
}

// envFlag reports whether the environment variable is set to something true.
func (l *loader) envFlag(name string) bool {
	b, err := strconv.ParseBool(l.env(name))
	return err == nil && b
}

// builtins are bake's built-in variables.
func (l *loader) builtins() map[string]string {
	return map[string]string{
		"BAKE_CMD_CONTEXT":    l.commandContext,
		"BAKE_LOCAL_PLATFORM": l.req.LocalPlatform,
	}
}

// abs makes a path of the command line absolute.
func (l *loader) abs(path string) string { return joinPath(l.req.Dir, path) }

// joinPath is path, relative to dir unless it is absolute; always clean.
func joinPath(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
