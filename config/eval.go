package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/docker/buildx/bake/hclparser/gohcl"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// evaluator evaluates what the build files define, by the rules of bake's
// hclparser, down to which definitions can be referred to from where. It differs
// in three ways: what is evaluated is paid for (meter), the work grows with the
// size of the project and not with its square, and a failure does not end it:
// what does not depend on the failure is evaluated too.
type evaluator struct {
	meter    *meter
	lookup   func(string) (string, bool)
	builtins map[string]string
	// given are the values of --var-file; flagged reports whether --var gives one.
	given   map[string]givenValue
	flagged func(string) bool

	variables map[string]*variable
	functions map[string]*functionDef
	values    map[string]*expression
	// scope has the variables, values and functions that have been evaluated.
	scope *hcl.EvalContext
	// progress are the variables and values that were begun, and from where.
	progress map[progressKey]bool
	begun    map[string]bool // functions

	types map[string]*blockType
	// blocks are those of a type by the names that they make.
	blocks map[string]map[string][]*evalBlock
	order  []*evalBlock
	// targets is how many there are.
	targets int

	failures map[any]hcl.Diagnostics
	renamed  map[string]map[string][]string
	// mentioned are the names that expressions refer to.
	mentioned map[string]bool
}

type progressKey struct {
	ctx  *hcl.EvalContext
	name string
}

// expression is an attribute's expression, and what it refers to.
type expression struct {
	hcl.Expression // as it is written
	at             hcl.Range
	paid           hcl.Expression // as it is evaluated
	calls          []string
	refs           []hcl.Traversal
}

// variable is the body of a variable block.
type variable struct {
	Type        hcl.Expression        `hcl:"type,optional"`
	Default     *hcl.Attribute        `hcl:"default,optional"`
	Description string                `hcl:"description,optional"`
	Validations []*variableValidation `hcl:"validation,block"`
	Remain      hcl.Body              `hcl:",remain"`

	name       string
	block      *hcl.Block
	def        *expression
	constraint *cty.Type
}

type variableValidation struct {
	Condition    hcl.Expression `hcl:"condition"`
	ErrorMessage hcl.Expression `hcl:"error_message"`
}

// functionDef is the body of a function block.
type functionDef struct {
	Params   *hcl.Attribute `hcl:"params"`
	Variadic *hcl.Attribute `hcl:"variadic_params"`
	Result   *hcl.Attribute `hcl:"result"`

	name   string
	block  *hcl.Block
	result *expression
}

// blockType is a type of blocks that become Go values.
type blockType struct {
	typ    reflect.Type
	schema *hcl.BodySchema
	fields map[string]*fieldType // by attribute
	// current are the blocks that a reference to a name sees: the last one of
	// that name that something was evaluated of.
	current map[string]*instance
	any     bool // any block of the type was looked at
	// nameless is set if there are values of the type whose names are not known.
	nameless bool
}

type fieldType struct {
	index int
	typ   cty.Type
	zero  cty.Value // what a reference sees of it if it is not written
	// plain is set for strings, numbers, and lists and maps of them, which can
	// always be turned into what a reference sees.
	plain bool
}

// evalBlock is a block, and the values it makes: one, or one for each
// combination of a matrix.
type evalBlock struct {
	*hcl.Block
	typ       *blockType
	attrs     map[string]*expression
	diags     hcl.Diagnostics // of reading the body
	instances []*instance
	// axes are the matrix's variables if they have no values, because the matrix
	// cannot be evaluated; moreAxes is set if there are more than can be told.
	axes     map[string]bool
	moreAxes bool
}

// instance is one value that a block makes.
type instance struct {
	block          *evalBlock
	name           string
	vars           map[string]cty.Value // of the matrix
	ctx            *hcl.EvalContext
	value          reflect.Value
	done, progress map[string]bool
	object         cty.Value // what references see; NilVal after a change
	failed         []string  // the attributes that could not be evaluated
}

