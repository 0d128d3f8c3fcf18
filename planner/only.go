package planner

import "slices"

// Only is the part of a plan that some targets need, as if nothing but them had
// been asked for. Names that are not in the plan are left out. The steps are the
// plan's own.
func (p *Plan) Only(names []string) *Plan {
	out := &Plan{Sources: p.Sources, Files: p.Files}
	wanted := make(map[string]bool)
	var want func(name string)
	want = func(name string) {
		t := p.Target(name)
		if t == nil || wanted[name] {
			return
		}
		wanted[name] = true
		for _, n := range t.Needs {
			want(n)
		}
	}
	for _, n := range names {
		want(n)
	}
	steps := make(map[*Step]bool)
	for _, t := range p.Targets {
		if !wanted[t.Name] {
			continue
		}
		part := *t
		part.Requested = slices.Contains(names, t.Name)
		part.Results = make([]*Result, len(t.Results))
		for i, r := range t.Results {
			own := *r
			own.Target = &part
			part.Results[i] = &own
			collect(r.Root.Step, steps)
			collect(r.SBOM.Step, steps)
		}
		out.Targets = append(out.Targets, &part)
	}
	for _, s := range p.Steps {
		if steps[s] {
			out.Steps = append(out.Steps, s)
		}
	}
	for _, st := range p.Stages {
		if slices.ContainsFunc(st.Targets, func(t string) bool { return wanted[t] }) &&
			!slices.ContainsFunc(st.Steps, func(s *Step) bool { return !steps[s] }) {
			out.Stages = append(out.Stages, st)
		}
	}
	return out
}

// collect adds a step and all that it is made of.
func collect(root *Step, into map[*Step]bool) {
	if root == nil || into[root] {
		return
	}
	into[root] = true
	for todo := []*Step{root}; len(todo) > 0; {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, in := range s.Inputs {
			if in.Step != nil && !into[in.Step] {
				into[in.Step] = true
				todo = append(todo, in.Step)
			}
		}
	}
}
