package config

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// maxIncluded is how many files a project may include.
const maxIncluded = 200

// Settings are what the zbuild block says: what the project needs of zbuild, and
// the defaults of flags.
type Settings struct {
	// Engine is "buildah", or empty for the default.
	Engine string
	// Jobs is how many steps may run at once; 0 for the default.
	Jobs int
	// KeepGoing is set if a build goes on after a failure.
	KeepGoing bool
}

// settingsForm is the block zbuild. Its values, like those of include and
// env-file, are needed before anything can be evaluated, and so they are
// constants.
var settingsForm = &form{
	name: "zbuild",
	fields: []field{
		{"version", "version constraint", "", "Which versions of zbuild the project can be built with.", `">= 0.1, < 2"`},
		{"engine", "buildah", "buildah", "What executes the build.", `"buildah"`},
		{"jobs", "number", "one per core", "The default of --jobs.", "4"},
		{"keep-going", "bool", "false", "The default of --keep-going.", "true"},
	},
}

// prepare parses what was found and reads, before anything is evaluated, what
// files say about reading: which others they include and where variables come
// from. What a file includes comes before it, so that the file has the last word.
func (l *loader) prepare(ctx context.Context) {
	p := &preparation{loader: l, done: map[string]bool{}}
	found := l.sources
	l.sources = nil
	for _, s := range found {
		p.visit(ctx, s, nil)
	}
}

type preparation struct {
	*loader
	done     map[string]bool // by path
	included int
}

// visit takes a source in, after those that it includes. The chain has the
// sources that led to it. A file of bake's that is named twice is read twice, as
// bake does.
func (p *preparation) visit(ctx context.Context, s *source, chain []*source) {
	if s.path != "" && (s.ours || s.included) {
		if p.done[s.path] {
			return
		}
		p.done[s.path] = true
	}
	p.parse(ctx, s)
	chain = append(slices.Clone(chain), s)
	if s.file != nil && s.ours {
		attrs := p.prologue(s)
		for _, e := range p.constants(attrs["include"]) {
			p.include(ctx, s, chain, e)
		}
		p.sources = append(p.sources, s)
		for _, e := range p.constants(attrs["env-file"]) {
			p.envFile(s, e)
		}
		return
	}
	p.sources = append(p.sources, s)
}

// entry is an element of a list of constants.
type entry struct {
	text string
	at   hcl.Range
}

// constants are the elements of a list of strings that are written as they are.
func (p *preparation) constants(attr *hcl.Attribute) []entry {
	if attr == nil {
		return nil
	}
	elements, diags := hcl.ExprList(attr.Expr)
	if diags.HasErrors() {
		p.errorf(attr.Expr.Range().Ptr(), "Invalid "+attr.Name, "%s is a list of paths, such as %s = [%q].", attr.Name, attr.Name,
			map[string]string{"include": "../base/zbuild.hcl", "env-file": ".env"}[attr.Name])
		return nil
	}
	var entries []entry
	for _, e := range elements {
		at := e.Range()
		text, ok := constant(e)
		if !ok || text == "" {
			p.errorf(&at, "Invalid "+attr.Name, "The elements of %s are paths without variables: they are read before there are any.", attr.Name)
			continue
		}
		entries = append(entries, entry{text: text, at: at})
	}
	return entries
}

// include reads a file that a source includes. Its paths are relative to it.
func (p *preparation) include(ctx context.Context, s *source, chain []*source, e entry) {
	if e.text == "-" || strings.Contains(e.text, "://") {
		p.errorf(&e.at, "Cannot read the included file", "%s: only files of this machine can be included, by their paths relative to this file.", redact(e.text))
		return
	}
	path := joinPath(s.base, filepath.FromSlash(e.text))
	for i, c := range chain {
		if c.path != path {
			continue
		}
		var names []string
		for _, c := range chain[i:] {
			names = append(names, c.name)
		}
		p.errorf(&e.at, "Files include each other in a circle", "%s -> %s.", strings.Join(names, " -> "), c.name)
		return
	}
	if p.done[path] {
		return
	}
	if p.included++; p.included > maxIncluded {
		p.errorf(&e.at, "Too many included files", "A project may include %d files.", maxIncluded)
		return
	}
	name := path
	if rel, err := filepath.Rel(p.req.Dir, path); err == nil {
		name = rel
	}
	other, err := p.open(name, path)
	switch {
	case err != nil && isMissing(err) && strings.ContainsAny(e.text, "*?["):
		p.errorf(&e.at, "Cannot read the included file", "%s: there is no such file. Patterns are not expanded: name each file.", name)
		return
	case err != nil:
		p.errorf(&e.at, "Cannot read the included file", "%s: %s", name, readProblem(err))
		return
	}
	other.base, other.included = filepath.Dir(path), true
	p.visit(ctx, other, chain)
}