var (
	// errUndefined says that there is nothing of a name.
	errUndefined = errors.New("undefined")
	// errBroken says that something is needed that failed, and was reported.
	errBroken = errors.New("depends on something that failed")
)

// valueKey is what the failure of a value is noted by: its name. That of a block is noted
// by the block.
type valueKey string

// evaluation is what became of the items.
type evaluation struct {
	file    *wireFile
	renamed map[string][]string
	// variables are in the order of the files.
	variables []*Variable
	// failures are the errors of each block, by *hcl.Block, and each value, by
	// valueKey. What only failed because it needs something else has none.
	failures  map[any]hcl.Diagnostics
	mentioned map[string]bool
	// declared are the names of all variables.
	declared []string
}

// evaluateItems evaluates items.
func (l *loader) evaluateItems(it *items) *evaluation {
	e := &evaluator{
		meter: l.meter, lookup: l.lookupVar, builtins: l.builtins(),
		given: l.givenVars, flagged: func(name string) bool { _, ok := l.req.Vars[name]; return ok },
		variables: map[string]*variable{}, functions: map[string]*functionDef{}, values: map[string]*expression{},
		scope:    &hcl.EvalContext{Variables: map[string]cty.Value{}, Functions: l.meter.functions()},
		progress: map[progressKey]bool{}, begun: map[string]bool{},
		types: map[string]*blockType{}, blocks: map[string]map[string][]*evalBlock{},
		failures: map[any]hcl.Diagnostics{}, renamed: map[string]map[string][]string{}, mentioned: map[string]bool{},
	}
	for name, text := range e.builtins {
		e.scope.Variables[name] = cty.StringVal(text)
	}
	result := &evaluation{failures: e.failures, mentioned: e.mentioned}
	e.define(it)
	result.variables = e.evaluateVariables(it)
	for _, b := range it.blocks {
		if f := e.functions[firstLabel(b)]; b.Type == "function" && f != nil && f.block == b {
			e.fail(b, b.LabelRanges[0], "Invalid function", e.function(f.name))
		}
	}
	e.collectBlocks(it)
	result.file = e.evaluateBlocks(l.compose.wireFile())
	for _, name := range slices.Sorted(maps.Keys(e.values)) {
		e.fail(valueKey(name), e.values[name].at, "Invalid value", e.resolve(name, e.scope))
	}
	result.renamed = e.renamed["target"]
	result.declared = slices.Sorted(maps.Keys(e.variables))
	return result
}

func firstLabel(b *hcl.Block) string {
	if len(b.Labels) == 0 {
		return ""
	}
	return b.Labels[0]
}

// fail notes the failure of a block or value, if err is one; the first one
// counts.
func (e *evaluator) fail(key any, at hcl.Range, summary string, err error) {
	if err == nil {
		return
	}
	if _, ok := e.failures[key]; ok {
		return
	}
	e.failures[key] = problems(at, summary, err)
}

// isReserved reports whether a name is that of blocks or of a built-in variable:
// bake passes over variables, functions and values that are called so.
func (e *evaluator) isReserved(name string) bool {
	_, builtin := e.builtins[name]
	return builtin || name == "group" || name == "target" || name == projectBlock
}

// define reads the definitions.
func (e *evaluator) define(it *items) {
	for _, b := range it.blocks {
		name := firstLabel(b)
		switch b.Type {
		case "variable":
			v := &variable{name: name, block: b}
			if diags := gohcl.DecodeBody(b.Body, nil, v); diags.HasErrors() {
				e.fail(b, b.DefRange, "Invalid variable", diags)
			}
			if !e.isReserved(name) {
				e.variables[name] = v
				if v.Default != nil {
					v.def = e.expression(v.Default)
				}
			}
		case "function":
			f := &functionDef{name: name, block: b}
			if diags := gohcl.DecodeBody(b.Body, nil, f); diags.HasErrors() {
				e.fail(b, b.DefRange, "Invalid function", diags)
			}
			if !e.isReserved(name) {
				e.functions[name] = f
				if f.Result != nil {
					f.result = e.expression(f.Result)
				}
			}
		}
	}
	for name, attr := range it.attrs {
		if !e.isReserved(name) && name != "function" {
			e.values[name] = e.expression(attr)
		}
	}
}

