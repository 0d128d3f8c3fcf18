package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// The attribute pull is bake's bool, and in zbuild's own files also the name of a
// policy. hclparser has to see a bool, or what it makes of references, of null and
// of other types would be different from bake. So a pull of ours is taken apart
// before it is evaluated: pull keeps what is a bool, and what is none goes to an
// attribute that no one can write.
const pullPolicyName = "pull policy"

var pullPolicies = []string{string(PullMissing), string(PullNewer), string(PullAlways), string(PullNever)}

// withPullPolicy takes the attribute pull of a target's body apart.
func withPullPolicy(body hcl.Body) hcl.Body {
	native, ok := body.(*hclsyntax.Body)
	if !ok {
		return withJSONPullPolicy(body)
	}
	attr := native.Attributes["pull"]
	if attr == nil {
		return body
	}
	at := attr.Expr.Range()
	null := &hclsyntax.LiteralValueExpr{Val: cty.NullVal(cty.DynamicPseudoType), SrcRange: at}
	// can(E && true) is what tells a bool.
	isBool := &hclsyntax.FunctionCallExpr{
		Name: "can", NameRange: at, OpenParenRange: at, CloseParenRange: at,
		Args: []hclsyntax.Expression{&hclsyntax.BinaryOpExpr{
			LHS: attr.Expr, Op: hclsyntax.OpLogicalAnd, SrcRange: at,
			RHS: &hclsyntax.LiteralValueExpr{Val: cty.True, SrcRange: at},
		}},
	}
	either := func(yes, no hclsyntax.Expression) *hclsyntax.Attribute {
		part := *attr
		part.Expr = &hclsyntax.ConditionalExpr{Condition: isBool, TrueResult: yes, FalseResult: no, SrcRange: at}
		return &part
	}
	clone := *native
	clone.Attributes = maps.Clone(native.Attributes)
	clone.Attributes["pull"] = either(attr.Expr, null)
	clone.Attributes[pullPolicyName] = either(null, attr.Expr)
	clone.Attributes[pullPolicyName].Name = pullPolicyName
	return &clone
}

// withJSONPullPolicy does it for JSON, whose expressions cannot be built: there a
// policy is a constant.
func withJSONPullPolicy(body hcl.Body) hcl.Body {
	attrs, _ := body.JustAttributes()
	attr := attrs["pull"]
	if attr == nil {
		return body
	}
	if policy, ok := constant(attr.Expr); !ok || !slices.Contains(pullPolicies, policy) {
		return body
	}
	attr.Name = pullPolicyName
	delete(attrs, "pull")
	attrs[pullPolicyName] = attr
	return &items{attrs: attrs}
}

// pull are the operations of the attribute: both of its parts are one value.
func pull() ops {
	return ops{
		has:   func(t *wireTarget) bool { return t.Pull != nil || t.PullPolicy != nil },
		merge: func(t, from *wireTarget) { t.Pull, t.PullPolicy = from.Pull, from.PullPolicy },
		set: func(t *wireTarget, o *override) error {
			value := o.last()
			if slices.Contains(pullPolicies, value) {
				t.Pull, t.PullPolicy = nil, &value
				return nil
			}
			always, err := strconv.ParseBool(value)
			if err != nil {
				return fmt.Errorf("%q is neither a bool nor one of %s", value, strings.Join(pullPolicies, ", "))
			}
			t.Pull, t.PullPolicy = &always, nil
			return nil
		},
	}
}

// pull is the policy that is meant.
func (r *resolver) pull(t *wireTarget) PullPolicy {
	switch {
	case t.PullPolicy != nil:
		if !slices.Contains(pullPolicies, *t.PullPolicy) {
			r.errorf(t.where("pull"), "Invalid pull", "%q is neither a bool nor one of %s.", *t.PullPolicy, strings.Join(pullPolicies, ", "))
		}
		return PullPolicy(*t.PullPolicy)
	case t.Pull != nil && *t.Pull:
		return PullAlways
	default:
		return PullMissing
	}
}

// shownPull is how bake --print shows it.
func (t *wireTarget) shownPull() any {
	switch {
	case t.PullPolicy != nil:
		return *t.PullPolicy
	case t.Pull != nil:
		return *t.Pull
	default:
		return nil
	}
}
