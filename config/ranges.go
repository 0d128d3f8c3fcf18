package config

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// constant is the expression's value as a string, if it is one by itself.
func constant(expr hcl.Expression) (string, bool) {
	value, diags := expr.Value(nil)
	if diags.HasErrors() || value.IsNull() || !value.IsKnown() {
		return "", false
	}
	value, err := convert.Convert(value, cty.String)
	if err != nil || value.IsNull() {
		return "", false
	}
	return value.AsString(), true
}

// keyOf is the key of a map's element, as far as it is constant.
func keyOf(p hcl.KeyValuePair) (string, bool) {
	if s, ok := constant(p.Key); ok {
		return s, true
	}
	s := hcl.ExprAsKeyword(p.Key)
	return s, s != ""
}

// elementRanges are the places in an expression that is a map where each key's
// value is written, or in one that is a list of "id=..." or of objects with an
// id, where each id's element is.
func elementRanges(expr hcl.Expression) map[string]hcl.Range {
	ranges := map[string]hcl.Range{}
	if pairs, diags := hcl.ExprMap(expr); !diags.HasErrors() {
		for _, p := range pairs {
			if key, ok := keyOf(p); ok {
				ranges[key] = p.Value.Range()
			}
		}
		return ranges
	}
	elements, diags := hcl.ExprList(expr)
	if diags.HasErrors() {
		return ranges
	}
	for _, e := range elements {
		if s, ok := constant(e); ok {
			for field := range strings.SplitSeq(s, ",") {
				if id, ok := strings.CutPrefix(field, "id="); ok {
					ranges[id] = e.Range()
				}
			}
			continue
		}
		pairs, _ := hcl.ExprMap(e)
		for _, p := range pairs {
			key, _ := keyOf(p)
			if id, ok := constant(p.Value); ok && key == "id" {
				ranges[id] = e.Range()
			}
		}
	}
	return ranges
}

// where is where the target's attribute was written, or its header.
func (t *wireTarget) where(attribute string) *hcl.Range {
	if o, ok := t.from[attribute]; ok {
		return &o.at
	}
	at := t.at
	return &at
}

// whereValue is where one element of a list of strings was written: the last
// place that has just this text, or else the attribute's.
func (t *wireTarget) whereValue(attribute, value string) *hcl.Range {
	if o := t.from[attribute]; o.set {
		return &o.at
	}
	if at := findValue(t.exprs[attribute], value); at != nil {
		return at
	}
	return t.where(attribute)
}

// whereIndex is where element i of a list with n elements was written, if that
// can be told.
func (t *wireTarget) whereIndex(attribute string, i, n int) *hcl.Range {
	exprs := t.exprs[attribute]
	if t.from[attribute].set || len(exprs) == 0 {
		return t.where(attribute)
	}
	if elements, diags := hcl.ExprList(exprs[len(exprs)-1]); !diags.HasErrors() && len(elements) == n {
		return elements[i].Range().Ptr()
	}
	return t.where(attribute)
}

func (g *wireGroup) whereValue(value string) *hcl.Range {
	if at := findValue(g.exprs, value); at != nil {
		return at
	}
	at := g.at
	return &at
}

func findValue(exprs []hcl.Expression, value string) *hcl.Range {
	for _, expr := range slices.Backward(exprs) {
		elements, diags := hcl.ExprList(expr)
		if diags.HasErrors() {
			continue
		}
		for _, e := range elements {
			if s, ok := constant(e); ok && s == value {
				return e.Range().Ptr()
			}
		}
	}
	return nil
}