// expression reads what an attribute's expression refers to.
func (e *evaluator) expression(attr *hcl.Attribute) *expression {
	return &expression{
		Expression: attr.Expr, at: attr.Range,
		paid: e.meter.metered(attr.Expr), calls: callsOf(attr.Expr), refs: e.refs(attr.Expr),
	}
}

// refs is what an expression refers to.
func (e *evaluator) refs(expr hcl.Expression) []hcl.Traversal {
	refs := expr.Variables()
	for _, ref := range refs {
		e.mentioned[ref.RootName()] = true
	}
	return refs
}

// callsOf are the names of the functions that an expression calls. In JSON, bake
// sees only calls that are all of a string.
func callsOf(expr hcl.Expression) []string {
	if node, ok := expr.(hclsyntax.Node); ok {
		var names []string
		_ = hclsyntax.VisitAll(node, func(n hclsyntax.Node) hcl.Diagnostics {
			if call, ok := n.(*hclsyntax.FunctionCallExpr); ok {
				names = append(names, call.Name)
			}
			return nil
		})
		return names
	}
	var names []string
	if list, diags := hcl.ExprList(expr); !diags.HasErrors() {
		for _, element := range list {
			names = append(names, callsOf(element)...)
		}
		return names
	}
	if pairs, diags := hcl.ExprMap(expr); !diags.HasErrors() {
		for _, p := range pairs {
			names = append(append(names, callsOf(p.Key)...), callsOf(p.Value)...)
		}
		return names
	}
	v, diags := expr.Value(nil)
	if diags.HasErrors() || v.IsNull() || v.Type() != cty.String {
		return nil
	}
	native, diags := hclsyntax.ParseExpression([]byte(v.AsString()), expr.Range().Filename, expr.Range().Start)
	if diags.HasErrors() {
		return nil
	}
	return callsOf(native)
}

// need evaluates what an expression refers to. What does not exist is left to
// the evaluation to find, or to a function such as try to catch, if missing is
// set.
func (e *evaluator) need(x *expression, ctx *hcl.EvalContext, exclude map[string]bool, missing bool) error {
	for _, name := range x.calls {
		if err := e.function(name); err != nil && (!missing || !errors.Is(err, errUndefined)) {
			return e.at(err, x)
		}
	}
	for _, ref := range x.refs {
		root := ref.RootName()
		if exclude[root] {
			continue
		}
		var err error
		if _, ok := e.types[root]; ok {
			err = e.needBlock(root, ref, x)
		} else {
			err = e.resolve(root, ctx)
		}
		if err != nil && (!missing || !errors.Is(err, errUndefined)) {
			return e.at(err, x)
		}
	}
	return nil
}

// at makes an error of something an expression needs one of the expression.
func (e *evaluator) at(err error, x *expression) error {
	var diags hcl.Diagnostics
	if errors.Is(err, errBroken) || errors.As(err, &diags) {
		return err
	}
	r := x.Range()
	return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "Invalid expression", Detail: sentence(err.Error()), Subject: &r}}
}

