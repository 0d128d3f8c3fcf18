package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// checkNames checks what groups and inherits name. What is not part of this
// build is an error only in a file of ours: bake does not look at it. Nor does
// bake mind a circle, in which it leaves out the step that closes it.
func (r *resolver) checkNames(out *printed) {
	ours := func(at *hcl.Range) bool {
		s := r.source(at.Filename)
		return s != nil && s.ours
	}
	severityIf := func(reached bool, at *hcl.Range) hcl.DiagnosticSeverity {
		if reached || ours(at) {
			return hcl.DiagError
		}
		return hcl.DiagWarning
	}
	circle := func(at *hcl.Range) hcl.DiagnosticSeverity { return severityIf(false, at) }
	for _, t := range r.file.Targets {
		for _, parent := range t.Inherits {
			if r.targets[parent] != nil || r.mayExist(parent) {
				continue
			}
			at := t.whereValue("inherits", parent)
			hint := didYouMean(parent, slices.Collect(maps.Keys(r.targets)))
			if r.groups[parent] != nil {
				hint = " It is a group; only targets can be inherited."
			}
			r.report(severityIf(r.evaluated[t.Name], at), at, "Unknown target", fmt.Sprintf("Target %s inherits %q, which does not exist.%s", t.Name, parent, hint))
		}
	}
	for _, g := range r.file.Groups {
		if r.groups[g.Name] != g {
			continue
		}
		for _, member := range g.Targets {
			if r.targets[member] != nil || r.mayExist(member) || r.groups[member] != nil && member != g.Name {
				continue
			}
			at := g.whereValue(member)
			severity := severityIf(out.Group[g.Name] != nil && r.writtenGroup(out, g), at)
			if member == g.Name {
				r.report(severity, at, "Groups in a circle", fmt.Sprintf("Group %s contains itself.", g.Name))
				continue
			}
			r.report(severity, at, "Unknown target",
				fmt.Sprintf("Group %s names %q, which is neither a target nor a group.%s", g.Name, member, didYouMean(member, r.known())))
		}
	}
	r.inheritCycles(circle)
	r.groupCycles(circle)
}

// writtenGroup reports whether the printed group of that name comes from the
// build file's: the implied one called default may be there without it.
func (r *resolver) writtenGroup(out *printed, g *wireGroup) bool {
	return g.Name != "default" || out.fileDefault
}

// checkCircle reports that a group stands for itself, if name is a group: there
// is no target of that name, or it would be meant.
func (r *resolver) checkCircle(name string) {
	g := r.groups[name]
	if g == nil || r.mayExist(name) {
		return
	}
	if s := r.source(g.at.Filename); s != nil && s.ours {
		return // reported by groupCycles
	}
	at := g.at
	if len(g.Targets) == 0 {
		r.errorf(&at, "A group without members", "Group %s is a member of another one and has none itself.", name)
		return
	}
	r.errorf(&at, "Groups in a circle", "The members of group %s lead back to it, and there is no target called %s.", name, name)
}

type severityOf func(at *hcl.Range) hcl.DiagnosticSeverity

func (r *resolver) inheritCycles(severity severityOf) {
	names := slices.Sorted(maps.Keys(r.targets))
	next := func(name string) []string {
		if t := r.targets[name]; t != nil {
			return t.Inherits
		}
		return nil
	}
	for _, cycle := range cycles(names, next) {
		var steps []string
		for i, name := range cycle[:len(cycle)-1] {
			at := r.targets[name].whereValue("inherits", cycle[i+1])
			steps = append(steps, fmt.Sprintf("%s inherits %s (%s)", name, cycle[i+1], at))
		}
		at := r.targets[cycle[len(cycle)-2]].whereValue("inherits", cycle[len(cycle)-1])
		r.report(severity(at), at, "Targets inherit in a circle",
			fmt.Sprintf("%s: %s.", strings.Join(cycle, " -> "), strings.Join(steps, ", ")))
	}
}

func (r *resolver) groupCycles(severity severityOf) {
	names := slices.Sorted(maps.Keys(r.groups))
	next := func(name string) []string {
		var members []string
		if g := r.groups[name]; g != nil {
			for _, member := range g.Targets {
				if r.groups[member] != nil && member != name {
					members = append(members, member)
				}
			}
		}
		return members
	}
	for _, cycle := range cycles(names, next) {
		var steps []string
		for i, name := range cycle[:len(cycle)-1] {
			steps = append(steps, fmt.Sprintf("%s contains %s (%s)", name, cycle[i+1], r.groups[name].whereValue(cycle[i+1])))
		}
		at := r.groups[cycle[len(cycle)-2]].whereValue(cycle[len(cycle)-1])
		r.report(severity(at), at, "Groups in a circle",
			fmt.Sprintf("%s: %s.", strings.Join(cycle, " -> "), strings.Join(steps, ", ")))
	}
}

// checkLinks checks that targets do not need each other in a circle, by contexts
// and by depends-on.
func (r *resolver) checkLinks(out *printed) {
	names := slices.Sorted(maps.Keys(out.Target))
	edges := map[string]map[string]*hcl.Range{}
	for _, name := range names {
		edges[name] = r.links(out.Target[name])
	}
	next := func(name string) []string { return slices.Sorted(maps.Keys(edges[name])) }
	for _, cycle := range cycles(names, next) {
		var steps []string
		for i, name := range cycle[:len(cycle)-1] {
			steps = append(steps, fmt.Sprintf("%s needs %s (%s)", name, cycle[i+1], edges[name][cycle[i+1]]))
		}
		r.errorf(edges[cycle[len(cycle)-2]][cycle[len(cycle)-1]], "Targets need each other in a circle",
			"%s: %s.", strings.Join(cycle, " -> "), strings.Join(steps, ", "))
	}
}

// links are the targets that a target needs, and where it says so.
func (r *resolver) links(t *wireTarget) map[string]*hcl.Range {
	links := map[string]*hcl.Range{}
	for _, name := range t.DependsOn {
		targets, _ := r.expand(name)
		for _, other := range targets {
			links[other] = t.whereValue("depends-on", name)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(t.Contexts)) {
		if other, ok := strings.CutPrefix(t.Contexts[key], targetPrefix); ok {
			links[other] = t.where("contexts." + key)
		}
	}
	return links
}

// cycles are circles in a graph, each as a path that ends where it starts. Every
// circle shares an edge with one of them.
func cycles(nodes []string, next func(string) []string) [][]string {
	var found [][]string
	state := map[string]int{} // 1: on the path, 2: done
	var path []string
	var visit func(string)
	visit = func(name string) {
		state[name] = 1
		path = append(path, name)
		for _, n := range next(name) {
			switch state[n] {
			case 0:
				visit(n)
			case 1:
				cycle := slices.Clone(path[slices.Index(path, n):])
				found = append(found, append(cycle, n))
			}
		}
		path = path[:len(path)-1]
		state[name] = 2
	}
	for _, name := range nodes {
		if state[name] == 0 {
			visit(name)
		}
	}
	return found
}
