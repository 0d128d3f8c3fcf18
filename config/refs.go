package config

import (
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// unit is a part of the build files that can be evaluated by itself once those
// that it refers to are there: a block, or a value outside of all blocks.
type unit struct {
	kind, name string
	block      *hcl.Block
	attr       *hcl.Attribute
	at         hcl.Range
	refs       []mention
	// matrix is set if the names of the targets it makes are not known.
	matrix bool
	broken bool
}

// key is what the unit's failure is noted by.
func (u *unit) key() any {
	if u.block != nil {
		return u.block
	}
	return valueKey(u.name)
}

// mention is one mention of something by name.
type mention struct {
	// kind is "value", "function" or "target"; attr is the attribute of a target
	// that is meant, or empty.
	kind, name, attr string
	at               hcl.Range
	// from is the attribute that the mention stands in.
	from string
	// guarded is set where it is fine if there is nothing of that name; loose
	// where it is looked at after everything has its value.
	guarded, loose bool
	// branch is set in a conditional's branches: only one of them is taken.
	branch bool
}

// unitsOf divides items into units, in the order of their places.
func unitsOf(it *items) []*unit {
	var units []*unit
	last := map[string]int{}
	for _, b := range it.blocks {
		u := &unit{kind: b.Type, block: b, at: b.DefRange}
		if len(b.Labels) > 0 {
			u.name = b.Labels[0]
		}
		u.readBlock(b)
		if u.kind == "variable" || u.kind == "function" { // the last one counts
			if i, ok := last[u.kind+" "+u.name]; ok {
				units[i] = u
				continue
			}
			last[u.kind+" "+u.name] = len(units)
		}
		units = append(units, u)
	}
	for _, name := range slices.Sorted(maps.Keys(it.attrs)) {
		attr := it.attrs[name]
		u := &unit{kind: "value", name: name, attr: attr, at: attr.Range}
		u.readExpr(attr.Expr, "", nil, false)
		units = append(units, u)
	}
	return units
}

// readBlock notes what the block refers to.
func (u *unit) readBlock(b *hcl.Block) {
	attrs, _ := b.Body.JustAttributes()
	scope, known := u.scope(attrs)
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		switch {
		case u.kind == "variable" && name == "type",
			u.kind == "function" && name != "result",
			u.kind == "target" && attributeNamed(name) == nil,
			u.kind == projectBlock && attributeNamed(name) == nil:
			continue
		}
		inner := scope
		if name == "matrix" {
			inner = nil
		}
		u.readExpr(attrs[name].Expr, name, inner, !known && name != "matrix")
	}
	native, ok := b.Body.(*hclsyntax.Body)
	if !ok || u.kind != "variable" {
		return
	}
	for _, validation := range native.Blocks {
		for _, name := range slices.Sorted(maps.Keys(validation.Body.Attributes)) {
			start := len(u.refs)
			u.readExpr(validation.Body.Attributes[name].Expr, name, nil, false)
			for i := start; i < len(u.refs); i++ {
				u.refs[i].loose = true
			}
		}
	}
}

// scope are the names that only exist inside of the block; known is false if
// there are more than can be told.
func (u *unit) scope(attrs hcl.Attributes) (names map[string]bool, known bool) {
	names = map[string]bool{}
	switch u.kind {
	case "function":
		for _, name := range []string{"params", "variadic_params"} {
			attr := attrs[name]
			if attr == nil {
				continue
			}
			params, diags := hcl.ExprList(attr.Expr)
			if diags.HasErrors() {
				params = []hcl.Expression{attr.Expr}
			}
			for _, p := range params {
				names[hcl.ExprAsKeyword(p)] = true
			}
		}
	case "target":
		attr := attrs["matrix"]
		if attr == nil {
			return names, true
		}
		u.matrix = attrs["name"] != nil
		names, more := axesOf(attr.Expr)
		return names, !more
	}
	return names, true
}

// readExpr notes what the expression refers to, names of the scope left out. If
// the scope is open, every value may be one of it.
func (u *unit) readExpr(expr hcl.Expression, from string, scope map[string]bool, open bool) {
	guards, branches := u.readCalls(expr, from)
	for _, t := range expr.Variables() {
		name := t.RootName()
		if scope[name] {
			continue
		}
		r := mention{kind: "value", name: name, at: t.SourceRange(), from: from}
		if name == "target" || name == "group" {
			if len(t) < 2 {
				continue // hclparser has a message for it
			}
			step, ok := t[1].(hcl.TraverseAttr)
			if !ok {
				continue
			}
			r.kind, r.name = name, step.Name
			if len(t) > 2 {
				if step, ok := t[2].(hcl.TraverseAttr); ok {
					r.attr = step.Name
				}
			}
		}
		inside := func(g hcl.Range) bool { return contains(g, r.at) }
		r.guarded = open && r.kind == "value" || slices.ContainsFunc(guards, inside)
		r.branch = slices.ContainsFunc(branches, inside)
		u.refs = append(u.refs, r)
	}
}

// readCalls notes the functions that are called, and gives the places where a
// failure does no harm, the arguments of try and can, and those that may not be
// evaluated at all.
func (u *unit) readCalls(expr hcl.Expression, from string) (guards, branches []hcl.Range) {
	node, ok := expr.(hclsyntax.Node)
	if !ok {
		return nil, nil
	}
	_ = hclsyntax.VisitAll(node, func(n hclsyntax.Node) hcl.Diagnostics {
		if c, ok := n.(*hclsyntax.ConditionalExpr); ok {
			branches = append(branches, c.TrueResult.Range(), c.FalseResult.Range())
		}
		call, ok := n.(*hclsyntax.FunctionCallExpr)
		if !ok {
			return nil
		}
		u.refs = append(u.refs, mention{kind: "function", name: call.Name, at: call.NameRange, from: from})
		if call.Name == "try" || call.Name == "can" {
			for _, arg := range call.Args {
				guards = append(guards, arg.Range())
			}
		}
		return nil
	})
	return guards, branches
}

func contains(outer, inner hcl.Range) bool {
	return outer.Filename == inner.Filename && outer.Start.Byte <= inner.Start.Byte && inner.End.Byte <= outer.End.Byte
}

func overlaps(a, b hcl.Range) bool {
	return a.Filename == b.Filename && a.Start.Byte < b.End.Byte && b.Start.Byte < a.End.Byte
}
