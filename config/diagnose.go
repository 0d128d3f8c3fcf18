package config

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/buildx/bake/hclparser"
	"github.com/hashicorp/hcl/v2"
)

// maxFailures is how many parts of the build files may fail before the rest is
// left for the next time.
const maxFailures = 100

// diagnosis finds all that is wrong with items that hclparser refused. The
// parser stops at the first error of a kind, and goes through maps to find it;
// so it is asked again about ever smaller parts.
type diagnosis struct {
	*loader
	units []*unit
	// byName are the units by "kind name".
	byName    map[string][]*unit
	functions []string // the names of all functions
	values    []string // the names of all variables and values
	failures  int
}

// diagnose reports what is wrong, given what the parser said about the whole.
func (l *loader) diagnose(ctx context.Context, whole hcl.Diagnostics) {
	for _, diag := range whole {
		if diag.Summary == summaryTooMany { // the parts of it may be fine, and are slow
			l.diags = append(l.diags, diag)
			return
		}
	}
	d := &diagnosis{loader: l, units: unitsOf(l.items), byName: map[string][]*unit{}}
	for _, u := range d.units {
		d.byName[u.kind+" "+u.name] = append(d.byName[u.kind+" "+u.name], u)
	}
	d.listNames()
	before := len(l.diags)
	d.findCycles()
	d.try(ctx, d.ordered())
	if len(l.diags) == before { // it is only wrong as a whole
		l.diags = append(l.diags, whole...)
	}
	l.broken = map[string]bool{}
	for _, u := range d.units {
		if u.broken && (u.kind == "target" || u.kind == "group") {
			l.broken[u.name] = true
			l.hidden = l.hidden || u.matrix
		}
	}
	healthy := map[*unit]bool{}
	for _, u := range d.units {
		healthy[u] = !u.broken
	}
	file, renamed, diags := l.decode(d.items(healthy))
	if diags.HasErrors() {
		return
	}
	l.file, l.renamed = file, renamed
}

func (d *diagnosis) listNames() {
	d.functions = slices.Collect(maps.Keys(hclparser.Stdlib()))
	d.values = slices.Collect(maps.Keys(d.builtins()))
	for _, u := range d.units {
		switch u.kind {
		case "function":
			d.functions = append(d.functions, u.name)
		case "variable", "value":
			d.values = append(d.values, u.name)
		}
	}
	slices.Sort(d.functions)
	slices.Sort(d.values)
}

// needs are the units that a unit cannot be evaluated without.
func (d *diagnosis) needs(u *unit) []*unit {
	var needs []*unit
	for _, r := range u.refs {
		needs = append(needs, d.meant(r)...)
	}
	if u.opaque {
		for _, other := range d.units {
			if other.kind == "function" {
				needs = append(needs, other)
			}
		}
	}
	return slices.DeleteFunc(needs, func(n *unit) bool { return n == u })
}

// meant are the units that a mention is about.
func (d *diagnosis) meant(r mention) []*unit {
	if r.kind != "value" {
		units := d.byName[r.kind+" "+r.name]
		if r.kind == "target" && len(units) == 0 { // made by a matrix?
			for _, u := range d.units {
				if u.kind == "target" && u.matrix {
					units = append(units, u)
				}
			}
		}
		return units
	}
	if units := d.byName["value "+r.name]; len(units) > 0 {
		return units
	}
	return d.byName["variable "+r.name]
}

// ordered are the units, each after those that it needs.
func (d *diagnosis) ordered() []*unit {
	var order []*unit
	seen := map[*unit]bool{}
	var visit func(*unit)
	visit = func(u *unit) {
		if seen[u] {
			return
		}
		seen[u] = true
		for _, n := range d.needs(u) {
			visit(n)
		}
		order = append(order, u)
	}
	for _, u := range d.units {
		visit(u)
	}
	return order
}

// try evaluates units, with those that they need, and looks closer at those that
// fail. The needed ones come earlier in the order: they are not to blame. What
// needs something broken is left alone: it might be right.
func (d *diagnosis) try(ctx context.Context, units []*unit) {
	units = slices.DeleteFunc(slices.Clone(units), func(u *unit) bool {
		if !u.broken && slices.ContainsFunc(d.needs(u), func(n *unit) bool { return n.broken }) {
			u.broken = true
			d.undefined(u, true)
		}
		return u.broken
	})
	if len(units) == 0 || ctx.Err() != nil {
		return
	}
	if d.failures >= maxFailures {
		for _, u := range units {
			u.broken = true
		}
		return
	}
	_, _, diags := d.decode(d.items(d.closure(units)))
	switch {
	case !diags.HasErrors():
	case len(units) == 1:
		d.failures++
		units[0].broken = true
		d.explain(units[0], diags)
	default:
		half := len(units) / 2
		d.try(ctx, units[:half])
		d.try(ctx, units[half:])
	}
}

