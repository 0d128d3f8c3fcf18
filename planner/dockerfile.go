package planner

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/config"
)

// scratch is the base that is no image.
const scratch = "scratch"

// dockerfile is what LLB does not tell of a Dockerfile: its stages, those that
// leave nothing in the graph included, and the names as their author wrote them.
type dockerfile struct {
	name   string // key of Plan.Sources
	data   []byte
	stages []instructions.Stage
	args   []instructions.ArgCommand // those before the first FROM
	escape rune
}

func parseDockerfile(name string, data []byte) (*dockerfile, error) {
	ast, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	// A linter that says nothing: without one "# check=" before an instruction is
	// a nil dereference.
	stages, args, err := instructions.Parse(ast.AST, linter.New(&linter.Config{}))
	if err != nil {
		return nil, err
	}
	return &dockerfile{name: name, data: data, stages: stages, args: args, escape: ast.EscapeToken}, nil
}

// names are the names of the stages that have one.
func (d *dockerfile) names() []string {
	var out []string
	for _, s := range d.stages {
		if s.Name != "" {
			out = append(out, s.Name)
		}
	}
	return out
}

// outline is a Dockerfile with the arguments of one target and platform filled in.
type outline struct {
	*dockerfile
	stages []*outlineStage
}

// outlineStage is a stage of an outline.
type outlineStage struct {
	name        string
	base        string
	platform    *ocispecs.Platform // nil: that of its base
	first, last int                // lines
	// context names the named context that stands in for the stage; its
	// instructions are then not looked at.
	context string
	needs   []need // what FROM says first, the rest in order
}

// need is a mention of another stage, a named context or an image.
type need struct {
	name     string // as it is written, arguments expanded
	stage    int    // index, or -1
	context  string // name of the named context, or empty
	location []parser.Range
}

// outline fills in what a target says for one of its platforms. Where that makes
// no sense the frontend has complained before anybody asks for the outline.
func (d *dockerfile) outline(t *config.Target, build, target ocispecs.Platform) *outline {
	o := &outline{dockerfile: d}
	lex := shell.NewLex(d.escape)
	env := d.globalArgs(lex, t, build, target)
	byName := make(map[string]int)
	lines := d.stageLines()
	for i, s := range d.stages {
		out := &outlineStage{name: s.Name, base: s.BaseName, first: lines[i].first, last: lines[i].last}
		if out.name == "" {
			out.name = fmt.Sprintf("stage-%d", i)
		} else {
			out.context = matchContext(t, s.Name)
		}
		if base, err := lex.ProcessWordWithMatches(s.BaseName, env); err == nil && base.Result != "" {
			out.base = base.Result
		}
		if s.Platform != "" {
			if p, err := lex.ProcessWordWithMatches(s.Platform, env); err == nil {
				if p, err := platforms.Parse(p.Result); err == nil {
					p = platforms.Normalize(p)
					out.platform = &p
				}
			}
		}
		o.stages = append(o.stages, out)
		if out.context != "" {
			out.needs = []need{{name: out.name, stage: -1, context: out.context, location: s.Location}}
		} else {
			out.needs = []need{o.need(t, byName, out.base, s.Location)}
		}
		if s.Name != "" {
			byName[strings.ToLower(s.Name)] = i
		}
	}
	for i, s := range d.stages {
		if o.stages[i].context == "" {
			o.stages[i].needs = append(o.stages[i].needs, o.commandNeeds(t, byName, s.Commands)...)
		}
	}
	return o
}

// commandNeeds are what the instructions of a stage copy or mount from.
func (o *outline) commandNeeds(t *config.Target, byName map[string]int, commands []instructions.Command) []need {
	var out []need
	for _, cmd := range commands {
		switch c := cmd.(type) {
		case *instructions.CopyCommand:
			if i, err := strconv.Atoi(c.From); err == nil && i >= 0 && i < len(o.stages) {
				out = append(out, need{name: c.From, stage: i, location: c.Location()})
			} else if c.From != "" {
				out = append(out, o.need(t, byName, c.From, c.Location()))
			}
		case *instructions.RunCommand:
			for _, m := range instructions.GetMounts(c) {
				if m.From != "" {
					out = append(out, o.need(t, byName, m.From, c.Location()))
				}
			}
		}
	}
	return out
}

