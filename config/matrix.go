package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// maxTargets is the largest number of targets that a project may have.
const maxTargets = 12_000

const summaryTooMany = "Too many targets"

func tooManyTargets(at hcl.Range) *hcl.Diagnostic {
	return &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: summaryTooMany,
		Detail: fmt.Sprintf("A project may have %d targets.", maxTargets), Subject: &at,
	}
}

// combinations are the variables of each value that the block makes; one nil if
// it has no matrix.
func (e *evaluator) combinations(b *evalBlock) ([]map[string]cty.Value, error) {
	if b.Type == "group" {
		for _, name := range []string{"name", "matrix"} {
			if x := e.extra(b, name); x != nil {
				r := x.Range()
				return nil, hcl.Diagnostics{{
					Severity: hcl.DiagError, Summary: "A group has no " + name,
					Detail: "Only a target can have the attributes matrix and name.", Subject: &r,
				}}
			}
		}
	}
	one := []map[string]cty.Value{nil}
	matrix := e.extra(b, "matrix")
	if b.Type == "target" && matrix != nil {
		if err := e.need(matrix, e.scope, nil, true); err != nil {
			return nil, err
		}
		value, diags := e.valueOf(matrix, e.scope)
		if diags.HasErrors() {
			return nil, diags
		}
		if one, diags = e.combine(matrix, value); diags.HasErrors() {
			return nil, diags
		}
	}
	if b.Type == "target" {
		if e.targets += len(one); e.targets > maxTargets {
			e.meter.at = b.DefRange
			e.meter.exceedWith(tooManyTargets(b.DefRange))
			return nil, hcl.Diagnostics{e.meter.over}
		}
	}
	return one, nil
}

// combine are the combinations of a matrix's values.
func (e *evaluator) combine(expr hcl.Expression, value cty.Value) ([]map[string]cty.Value, hcl.Diagnostics) {
	invalid := func(format string, args ...any) hcl.Diagnostics {
		return hcl.Diagnostics{{
			Severity: hcl.DiagError, Summary: "Invalid matrix", Detail: fmt.Sprintf(format, args...), Subject: expr.Range().Ptr(),
		}}
	}
	if value.IsNull() || !value.IsWhollyKnown() || !value.Type().IsMapType() && !value.Type().IsObjectType() {
		return nil, invalid("A matrix is a map from the name of each axis to the list of its values.")
	}
	axes := value.AsValueMap()
	combinations := []map[string]cty.Value{{}}
	// The first axis of the file is the one that varies last.
	for _, axis := range inOrder(expr, e.scope, axes) {
		if axes[axis].IsNull() || !axes[axis].CanIterateElements() {
			return nil, invalid("The values of the axis %q are not a list.", axis)
		}
		values := axes[axis].AsValueSlice()
		if len(values)*len(combinations) > maxTargets {
			return nil, invalid("The matrix makes too many targets: a project may have %d.", maxTargets)
		}
		if n := int64(len(values)*len(combinations)) * int64(len(axes)); !e.meter.spend(n, n*valueBytes/4) {
			return nil, hcl.Diagnostics{e.meter.over}
		}
		next := make([]map[string]cty.Value, 0, len(values)*len(combinations))
		for _, c := range combinations {
			for _, v := range values {
				c := maps.Clone(c)
				c[axis] = v
				next = append(next, c)
			}
		}
		combinations = next
	}
	return combinations, nil
}

// inOrder are the names of a matrix's axes in the order of the file, as far as it
// can be told; bake goes through them by chance.
func inOrder(expr hcl.Expression, base *hcl.EvalContext, axes map[string]cty.Value) []string {
	var order []string
	add := func(name string) {
		if _, ok := axes[name]; ok && !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	pairs, _ := hcl.ExprMap(expr) // no pairs if it is no map by itself
	for _, p := range pairs {
		key, diags := p.Key.Value(base)
		if diags.HasErrors() || !key.IsKnown() || key.IsNull() {
			continue
		}
		if key, err := convert.Convert(key, cty.String); err == nil {
			add(key.AsString())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(axes)) {
		add(name)
	}
	return order
}

// axesOf are the names of a matrix's variables; more is set if there are some that
// cannot be told.
func axesOf(matrix hcl.Expression) (names map[string]bool, more bool) {
	names = map[string]bool{}
	pairs, diags := hcl.ExprMap(matrix)
	if diags.HasErrors() {
		return names, true
	}
	for _, p := range pairs {
		if s, ok := constant(p.Key); ok {
			names[s] = true
		} else if s := hcl.ExprAsKeyword(p.Key); s != "" {
			names[s] = true
		} else {
			more = true
		}
	}
	return names, more
}

// needsAxis reports whether an expression refers, or may refer, to a variable of the
// block's matrix that has no value.
func (e *evaluator) needsAxis(b *evalBlock, x *expression) bool {
	return slices.ContainsFunc(x.refs, func(ref hcl.Traversal) bool {
		root := ref.RootName()
		return b.axes[root] || b.moreAxes && !e.exists(root)
	})
}

// targetName is what the attribute name gives for one combination of a matrix.
func (e *evaluator) targetName(x *expression, ctx *hcl.EvalContext, b *evalBlock) (string, error) {
	r := x.Range()
	invalid := func(detail string) error {
		return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "Invalid target name", Detail: detail, Subject: &r}}
	}
	if e.extra(b, "matrix") == nil {
		return "", invalid("The attribute name needs a matrix: it names the targets that the matrix makes.")
	}
	if err := e.need(x, ctx, nil, true); err != nil {
		return "", err
	}
	value, diags := e.valueOf(x, ctx)
	if diags.HasErrors() {
		return "", diags
	}
	return nameFrom(value, invalid)
}

// nameFrom is the name of a target as a string.
func nameFrom(value cty.Value, invalid func(string) error) (string, error) {
	value, err := convert.Convert(value, cty.String)
	if err != nil || value.IsNull() || !value.IsKnown() {
		return "", invalid("The name has to be a string.")
	}
	if err := validateName(value.AsString()); err != nil {
		return "", invalid(fmt.Sprintf("%q cannot be the name of a target: %v.", value.AsString(), err))
	}
	return value.AsString(), nil
}
