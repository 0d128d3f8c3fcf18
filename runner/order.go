package runner

import (
	"slices"

	"github.com/zbuild/zbuild/planner"
)

// orderTargets makes the steps of a target wait for the targets that its
// depends-on names. Steps that both need wait for nothing: they are the other
// target's as well.
func (r *run) orderTargets(exports []*export) {
	byName := make(map[string]*planner.Target)
	for _, t := range r.plan.Targets {
		byName[t.Name] = t
	}
	for _, t := range r.plan.Targets {
		for _, name := range t.Config.DependsOn {
			dep := byName[name]
			if dep == nil {
				continue
			}
			var gates []*unit
			for _, res := range dep.Results {
				if res.Root.Step != nil && r.nodes[res.Root.Step].unit != nil {
					gates = append(gates, r.nodes[res.Root.Step].unit)
				}
			}
			for _, x := range exports {
				if x.target == dep {
					gates = append(gates, x.unit)
				}
			}
			r.gate(t, dep, byName, exports, gates)
		}
	}
}

// gate lets what only t needs begin after gates.
func (r *run) gate(t, dep *planner.Target, byName map[string]*planner.Target, exports []*export, gates []*unit) {
	theirs := make(map[*planner.Step]bool)
	seen := make(map[*planner.Target]bool)
	var visit func(*planner.Target)
	visit = func(d *planner.Target) {
		if d == nil || seen[d] {
			return
		}
		seen[d] = true
		closure(d, theirs)
		for _, n := range d.Needs {
			visit(byName[n])
		}
	}
	visit(dep)
	mine := make(map[*planner.Step]bool)
	closure(t, mine)
	wait := func(u *unit) {
		for _, g := range gates {
			if g != u && !slices.Contains(u.needs, g) {
				u.needs = append(u.needs, g)
			}
		}
	}
	for _, n := range r.order {
		if n.unit != nil && mine[n.step] && !theirs[n.step] {
			wait(n.unit)
		}
	}
	for _, x := range exports {
		if x.target == t {
			wait(x.unit)
		}
	}
}

// closure adds all steps that a target's results are made of.
func closure(t *planner.Target, into map[*planner.Step]bool) {
	var visit func(*planner.Step)
	visit = func(s *planner.Step) {
		if s == nil || into[s] {
			return
		}
		into[s] = true
		for _, in := range s.Inputs {
			visit(in.Step)
		}
	}
	for _, res := range t.Results {
		visit(res.Root.Step)
		visit(res.SBOM.Step)
	}
}
