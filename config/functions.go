package config

import (
	"errors"
	"regexp/syntax"
	"strconv"
	"strings"

	"github.com/docker/buildx/bake/hclparser"
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// errTooMuch is what a function fails with that would take too much. The meter
// has the reason.
var errTooMuch = errors.New("takes too much")

// functions are bake's standard functions, which pay for what they make. What
// their arguments cost is paid for where they are called.
func (m *meter) functions() map[string]function.Function {
	all := hclparser.Stdlib()
	for name, f := range all {
		switch name {
		case "try", "can", "convert": // make nothing
		default:
			all[name] = m.paid(name, f)
		}
	}
	return all
}

// paid is the function, but asked beforehand what its result may come to where
// that is not in proportion to its arguments.
func (m *meter) paid(name string, f function.Function) function.Function {
	estimate := estimates[name]
	return function.New(&function.Spec{
		Description: f.Description(),
		Params:      f.Params(),
		VarParam:    f.VarParam(),
		Type: func(args []cty.Value) (cty.Type, error) {
			// A function may make its result to find out the result's type.
			if estimate != nil && known(args) && !m.allows(estimate(args)) {
				return cty.DynamicPseudoType, errTooMuch
			}
			return f.ReturnTypeForValues(args)
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			v, err := f.Call(args)
			if err == nil && (!m.made(v) || !m.look(v)) {
				return cty.DynamicVal, errTooMuch
			}
			return v, err
		},
	})
}

// cost is what a call comes to at most: steps, beside those for looking at the
// arguments and the result, and the bytes of the result. reason is set instead
// if it cannot be had at any price.
type cost struct {
	work, bytes int64
	reason      string
}

func (m *meter) allows(c cost) bool {
	switch {
	case c.reason != "":
		m.exceed(c.reason)
	case c.bytes > maxString:
		m.exceed("A function makes too large a value.")
	case c.bytes > m.bytes:
		m.spend(0, c.bytes)
	default:
		return m.spend(c.work, 0)
	}
	return false
}

// known reports whether the arguments can be looked into.
func known(args []cty.Value) bool {
	for _, a := range args {
		if a.IsNull() || !a.IsWhollyKnown() || a.ContainsMarked() {
			return false
		}
	}
	return true
}

// estimates are of those functions whose result, or work, can be out of
// proportion to their arguments.
var estimates = map[string]func(args []cty.Value) cost{
	"format":        func(args []cty.Value) cost { return formatCost(args, 1) },
	"formatlist":    func(args []cty.Value) cost { return formatCost(args, longest(args)) },
	"indent":        indentCost,
	"join":          joinCost,
	"jsondecode":    nestedCost,
	"parseint":      digitsCost,
	"regex":         func(args []cty.Value) cost { return regexCost(args, 0, 1) },
	"regexall":      func(args []cty.Value) cost { return regexCost(args, 0, 1) },
	"regex_replace": regexReplaceCost,
	"replace":       replaceCost,
	"setproduct":    productCost,
	"bcrypt":        bcryptCost,
	"flatten":       squareCost,
	"concat":        squareCost,
	"distinct":      squareCost,
	"semvercmp":     squareCost,
	"setunion":      squareCost,
	"cidrsubnets":   squareCost,
}

// textOf is an argument that is a string; empty if it is none.
func textOf(args []cty.Value, i int) string {
	if i < len(args) && args[i].Type() == cty.String {
		return args[i].AsString()
	}
	return ""
}

// bytesOf is how many bytes the strings in values have, and how many values
// there are.
func bytesOf(args []cty.Value) (bytes, values int64) {
	m := &meter{work: 1 << 40, bytes: 1 << 40}
	for _, a := range args {
		values += max(0, m.count(a, 0, &bytes))
	}
	return bytes, values
}

// longest is the length of the longest list.
func longest(args []cty.Value) int64 {
	n := int64(1)
	for _, a := range args {
		if a.CanIterateElements() {
			n = max(n, int64(a.LengthInt()))
		}
	}
	return n
}

func formatCost(args []cty.Value, times int64) cost {
	format := textOf(args, 0)
	verbs := int64(strings.Count(format, "%"))
	width := int64(0)
	for _, d := range strings.FieldsFunc(format, func(r rune) bool { return r < '0' || r > '9' }) { // widths and precisions
		n, err := strconv.Atoi(d)
		if verbs > 0 && (err != nil || n > maxString) {
			return cost{reason: "The width of a format is too large."}
		}
		width += int64(n)
	}
	bytes, values := bytesOf(args[1:])
	// %q and %#v escape; a number is written out.
	each := int64(len(format)) + width + verbs*(6*bytes+32*values)
	if times > 1 { // the lists' elements are spread over the results
		each = int64(len(format)) + width + verbs*(6*bytes/times+32*values/times+6*64)
	}
	return cost{work: verbs * times, bytes: times * each}
}

func indentCost(args []cty.Value) cost {
	spaces := int64(0)
	if len(args) > 0 && args[0].Type() == cty.Number {
		spaces, _ = args[0].AsBigFloat().Int64()
	}
	if spaces > maxString {
		return cost{reason: "The indentation is too large."}
	}
	s := textOf(args, 1)
	return cost{bytes: int64(len(s)) + max(0, spaces)*int64(strings.Count(s, "\n")+1)}
}

func joinCost(args []cty.Value) cost {
	bytes, values := bytesOf(args[1:])
	return cost{bytes: bytes + values*int64(len(textOf(args, 0)))}
}

func replaceCost(args []cty.Value) cost {
	s, old, with := textOf(args, 0), textOf(args, 1), textOf(args, 2)
	return cost{work: int64(len(s)) / 64, bytes: int64(len(s)) + int64(strings.Count(s, old))*int64(len(with))}
}

func regexReplaceCost(args []cty.Value) cost {
	s, with := int64(len(textOf(args, 0))), textOf(args, 2)
	c := regexCost(args, 1, 0)
	c.bytes = s + (s+1)*int64(len(with)) + int64(strings.Count(with, "$"))*s
	return c
}

// regexCost is the cost of a regular expression: argument pattern is one, and is
// looked for in argument str. Its compiled form repeats what {n} repeats.
func regexCost(args []cty.Value, pattern, str int) cost {
	const most = 20_000
	re, err := syntax.Parse(textOf(args, pattern), syntax.Perl)
	if err != nil {
		return cost{} // the function says so
	}
	size := regexSize(re, most)
	if size > most {
		return cost{reason: "A regular expression is too large."}
	}
	n := int64(len(textOf(args, str)))
	return cost{work: size/8 + n*size/64 + n*n/4096}
}

func regexSize(re *syntax.Regexp, most int64) int64 {
	size := int64(1 + len(re.Rune)/8)
	for _, sub := range re.Sub {
		if size += regexSize(sub, most); size > most {
			return size
		}
	}
	if re.Op == syntax.OpRepeat {
		size *= int64(max(re.Min, re.Max, 1))
	}
	return size
}

// nestedCost refuses JSON that is nested too deeply: decoding recurses.
func nestedCost(args []cty.Value) cost {
	s := textOf(args, 0)
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '[', '{':
			if depth++; depth > maxNesting {
				return cost{reason: "JSON is nested too deeply."}
			}
		case ']', '}':
			depth--
		}
	}
	return cost{work: int64(len(s)), bytes: int64(len(s))}
}