// closure are units and all that they need.
func (d *diagnosis) closure(units []*unit) map[*unit]bool {
	set := map[*unit]bool{}
	for queue := slices.Clone(units); len(queue) > 0; {
		u := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if !set[u] {
			set[u] = true
			queue = append(queue, d.needs(u)...)
		}
	}
	return set
}

// items are the items of those units, in their places' order.
func (d *diagnosis) items(set map[*unit]bool) *items {
	it := &items{attrs: hcl.Attributes{}}
	for _, u := range d.units {
		switch {
		case !set[u]:
		case u.block != nil:
			it.blocks = append(it.blocks, u.block)
		default:
			it.attrs[u.name] = u.attr
		}
	}
	return it
}

// explain reports why a unit cannot be evaluated, given what the parser said.
func (d *diagnosis) explain(u *unit, diags hcl.Diagnostics) {
	undefined := d.undefined(u, false)
	consequences := len(undefined) > 0
	for _, diag := range diags {
		known := diag.Subject == nil || slices.ContainsFunc(undefined, func(at hcl.Range) bool { return overlaps(at, *diag.Subject) })
		// A value that could not be evaluated is also unknown, and of no type.
		unknown := strings.Contains(diag.Detail, "value must be known") || strings.Contains(diag.Detail, "value is not known")
		if consequences && known || unknown && len(diags) > 1 {
			continue
		}
		clone := *diag
		// hclparser has no place for some errors of a variable.
		if clone.Subject == nil || d.source(clone.Subject.Filename) == nil || clone.Subject.Empty() {
			clone.Subject = u.at.Ptr()
		}
		clone.Context = nil
		clone.Expression, clone.EvalContext = nil, nil // it would show values
		d.diags = append(d.diags, &clone)
	}
}

// undefined reports what the unit refers to that does not exist, and where. Of a
// unit that was not evaluated, only what certainly is.
func (d *diagnosis) undefined(u *unit, certain bool) []hcl.Range {
	var undefined []hcl.Range
	for _, r := range u.refs {
		if r.guarded || certain && r.branch || d.exists(r) {
			continue
		}
		at := r.at
		undefined = append(undefined, at)
		switch r.kind {
		case "function":
			d.errorf(&at, "Unknown function", "There is no function called %q.%s", r.name, didYouMean(r.name, d.functions))
		case "value":
			d.errorf(&at, "Unknown variable", "There is no variable called %q.%s", r.name, didYouMean(r.name, d.values))
		default:
			var names []string
			for _, other := range d.units {
				if other.kind == r.kind {
					names = append(names, other.name)
				}
			}
			d.errorf(&at, "Unknown "+r.kind, "There is no %s called %q.%s", r.kind, r.name, didYouMean(r.name, names))
		}
	}
	return undefined
}

// exists reports whether there is what the mention is about, or might be.
func (d *diagnosis) exists(r mention) bool {
	switch r.kind {
	case "function":
		return slices.Contains(d.functions, r.name)
	case "value":
		return slices.Contains(d.values, r.name)
	default:
		return len(d.meant(r)) > 0
	}
}

// findCycles reports values, functions and attributes of targets that are
// defined by themselves.
func (d *diagnosis) findCycles() {
	places := map[string]map[string]hcl.Range{}
	owners := map[string]*unit{}
	for _, u := range d.units {
		for _, r := range u.refs {
			if r.loose {
				continue
			}
			from := node(u, r.from)
			owners[from] = u
			if places[from] == nil {
				places[from] = map[string]hcl.Range{}
			}
			for _, n := range d.meant(r) {
				places[from][node(n, r.attr)] = r.at
			}
		}
	}
	next := func(name string) []string { return slices.Sorted(maps.Keys(places[name])) }
	for _, cycle := range cycles(slices.Sorted(maps.Keys(places)), next) {
		var steps []string
		var at hcl.Range
		for i, name := range cycle[:len(cycle)-1] {
			at = places[name][cycle[i+1]]
			steps = append(steps, fmt.Sprintf("%s refers to %s (%s)", name, cycle[i+1], at))
			owners[name].broken = true
		}
		d.errorf(&at, "Definitions in a circle", "%s: %s.", strings.Join(cycle, " -> "), strings.Join(steps, ", "))
	}
}

// node is how a cycle names a unit, or an attribute of a target.
func node(u *unit, attr string) string {
	switch u.kind {
	case "target", "group":
		if attr == "" {
			return u.kind + "." + u.name
		}
		return u.kind + "." + u.name + "." + attr
	case "function":
		return u.name + "()"
	default:
		return u.name
	}
}
