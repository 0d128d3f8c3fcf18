package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/tonistiigi/go-csvvalue"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// resolve evaluates a variable or value. A value is evaluated where it is first
// needed, as bake does it.
func (e *evaluator) resolve(name string, ctx *hcl.EvalContext) error {
	if _, ok := e.scope.Variables[name]; ok {
		return nil
	}
	if _, ok := ctx.Variables[name]; ok {
		return nil
	}
	var key any
	var at hcl.Range
	x, isValue := e.values[name]
	v := e.variables[name]
	switch {
	case isValue:
		key, at = valueKey(name), x.at
	case v != nil:
		key, at = v.block, v.block.DefRange
	default:
		return fmt.Errorf("variable %q does not exist: %w", name, errUndefined)
	}
	if _, ok := e.failures[key]; ok {
		return errBroken
	}
	if e.progress[progressKey{ctx, name}] {
		return fmt.Errorf("variable %s refers to itself", name)
	}
	e.progress[progressKey{ctx, name}] = true
	value, err := e.evaluate(name, x, v, ctx)
	if err != nil {
		e.fail(key, at, "Invalid value", err)
		return errBroken
	}
	e.scope.Variables[name] = value
	return nil
}

// evaluate gives the value of a variable, or of a value outside of all blocks
// (x), which hides a variable of the same name but can still be overridden.
func (e *evaluator) evaluate(name string, x *expression, v *variable, ctx *hcl.EvalContext) (cty.Value, error) {
	typ, typed := cty.DynamicPseudoType, false
	def := x
	if def == nil {
		ctx, def = e.scope, v.def
		var diags hcl.Diagnostics
		if typ, diags = typeConstraint(v.Type); diags.HasErrors() {
			return cty.NilVal, diags
		}
		typed = !typ.Equals(cty.DynamicPseudoType) || hcl.ExprAsKeyword(v.Type) == "any"
		if typed {
			v.constraint = &typ
		}
	}
	value := cty.NullVal(typ)
	if def == nil {
		if value, given, err := e.fromFile(name, typ, typed, value); given {
			return value, err
		}
		if _, given, _ := e.override(name, false); !given {
			if !typed {
				value = cty.StringVal("")
			}
			return value, nil
		}
	} else {
		if err := e.need(def, ctx, nil, true); err != nil {
			return cty.NilVal, err
		}
		var diags hcl.Diagnostics
		if value, diags = e.valueOf(def, ctx); diags.HasErrors() {
			return cty.NilVal, diags
		}
		var err error
		if value, err = converted(value, typ); err != nil {
			return cty.NilVal, fmt.Errorf("the default of variable %s is no %s: %w", name, typ.FriendlyName(), err)
		}
	}
	if v != nil && def != nil {
		if value, given, err := e.fromFile(name, typ, typed, value); given {
			return value, err
		}
	}
	text, given, isJSON := e.override(name, typed)
	if !given || v == nil {
		return value, nil
	}
	if typed {
		return fromText(name, text, isJSON, typ)
	}
	return likeDefault(name, text, value)
}

// override is the value that the command line or the environment gives, and
// whether it is JSON: NAME_JSON is asked for where preferred is set, or there is
// nothing else.
func (e *evaluator) override(name string, preferred bool) (text string, given, isJSON bool) {
	text, given = e.lookup(name)
	if given && !preferred {
		return text, given, false
	}
	json := name + "_JSON"
	_, builtin := e.builtins[json]
	if _, declared := e.variables[json]; declared || builtin {
		return text, given, false
	}
	if t, ok := e.lookup(json); ok {
		return t, true, true
	}
	return text, given, false
}

// fromText makes a value of the declared type of text from outside.
func fromText(name, text string, isJSON bool, typ cty.Type) (cty.Value, error) {
	switch {
	case isJSON:
		v, err := ctyjson.Unmarshal([]byte(text), typ)
		if err != nil {
			return v, fmt.Errorf("the JSON that is given for variable %s is no %s: %w", name, typ.FriendlyName(), err)
		}
		return v, nil
	case typ.IsListType(), typ.IsSetType(), typ.IsTupleType(), typ.IsMapType():
		v, err := fromCSV(name, text, typ)
		if err != nil {
			return v, fmt.Errorf("the list that is given for variable %s: %w", name, err)
		}
		return v, nil
	case typ.IsPrimitiveType():
		return fromWord(name, text, typ)
	}
	return cty.NilVal, fmt.Errorf("variable %s is of type %s, which can only be given as JSON, in %s_JSON", name, typ.FriendlyNameForConstraint(), name)
}