func (o *outline) need(t *config.Target, byName map[string]int, name string, at []parser.Range) need {
	if i, ok := byName[strings.ToLower(name)]; ok {
		return need{name: name, stage: i, location: at}
	}
	return need{name: name, stage: -1, context: matchContext(t, name), location: at}
}

// target is the index of the stage that a target asks for, or -1.
func (o *outline) target(t *config.Target) int {
	if t.Stage == "" {
		return len(o.stages) - 1
	}
	for i := len(o.stages) - 1; i >= 0; i-- {
		if strings.EqualFold(o.dockerfile.stages[i].Name, t.Stage) {
			return i
		}
	}
	return -1
}

// mentions are all the places where an image is named whose normalised name is ref.
func (o *outline) mentions(ref string) []need {
	var out []need
	for _, s := range o.stages {
		for _, n := range s.needs {
			if n.stage >= 0 || n.name == scratch {
				continue
			}
			if normalRef(n.name) == ref {
				out = append(out, n)
			}
		}
	}
	return out
}

// lineRange is a range of lines, both of them included. Lines count from 1.
type lineRange struct{ first, last int }

// stageLines are the lines of each stage, from its FROM to the next one.
func (d *dockerfile) stageLines() []lineRange {
	out := make([]lineRange, len(d.stages))
	for i, s := range d.stages {
		if len(s.Location) > 0 {
			out[i].first = s.Location[0].Start.Line
		}
		out[i].last = math.MaxInt
		if i > 0 {
			out[i-1].last = out[i].first - 1
		}
	}
	return out
}

// globalArgs are the values of the arguments that FROM may use: those that the
// frontend sets and those of the ARGs before the first FROM.
func (d *dockerfile) globalArgs(lex *shell.Lex, t *config.Target, build, target ocispecs.Platform) argEnv {
	stage := t.Stage
	if stage == "" && len(d.stages) > 0 {
		stage = d.stages[len(d.stages)-1].Name
	}
	if stage == "" {
		stage = "default"
	}
	env := argEnv{
		"BUILDPLATFORM": platforms.Format(build), "BUILDOS": build.OS, "BUILDOSVERSION": build.OSVersion,
		"BUILDARCH": build.Architecture, "BUILDVARIANT": build.Variant,
		"TARGETPLATFORM": platforms.FormatAll(target), "TARGETOS": target.OS, "TARGETOSVERSION": target.OSVersion,
		"TARGETARCH": target.Architecture, "TARGETVARIANT": target.Variant, "TARGETSTAGE": stage,
	}
	for k := range env {
		if v, ok := t.Args[k]; ok {
			env[k] = v
		}
	}
	for _, cmd := range d.args {
		for _, arg := range cmd.Args {
			if v, ok := t.Args[arg.Key]; ok {
				env[arg.Key] = v
			} else if arg.Value != nil {
				if v, err := lex.ProcessWordWithMatches(*arg.Value, env); err == nil {
					env[arg.Key] = v.Result
				}
			}
		}
	}
	return env
}

// argEnv makes a map a shell.EnvGetter.
type argEnv map[string]string

// Get looks a variable up.
func (e argEnv) Get(key string) (string, bool) {
	v, ok := e[key]
	return v, ok
}

// Keys are the names of the variables, sorted.
func (e argEnv) Keys() []string { return slices.Sorted(maps.Keys(e)) }

// contextName is the form in which the frontend looks a named context up.
func contextName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(reference.FamiliarString(named), ":latest"), nil
}

// matchContext is the name of the target's named context that a Dockerfile means
// by a name, or empty.
func matchContext(t *config.Target, name string) string {
	if len(t.Contexts) == 0 || strings.EqualFold(name, scratch) || strings.EqualFold(name, mainContext) {
		return ""
	}
	want, err := contextName(name)
	if err != nil {
		return ""
	}
	for _, k := range slices.Sorted(maps.Keys(t.Contexts)) {
		if have, err := contextName(k); err == nil && have == want {
			return k
		}
	}
	return ""
}

// explicit reports whether the author of an image's name wrote the registry.
func explicit(name string) bool {
	domain, _, ok := strings.Cut(name, "/")
	return ok && (strings.ContainsAny(domain, ".:") || domain == "localhost" || strings.ToLower(domain) != domain)
}