// envFile reads a file of variables. Of several the later one wins.
func (p *preparation) envFile(s *source, e entry) {
	written, optional := strings.CutPrefix(e.text, "-")
	path := joinPath(s.base, filepath.FromSlash(written))
	p.project.Files = append(p.project.Files, path)
	text, err := p.readFile()(path)
	switch {
	case err != nil && optional && isMissing(err):
		return
	case err != nil && isMissing(err):
		p.errorf(&e.at, "Cannot read the env-file", "%s: there is no such file. If it may be missing, write %q.", written, "-"+written)
		return
	case err != nil:
		p.errorf(&e.at, "Cannot read the env-file", "%s: %s", written, readProblem(err))
		return
	}
	if err := p.projectEnv.add(text, p.lookupEnvVar); err != nil {
		p.errorf(&e.at, "Invalid env-file", "%s: %v.", written, err)
	}
}

// prologue are the attributes include and env-file of a file of ours. It reads
// the zbuild block, too.
func (p *preparation) prologue(s *source) hcl.Attributes {
	content, _, _ := s.file.Body.PartialContent(&hcl.BodySchema{
		Attributes: []hcl.AttributeSchema{{Name: "include"}, {Name: "env-file"}},
	})
	for _, attrs := range p.settingsOf(s) {
		p.applySettings(attrs)
	}
	return content.Attributes
}

// setting is an attribute of a zbuild block.
type setting struct {
	name string
	key  hcl.Range
	expr hcl.Expression
}

// settingsOf are the settings of each zbuild block of a file.
func (p *preparation) settingsOf(s *source) [][]setting {
	var all [][]setting
	if native, ok := s.file.Body.(*hclsyntax.Body); ok {
		for _, b := range settingsForm.of(native) {
			var settings []setting
			for _, name := range slices.Sorted(maps.Keys(b.Body.Attributes)) {
				a := b.Body.Attributes[name]
				settings = append(settings, setting{name, a.NameRange, a.Expr})
			}
			all = append(all, settings)
		}
		return all
	}
	content, _, _ := s.file.Body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: settingsForm.name}}})
	attr := content.Attributes[settingsForm.name]
	if attr == nil {
		return nil
	}
	pairs, diags := hcl.ExprMap(attr.Expr)
	if diags.HasErrors() {
		p.errorf(attr.Expr.Range().Ptr(), "Invalid zbuild", "zbuild is an object.")
		return nil
	}
	var settings []setting
	for _, pair := range pairs {
		name, _ := keyOf(pair)
		at := pair.Key.Range()
		if !slices.Contains(settingsForm.attributes(), name) {
			p.unknown(s, "attribute", name, at, "a zbuild block", settingsForm.attributes())
		}
		settings = append(settings, setting{name, at, pair.Value})
	}
	return [][]setting{settings}
}

// applySettings lets the settings of a zbuild block stand.
func (p *preparation) applySettings(settings []setting) {
	to := &p.project.Settings
	for _, s := range settings {
		at := s.expr.Range()
		text, ok := constant(s.expr)
		if !ok {
			p.errorf(&at, "Invalid "+s.name, "What a zbuild block says is constant: it is read before there are any variables.")
			continue
		}
		var err error
		switch s.name {
		case "version":
			p.checkVersion(text, at)
		case "engine":
			if to.Engine = text; text != "buildah" {
				p.errorf(&at, "Unknown engine", "There is no engine %q. This release has buildah.", text)
			}
		case "jobs":
			if to.Jobs, err = strconv.Atoi(text); err != nil || to.Jobs < 0 {
				p.errorf(&at, "Invalid jobs", "jobs is the number of steps that may run at once, or 0 for one per core, not %q.", text)
			}
		case "keep-going":
			if to.KeepGoing, err = strconv.ParseBool(text); err != nil {
				p.errorf(&at, "Invalid keep-going", "keep-going is true or false, not %q.", text)
			}
		}
	}
}

// checkVersion compares this zbuild's version with what the project needs. What
// was built between two versions counts as the one before; a version that is
// none, of a program that was built in some other way, is not compared.
func (p *preparation) checkVersion(text string, at hcl.Range) {
	constraint, err := semver.NewConstraint(text)
	if err != nil {
		p.errorf(&at, "Invalid version", "%q is not a version constraint such as \">= 0.1, < 2\".", text)
		return
	}
	version, err := semver.NewVersion(p.req.Version)
	if err != nil {
		return
	}
	if core := semver.New(version.Major(), version.Minor(), version.Patch(), "", ""); !constraint.Check(core) {
		p.errorf(&at, "The project needs another version of zbuild", "This is zbuild %s; the project needs %s. Install one that fits, or change the requirement.", p.req.Version, text)
	}
}