// likeDefault makes a value of the type that a variable's default has of text from
// outside; a string if there is no default.
func likeDefault(name, text string, def cty.Value) (cty.Value, error) {
	switch typ := def.Type(); {
	case typ.Equals(cty.DynamicPseudoType):
		return cty.StringVal(text), nil
	case typ.IsPrimitiveType():
		return fromWord(name, text, typ)
	default:
		return cty.NilVal, fmt.Errorf("variable %s has a default of type %s and cannot be given from outside: declare its type", name, typ.FriendlyName())
	}
}

// fromWord makes a string, bool or number of text.
func fromWord(name, text string, typ cty.Type) (cty.Value, error) {
	switch typ {
	case cty.String:
		return cty.StringVal(text), nil
	case cty.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return cty.NilVal, fmt.Errorf("variable %s is a bool, and the value that is given for it is neither true nor false", name)
		}
		return cty.BoolVal(b), nil
	case cty.Number:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			return cty.NilVal, fmt.Errorf("variable %s is a number, and the value that is given for it is none", name)
		}
		return cty.NumberVal(big.NewFloat(n)), nil
	default:
		return cty.NilVal, fmt.Errorf("variable %s is of type %s, which cannot be given in a list", name, typ.FriendlyName())
	}
}

// fromCSV makes a list, set, tuple or map of words of comma-separated values; a
// map's are KEY:VALUE.
func fromCSV(name, text string, typ cty.Type) (cty.Value, error) {
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		return cty.NilVal, err
	}
	if typ.IsMapType() {
		values := map[string]cty.Value{}
		for _, f := range fields {
			pair, err := (&csvvalue.Parser{Comma: ':'}).Fields(f, nil)
			if err != nil {
				return cty.NilVal, err
			}
			if len(pair) != 2 {
				return cty.NilVal, errors.New("an element of a map is KEY:VALUE")
			}
			if values[pair[0]], err = fromWord(name, pair[1], typ.ElementType()); err != nil {
				return cty.NilVal, err
			}
		}
		if len(values) == 0 {
			return cty.MapValEmpty(typ.ElementType()), nil
		}
		return cty.MapVal(values), nil
	}
	if typ.IsTupleType() && len(fields) != typ.Length() {
		return cty.NilVal, fmt.Errorf("%d elements are needed, and %d are given", typ.Length(), len(fields))
	}
	var values []cty.Value
	for i, f := range fields {
		var element cty.Type
		if typ.IsTupleType() {
			element = typ.TupleElementType(i)
		} else {
			element = typ.ElementType()
		}
		v, err := fromWord(name, f, element)
		if err != nil {
			return cty.NilVal, err
		}
		values = append(values, v)
	}
	switch {
	case typ.IsTupleType():
		return cty.TupleVal(values), nil
	case typ.IsSetType() && len(values) == 0:
		return cty.SetValEmpty(typ.ElementType()), nil
	case typ.IsSetType():
		return cty.SetVal(values), nil
	case len(values) == 0:
		return cty.ListValEmpty(typ.ElementType()), nil
	default:
		return cty.ListVal(values), nil
	}
}

// converted is convert.Convert, but not in proportion to the square of the number
// of elements: that finds a type that all of them have, which for strings,
// numbers and bools is the one that is wanted.
func converted(in cty.Value, want cty.Type) (cty.Value, error) {
	if in.IsNull() || !in.IsKnown() || in.IsMarked() || !want.IsCollectionType() || !want.ElementType().IsPrimitiveType() {
		return convert.Convert(in, want)
	}
	element := want.ElementType()
	switch ty := in.Type(); {
	case ty.IsTupleType() && !want.IsMapType() && ty.Length() > 0:
		values := in.AsValueSlice()
		for i, v := range values {
			var err error
			if values[i], err = convert.Convert(v, element); err != nil {
				return cty.NilVal, cty.IndexIntPath(i).NewError(err)
			}
		}
		if want.IsSetType() {
			return cty.SetVal(values), nil
		}
		return cty.ListVal(values), nil
	case ty.IsObjectType() && want.IsMapType() && len(ty.AttributeTypes()) > 0:
		values := in.AsValueMap()
		for _, name := range slices.Sorted(maps.Keys(values)) {
			v, err := convert.Convert(values[name], element)
			if err != nil {
				return cty.NilVal, cty.IndexStringPath(name).NewError(err)
			}
			values[name] = v
		}
		return cty.MapVal(values), nil
	}
	return convert.Convert(in, want)
}

