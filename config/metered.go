package config

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// metered is the expression as it is to be evaluated: the same, but every part
// of it that makes something pays for it. JSON's expressions become the same
// tree, with their templates parsed once.
func (m *meter) metered(expr hcl.Expression) hcl.Expression {
	if native, ok := expr.(hclsyntax.Expression); ok {
		return &paying{Expression: m.tree(native), meter: m, deep: true}
	}
	return &paidJSON{Expression: expr, node: m.json(expr), meter: m}
}

// paying is a part of an expression that pays for its value.
type paying struct {
	hclsyntax.Expression
	meter *meter
	// deep is set where all of the value will be looked at: it is compared,
	// converted or written out.
	deep bool
	// argument is set where a tuple may be made into a list, which compares the
	// types of all its elements with one another.
	argument bool
}

// Value evaluates the part.
func (p *paying) Value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	m := p.meter
	outer := m.at
	m.at = p.Range()
	defer func() { m.at = outer }()
	if !m.spend(1, 0) {
		return m.failed()
	}
	v, diags := p.Expression.Value(ctx)
	if diags.HasErrors() && m.over == nil {
		return v, diags
	}
	if !m.made(v) || p.deep && !m.look(v) {
		return m.failed()
	}
	if p.argument && !v.IsNull() && v.IsKnown() && (v.Type().IsTupleType() || v.Type().IsObjectType()) {
		if n := int64(v.LengthInt()); !m.spend(n*n/64, 0) {
			return m.failed()
		}
	}
	return v, diags
}

// UnwrapExpression is for hcl's static analysis, which conversions of types use.
func (p *paying) UnwrapExpression() hcl.Expression { return p.Expression }

// all wraps expressions that are evaluated as often as their parent is.
func (m *meter) all(list []hclsyntax.Expression, deep bool) []hclsyntax.Expression {
	wrapped := make([]hclsyntax.Expression, len(list))
	for i, e := range list {
		wrapped[i] = m.part(e, deep)
	}
	return wrapped
}

// part wraps an expression if it makes something, or if all of its value will be
// looked at.
func (m *meter) part(e hclsyntax.Expression, deep bool) hclsyntax.Expression {
	switch e := e.(type) {
	case nil:
		return nil
	case *hclsyntax.LiteralValueExpr:
		if e.Val.Type() != cty.Number || e.Val.IsNull() || m.fits(e.Val) {
			return e
		}
	case *hclsyntax.AnonSymbolExpr, *hclsyntax.ScopeTraversalExpr:
		if !deep {
			return e
		}
	}
	return &paying{Expression: m.tree(e), meter: m, deep: deep}
}

// fits reports whether a number can be written down, without making it an error:
// it may never be evaluated.
func (m *meter) fits(v cty.Value) bool {
	return (&meter{}).number(v.AsBigFloat())
}

// tree is a copy of the expression whose parts pay. Where hcl looks at the type
// of a part, as it does for literals and names, the part stays what it is.
func (m *meter) tree(e hclsyntax.Expression) hclsyntax.Expression {
	switch e := e.(type) {
	case *hclsyntax.TemplateExpr:
		c := *e
		c.Parts = m.all(e.Parts, true)
		return &c
	case *hclsyntax.TemplateWrapExpr:
		c := *e
		c.Wrapped = m.part(e.Wrapped, false)
		return &c
	case *hclsyntax.TemplateJoinExpr:
		c := *e
		c.Tuple = m.part(e.Tuple, true)
		return &c
	case *hclsyntax.ParenthesesExpr:
		c := *e
		c.Expression = m.part(e.Expression, false)
		return &c
	case *hclsyntax.RelativeTraversalExpr:
		c := *e
		c.Source = m.part(e.Source, false)
		return &c
	case *hclsyntax.FunctionCallExpr:
		return m.call(e)
	case *hclsyntax.ConditionalExpr:
		c := *e
		c.Condition, c.TrueResult, c.FalseResult = m.part(e.Condition, false), m.part(e.TrueResult, true), m.part(e.FalseResult, true)
		return &c
	case *hclsyntax.IndexExpr:
		c := *e
		c.Collection, c.Key = m.part(e.Collection, false), m.part(e.Key, false)
		return &c
	case *hclsyntax.TupleConsExpr:
		c := *e
		c.Exprs = m.all(e.Exprs, false)
		return &c
	case *hclsyntax.ObjectConsExpr:
		return m.object(e)
	case *hclsyntax.ForExpr:
		c := *e
		c.CollExpr = m.part(e.CollExpr, false)
		// These are evaluated once for each element.
		c.KeyExpr, c.ValExpr, c.CondExpr = m.each(e.KeyExpr), m.each(e.ValExpr), m.each(e.CondExpr)
		return &c
	case *hclsyntax.SplatExpr:
		return &hclsyntax.SplatExpr{
			Source: m.part(e.Source, false), Each: m.each(e.Each), Item: e.Item,
			SrcRange: e.SrcRange, MarkerRange: e.MarkerRange,
		}
	case *hclsyntax.BinaryOpExpr:
		c := *e
		c.LHS, c.RHS = m.part(e.LHS, true), m.part(e.RHS, true)
		return &c
	case *hclsyntax.UnaryOpExpr:
		c := *e
		c.Val = m.part(e.Val, false)
		return &c
	}
	return e
}

