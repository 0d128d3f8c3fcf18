package planner

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
)

// dump is all of a plan as text: equal plans have equal dumps.
func dump(p *Plan) string {
	d := &dumper{number: make(map[*Step]int)}
	for i, s := range p.Steps {
		d.number[s] = i
	}
	for _, t := range p.Targets {
		d.target(t)
	}
	for _, s := range p.Stages {
		d.stage(s)
	}
	for _, s := range p.Steps {
		d.step(s)
	}
	return d.text.String()
}

type dumper struct {
	text   strings.Builder
	number map[*Step]int
}

func (d *dumper) printf(format string, args ...any) { fmt.Fprintf(&d.text, format, args...) }

// list prints an attribute that may have no values.
func (d *dumper) list(name string, values []string) {
	if len(values) > 0 {
		d.printf("  %s: %s\n", name, strings.Join(values, " "))
	}
}

func (d *dumper) input(in Input) string {
	if in.Step == nil {
		return "scratch"
	}
	s := fmt.Sprintf("#%d", d.number[in.Step])
	if in.Index != 0 {
		s += fmt.Sprintf(".%d", in.Index)
	}
	return s
}

func (d *dumper) inputs(ins []Input) []string {
	var out []string
	for _, in := range ins {
		out = append(out, d.input(in))
	}
	return out
}

func (d *dumper) target(t *Target) {
	d.printf("target %s\n", t.Name)
	if !t.Requested {
		d.printf("  not requested\n")
	}
	d.list("needs", t.Needs)
	for _, r := range t.Results {
		d.printf("  result %s: %s", platforms.FormatAll(r.Platform), d.input(r.Root))
		if r.Stage != nil {
			d.printf(" of stage %s", stageLabel(r.Stage))
		}
		if r.Base != nil {
			d.printf(" on %s", r.Base.Ref)
		}
		d.printf("\n")
		if r.SBOM.Step != nil {
			d.printf("    sbom: %s\n", d.input(r.SBOM))
		}
		d.list("  layers", d.inputs(r.Layers))
		d.printf("    config: %s\n", r.Config)
		if r.Epoch != nil {
			d.printf("    epoch: %d\n", r.Epoch.Unix())
		}
	}
}

func stageLabel(s *Stage) string {
	return fmt.Sprintf("%s %s of %s", s.Name, platforms.FormatAll(s.Platform), s.Dockerfile)
}

func (d *dumper) stage(s *Stage) {
	d.printf("stage %s\n  id: %s\n  base: %s\n", stageLabel(s), s.ID, s.Base)
	d.list("targets", s.Targets)
	var needs []string
	for _, n := range s.Needs {
		needs = append(needs, n.Name+"("+n.ID+")")
	}
	d.list("needs", needs)
	var steps []string
	for _, step := range s.Steps {
		steps = append(steps, d.input(Input{Step: step}))
	}
	d.list("steps", steps)
}

func (d *dumper) step(s *Step) {
	d.printf("step #%d %s\n  id: %s\n", d.number[s], s.Name, s.ID)
	d.list("inputs", d.inputs(s.Inputs))
	if l := s.Location; l != nil {
		d.printf("  at: %s:%d-%d\n", l.Filename, l.Start.Line, l.End.Line)
	}
	if s.Stage != nil {
		d.printf("  stage: %s\n", stageLabel(s.Stage))
	}
	if s.NoCache {
		d.printf("  no cache\n")
	}
	if s.Retries > 0 {
		d.printf("  retries: %d after %s\n", s.Retries, s.RetryDelay)
	}
	for _, id := range slices.Sorted(maps.Keys(s.Secrets)) {
		d.printf("  secret %s: env %q path %q\n", id, s.Secrets[id].Env, s.Secrets[id].Path)
	}
	if s.Image != nil {
		d.printf("  image: %s@%s %s\n", s.Image.Ref, s.Image.Digest, platforms.FormatAll(s.Image.Platform))
	}
	if s.Local != nil {
		d.printf("  directory: %s without %q\n", s.Local.Dir, s.Local.Exclude)
	}
	op, err := json.Marshal(s.Op)
	if err != nil {
		op = []byte(err.Error())
	}
	d.printf("  op: %s\n", op)
}