// typeConstraint is the type that a variable declares; any if it declares none.
func typeConstraint(expr hcl.Expression) (cty.Type, hcl.Diagnostics) {
	typ, diags := typeexpr.TypeConstraint(expr)
	if !diags.HasErrors() {
		return typ, diags
	}
	if v, ds := expr.Value(nil); !ds.HasErrors() && v.IsNull() { // not written
		return cty.DynamicPseudoType, nil
	}
	return typ, diags
}

// evaluateVariables evaluates the variables, and checks their conditions.
func (e *evaluator) evaluateVariables(it *items) []*Variable {
	var all []*variable
	for _, b := range it.blocks {
		if v := e.variables[firstLabel(b)]; b.Type == "variable" && v != nil && v.block == b {
			all = append(all, v)
			wrong := e.failures[b] // its body
			if err := e.resolve(v.name, e.scope); err != nil {
				e.fail(b, b.DefRange, "Invalid value", err)
			}
			if len(wrong) > 0 { // its value is of no use, but can be wrong, too
				_, err := e.evaluate(v.name, nil, v, e.scope)
				e.failures[b] = append(e.failures[b], problems(b.DefRange, "Invalid value", err)...)
			}
		}
	}
	var list []*Variable
	for _, v := range all {
		if value, ok := e.scope.Variables[v.name]; ok {
			list = append(list, v.shown(value))
			if diags := e.validate(v); diags.HasErrors() {
				e.fail(v.block, v.block.DefRange, "Invalid value", diags)
			}
		}
	}
	return list
}

// validate checks the conditions that a variable's value has to meet. They see
// what has been evaluated so far.
func (e *evaluator) validate(v *variable) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, rule := range v.Validations {
		invalid := func(summary, detail string) {
			diags = append(diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: rule.Condition.Range().Ptr()})
		}
		e.refs(rule.Condition)
		e.refs(rule.ErrorMessage)
		result, ds := e.meter.metered(rule.Condition).Value(e.scope)
		if ds.HasErrors() {
			diags = append(diags, ds...)
			continue
		}
		if result.IsNull() {
			invalid("Invalid condition result", "Condition expression must return either true or false, not null.")
			continue
		}
		result, err := convert.Convert(result, cty.Bool)
		switch {
		case err != nil:
			invalid("Invalid condition result", fmt.Sprintf("Invalid condition result value: %s", err))
		case !result.IsKnown():
			invalid("Invalid condition result", "The value of the condition is not known.")
		case !result.True():
			message, ds := e.meter.metered(rule.ErrorMessage).Value(e.scope)
			if ds.HasErrors() {
				diags = append(diags, ds...)
				continue
			}
			text := "This check failed, but has an invalid error message."
			if message.IsKnown() && !message.IsNull() && message.Type() == cty.String {
				text = message.AsString()
			}
			invalid("Validation failed", text)
		}
	}
	return diags
}

// Variable is a variable of the project, as 'list' shows it.
type Variable struct {
	Name        string
	Description string
	// Type is the declared type, or empty.
	Type string
	// Value is the value as text, JSON where it is no string; nil for null.
	Value *string
}

func (v *variable) shown(value cty.Value) *Variable {
	s := &Variable{Name: v.name, Description: v.Description}
	typ := value.Type()
	if v.constraint != nil {
		typ = *v.constraint
		s.Type = typ.FriendlyNameForConstraint()
	}
	if value.IsNull() || !value.IsWhollyKnown() {
		return s
	}
	text := ""
	if v.constraint == nil && typ.IsPrimitiveType() {
		if plain, err := convert.Convert(value, cty.String); err == nil {
			text = plain.AsString()
		}
	} else if data, err := ctyjson.Marshal(value, typ); err == nil {
		text = string(data)
		if typ.Equals(cty.String) {
			text = strings.Trim(text, `"`)
		}
	}
	s.Value = &text
	return s
}