// needBlock evaluates a block that an expression refers to, or an attribute of
// it.
func (e *evaluator) needBlock(typeName string, ref hcl.Traversal, x *expression) error {
	invalid := func(detail string) error {
		r := x.Range()
		return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "Invalid expression", Detail: detail, Subject: &r}}
	}
	if len(ref) < 2 {
		return invalid(fmt.Sprintf("%s by itself is no value: write %s.NAME.ATTRIBUTE.", typeName, typeName))
	}
	name, ok := ref[1].(hcl.TraverseAttr)
	if !ok {
		return invalid(fmt.Sprintf("A %s is referred to as %s.NAME.ATTRIBUTE.", typeName, typeName))
	}
	attr := ""
	if len(ref) > 2 {
		if step, ok := ref[2].(hcl.TraverseAttr); ok {
			attr = step.Name
		}
	}
	blocks := e.blocks[typeName][name.Name]
	if len(blocks) == 0 && e.types[typeName].nameless {
		return errBroken // it may be one of these
	}
	for _, b := range blocks {
		if err := e.block(b, attr); err != nil {
			return err
		}
	}
	return nil
}

// valueOf evaluates an expression whose needs are met.
func (e *evaluator) valueOf(x *expression, ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	return x.paid.Value(e.within(x, ctx))
}

// within is the context for an expression: with the blocks that it refers to,
// and no others, so that the work does not grow with all that there are.
func (e *evaluator) within(x *expression, ctx *hcl.EvalContext) *hcl.EvalContext {
	objects := map[string]map[string]cty.Value{}
	for _, ref := range x.refs {
		t, ok := e.types[ref.RootName()]
		if !ok || len(ref) < 2 {
			continue
		}
		if objects[ref.RootName()] == nil && t.any {
			objects[ref.RootName()] = map[string]cty.Value{}
		}
		name, ok := ref[1].(hcl.TraverseAttr)
		if !ok {
			continue
		}
		if i := t.current[name.Name]; i != nil {
			objects[ref.RootName()][name.Name] = i.seen()
		}
	}
	if len(objects) == 0 {
		return ctx
	}
	inner := ctx
	vars := map[string]cty.Value{}
	if ctx != e.scope { // the matrix's variables hide everything else
		inner, vars = ctx.Parent(), maps.Clone(ctx.Variables)
	}
	inner = inner.NewChild()
	inner.Variables = map[string]cty.Value{}
	for typeName, object := range objects {
		inner.Variables[typeName] = cty.ObjectVal(object)
	}
	if ctx == e.scope {
		return inner
	}
	inner = inner.NewChild()
	inner.Variables = vars
	return inner
}

// function evaluates a function's definition.
func (e *evaluator) function(name string) error {
	if _, ok := e.scope.Functions[name]; ok {
		return nil
	}
	f, ok := e.functions[name]
	if !ok {
		return fmt.Errorf("function %q does not exist: %w", name, errUndefined)
	}
	if _, ok := e.failures[f.block]; ok {
		return errBroken
	}
	if e.begun[name] {
		return fmt.Errorf("function %s calls itself", name)
	}
	e.begun[name] = true
	err := e.defineFunction(f)
	if err != nil {
		e.fail(f.block, f.block.LabelRanges[0], "Invalid function", err)
		return errBroken
	}
	return nil
}

func (e *evaluator) defineFunction(f *functionDef) error {
	switch {
	case f.Result == nil:
		return errors.New("a function needs a result")
	case f.Params == nil:
		return errors.New("a function needs params, which may be an empty list")
	}
	exprs, diags := hcl.ExprList(f.Params.Expr)
	if diags.HasErrors() {
		return diags
	}
	inner := map[string]bool{}
	param := func(expr hcl.Expression) string {
		name := hcl.ExprAsKeyword(expr)
		if name == "" {
			diags = append(diags, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Invalid param element", Detail: "Each parameter name must be an identifier.", Subject: expr.Range().Ptr(),
			})
		}
		inner[name] = true
		return name
	}
	var params []string
	for _, expr := range exprs {
		params = append(params, param(expr))
	}
	variadic := ""
	if f.Variadic != nil {
		variadic = param(f.Variadic.Expr)
	}
	if diags.HasErrors() {
		return diags
	}
	if err := e.need(f.result, e.scope, inner, false); err != nil {
		return err
	}
	e.scope.Functions[f.name] = userFunction(params, variadic, f.result.paid, e.scope)
	return nil
}