func (m *meter) call(e *hclsyntax.FunctionCallExpr) hclsyntax.Expression {
	c := *e
	switch e.Name {
	case "try", "can", "convert": // take expressions, not values
		c.Args = m.all(e.Args, false)
		if e.Name == "convert" && len(e.Args) == 2 {
			c.Args[1] = e.Args[1] // a type
		}
	default:
		c.Args = m.all(e.Args, true)
		for _, a := range c.Args {
			if p, ok := a.(*paying); ok {
				p.argument = true
			}
		}
	}
	return &c
}

func (m *meter) object(e *hclsyntax.ObjectConsExpr) hclsyntax.Expression {
	c := *e
	c.Items = make([]hclsyntax.ObjectConsItem, len(e.Items))
	for i, item := range e.Items {
		c.Items[i] = hclsyntax.ObjectConsItem{KeyExpr: item.KeyExpr, ValueExpr: m.part(item.ValueExpr, false)}
		if key, ok := item.KeyExpr.(*hclsyntax.ObjectConsKeyExpr); ok {
			k := *key
			k.Wrapped = m.part(key.Wrapped, false)
			c.Items[i].KeyExpr = &k
		}
	}
	return &c
}

// each wraps an expression that is evaluated many times.
func (m *meter) each(e hclsyntax.Expression) hclsyntax.Expression {
	if e == nil {
		return nil
	}
	return &paying{Expression: m.tree(e), meter: m}
}

// paidJSON is a JSON expression: what it is for analysis, and the tree that is
// evaluated.
type paidJSON struct {
	hcl.Expression
	node  jsonNode
	meter *meter
}

// Value evaluates the tree.
func (p *paidJSON) Value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	v, diags := p.node.value(ctx)
	if !diags.HasErrors() && !p.meter.look(v) {
		return p.meter.failed()
	}
	return v, diags
}

// jsonNode is a JSON value with templates in its strings.
type jsonNode interface {
	value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics)
}

type (
	jsonLeaf struct { // a number, true, false, null or a string that is no template
		v     cty.Value
		diags hcl.Diagnostics
	}
	jsonTemplate struct{ hcl.Expression }
	jsonArray    struct {
		meter    *meter
		elements []jsonNode
	}
	jsonObject struct {
		meter   *meter
		entries []jsonEntry
	}
	jsonEntry struct {
		key   jsonNode
		value jsonNode
		at    hcl.Range
	}
)

// json makes the tree of an expression of HCL's JSON syntax, whose types are not
// exported; what it is can be told from what it answers.
func (m *meter) json(expr hcl.Expression) jsonNode {
	if list, diags := hcl.ExprList(expr); !diags.HasErrors() {
		a := &jsonArray{meter: m}
		for _, e := range list {
			a.elements = append(a.elements, m.json(e))
		}
		return a
	}
	if pairs, diags := hcl.ExprMap(expr); !diags.HasErrors() {
		o := &jsonObject{meter: m}
		for _, p := range pairs {
			o.entries = append(o.entries, jsonEntry{key: m.json(p.Key), value: m.json(p.Value), at: p.Key.Range()})
		}
		return o
	}
	v, diags := expr.Value(nil)
	if diags.HasErrors() || v.IsNull() || v.Type() != cty.String {
		if !v.IsNull() && v.IsKnown() && v.Type() == cty.Number {
			at := expr.Range()
			return &jsonTemplate{m.part(&hclsyntax.LiteralValueExpr{Val: v, SrcRange: at}, true)}
		}
		return &jsonLeaf{v, diags}
	}
	at := expr.Range().Start
	at.Byte, at.Column = at.Byte+1, at.Column+1 // the quote
	template, diags := hclsyntax.ParseTemplate([]byte(v.AsString()), expr.Range().Filename, at)
	if diags.HasErrors() {
		return &jsonLeaf{cty.DynamicVal, diags}
	}
	return &jsonTemplate{m.part(template, false)}
}

func (l *jsonLeaf) value(*hcl.EvalContext) (cty.Value, hcl.Diagnostics) { return l.v, l.diags }

func (t *jsonTemplate) value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) { return t.Value(ctx) }

func (a *jsonArray) value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	if n := int64(len(a.elements)) + 1; !a.meter.spend(n, n*valueBytes) {
		return a.meter.failed()
	}
	var diags hcl.Diagnostics
	values := make([]cty.Value, 0, len(a.elements))
	for _, e := range a.elements {
		v, ds := e.value(ctx)
		values, diags = append(values, v), append(diags, ds...)
	}
	return cty.TupleVal(values), diags
}

func (o *jsonObject) value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	if n := int64(len(o.entries)) + 1; !o.meter.spend(n, n*valueBytes) {
		return o.meter.failed()
	}
	var diags hcl.Diagnostics
	values := make(map[string]cty.Value, len(o.entries))
	for _, e := range o.entries {
		key, keyDiags := e.key.value(ctx)
		v, ds := e.value.value(ctx)
		diags = append(append(diags, keyDiags...), ds...)
		if keyDiags.HasErrors() {
			continue
		}
		invalid := func(why string, args ...any) {
			at := e.at
			diags = append(diags, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Invalid object key", Detail: fmt.Sprintf(why, args...), Subject: &at,
			})
		}
		key, err := convert.Convert(key, cty.String)
		switch {
		case err != nil:
			invalid("This cannot be the name of an element: %v.", err)
			continue
		case key.IsNull() || !key.IsKnown():
			invalid("The name of an element cannot be null.")
			continue
		}
		if _, ok := values[key.AsString()]; ok {
			invalid("There is an element %q already.", key.AsString())
			continue
		}
		values[key.AsString()] = v
	}
	return cty.ObjectVal(values), diags
}