func digitsCost(args []cty.Value) cost {
	if len(textOf(args, 0)) > maxExponent/4 {
		return cost{reason: "A number is too large or too small."}
	}
	return cost{}
}

// productCost is the cost of all combinations of the elements of sets.
func productCost(args []cty.Value) cost {
	n := int64(1)
	for _, a := range args {
		if !a.CanIterateElements() {
			return cost{}
		}
		if n *= int64(a.LengthInt()); n > baseWork {
			break
		}
	}
	return cost{work: n * int64(len(args)), bytes: n * valueBytes * int64(len(args)+1) / 4}
}

// bcryptCost is set by its second argument, the logarithm of how often it
// hashes.
func bcryptCost(args []cty.Value) cost {
	rounds := int64(10)
	if len(args) > 1 && args[1].Type() == cty.Number {
		rounds, _ = args[1].AsBigFloat().Int64()
	}
	if rounds > 15 {
		return cost{reason: "The cost of bcrypt is at most 15."}
	}
	return cost{work: 256 << max(0, rounds)}
}

// squareCost is of what compares elements, or their types, with one another.
func squareCost(args []cty.Value) cost {
	_, values := bytesOf(args)
	return cost{work: values * values / 256}
}

// userFunction is a function that the build files define. It is evaluated once
// for each call, where a plain one would be once for its type and once for its
// value, which doubles with each function that calls another.
func userFunction(params []string, variadic string, result hcl.Expression, scope *hcl.EvalContext) function.Function {
	var last *cty.Value
	eval := func(args []cty.Value) (cty.Value, error) {
		ctx := scope.NewChild()
		ctx.Variables = make(map[string]cty.Value, len(params)+1)
		for i, name := range params {
			ctx.Variables[name] = args[i]
		}
		if variadic != "" {
			ctx.Variables[variadic] = cty.TupleVal(args[len(params):])
		}
		v, diags := result.Value(ctx)
		if diags.HasErrors() {
			return cty.DynamicVal, diags
		}
		return v, nil
	}
	spec := &function.Spec{
		Type: func(args []cty.Value) (cty.Type, error) {
			v, err := eval(args)
			if err != nil {
				return v.Type(), err
			}
			last = &v
			return v.Type(), nil
		},
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if v := last; v != nil { // of the call of Type that led to this one
				last = nil
				return *v, nil
			}
			return eval(args)
		},
	}
	for _, name := range params {
		spec.Params = append(spec.Params, function.Parameter{Name: name, Type: cty.DynamicPseudoType})
	}
	if variadic != "" {
		spec.VarParam = &function.Parameter{Name: variadic, Type: cty.DynamicPseudoType}
	}
	return function.New(spec)
}
