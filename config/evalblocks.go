package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/docker/buildx/bake/hclparser"
	"github.com/docker/buildx/bake/hclparser/gohcl"
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// collectBlocks reads the blocks that become values, and finds out the names of
// what they make: at that point they cannot refer to one another.
func (e *evaluator) collectBlocks(it *items) {
	file := reflect.TypeFor[wireFile]()
	for i := range file.NumField() {
		name, _, _ := strings.Cut(file.Field(i).Tag.Get("hcl"), ",")
		e.types[name] = newBlockType(file.Field(i).Type.Elem().Elem())
		e.renamed[name] = map[string][]string{}
	}
	blocks := map[string]map[string][]*evalBlock{}
	for _, block := range it.blocks {
		t := e.types[block.Type]
		if t == nil || len(block.Labels) != 1 {
			continue
		}
		b := &evalBlock{Block: block, typ: t}
		err := e.guarded(b, func() error { return e.name(b) })
		e.fail(block, block.LabelRanges[0], "Invalid name", err)
		e.order = append(e.order, b)
		if blocks[block.Type] == nil {
			blocks[block.Type] = map[string][]*evalBlock{}
		}
		for _, i := range b.instances {
			blocks[block.Type][i.name] = append(blocks[block.Type][i.name], b)
			if err == nil {
				e.renamed[block.Type][block.Labels[0]] = append(e.renamed[block.Type][block.Labels[0]], i.name)
			}
		}
	}
	e.blocks = blocks
}

func newBlockType(typ reflect.Type) *blockType {
	t := &blockType{typ: typ, fields: map[string]*fieldType{}, current: map[string]*instance{}}
	t.schema, _ = gohcl.ImpliedBodySchema(reflect.New(typ).Interface())
	zero := reflect.New(typ).Elem()
	for i := range typ.NumField() {
		name, kind, _ := strings.Cut(typ.Field(i).Tag.Get("hcl"), ",")
		if name == "" {
			continue
		}
		field := typ.Field(i).Type
		implied, err := hclparser.ImpliedType(reflect.Zero(field).Interface())
		if err != nil {
			panic(err) // the field is of a type that nothing can be decoded into
		}
		f := &fieldType{index: i, typ: implied, plain: isPlain(field)}
		if f.zero, err = toCty(zero.Field(i), implied); err != nil {
			panic(err)
		}
		if kind != "label" {
			t.fields[name] = f
		}
	}
	return t
}

// toCty is what a reference sees of a field.
func toCty(field reflect.Value, typ cty.Type) (cty.Value, error) {
	if field.Kind() != reflect.Pointer {
		field = field.Addr() // types with a conversion of their own have it there
	}
	return hclparser.ToCtyValue(field.Interface(), typ)
}

func isPlain(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int:
		return true
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return t.Name() == "" && isPlain(t.Elem())
	}
	return false
}

// guarded runs f, and makes an error of a panic: what is decoded into panics on
// some values, such as null in a list of caches.
func (e *evaluator) guarded(b *evalBlock, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			at := b.DefRange
			err = hcl.Diagnostics{{
				Severity: hcl.DiagError, Summary: "A value cannot be evaluated",
				Detail: fmt.Sprintf("Check the values for null and for wrong types (%v).", r), Subject: &at,
			}}
		}
	}()
	return f()
}

// name makes the block's instances, and names them. If that fails there is one with
// the block's label, so that the rest of the block can be checked.
func (e *evaluator) name(b *evalBlock) error {
	content, _, diags := b.Body.PartialContent(b.typ.schema)
	b.diags = diags
	b.attrs = make(map[string]*expression, len(content.Attributes))
	for name, attr := range content.Attributes {
		b.attrs[name] = e.expression(attr)
	}
	b.typ.any = true
	combinations, err := e.combinations(b)
	if err != nil {
		b.axes, b.moreAxes = map[string]bool{}, false
		if matrix := e.extra(b, "matrix"); matrix != nil {
			b.axes, b.moreAxes = axesOf(matrix)
		}
		return e.nameless(b, nil, err)
	}
	names := make(map[string]bool, len(combinations))
	nameAttr := e.extra(b, "name")
	for _, vars := range combinations {
		i := e.instance(b, vars)
		name := b.Labels[0]
		if nameAttr != nil && b.Type == "target" {
			if name, err = e.targetName(nameAttr, i.ctx, b); err != nil {
				return e.nameless(b, vars, err)
			}
		}
		if names[name] {
			return e.nameless(b, vars, fmt.Errorf("several combinations of the matrix make a target called %q; give each its own name", name))
		}
		names[name] = true
		i.rename(name)
		b.instances = append(b.instances, i)
	}
	if validateName(b.Labels[0]) != nil {
		return errBroken // reported by checkBlock
	}
	return nil
}

// nameless lets one instance stand for all that the block makes, if they cannot be
// named because of err. It returns err.
func (e *evaluator) nameless(b *evalBlock, vars map[string]cty.Value, err error) error {
	b.typ.nameless = b.typ.nameless || e.extra(b, "name") != nil
	i := e.instance(b, vars)
	i.rename(b.Labels[0])
	b.instances = []*instance{i}
	return err
}

// instance makes an instance of a block that has no name yet, with the variables of
// a matrix, or nil.
func (e *evaluator) instance(b *evalBlock, vars map[string]cty.Value) *instance {
	i := &instance{
		block: b, vars: vars, ctx: e.scope, value: reflect.New(b.typ.typ), done: make(map[string]bool, len(b.attrs)),
	}
	if vars != nil {
		i.ctx = e.scope.NewChild()
		i.ctx.Variables = vars
	}
	return i
}

func (i *instance) rename(name string) {
	i.name = name
	label, _ := i.block.typ.typ.FieldByName("Name")
	i.value.Elem().FieldByIndex(label.Index).SetString(name)
}

// extra is an attribute that is not one of the value's.
func (e *evaluator) extra(b *evalBlock, name string) *expression {
	content, _, _ := b.Body.PartialContent(&hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: name}}})
	if content == nil || content.Attributes[name] == nil {
		return nil
	}
	return e.expression(content.Attributes[name])
}

// block evaluates a block: one attribute of it, or all that have not been.
func (e *evaluator) block(b *evalBlock, attr string) error {
	if _, ok := e.failures[b.Block]; ok {
		return errBroken
	}
	b.typ.any = true
	for _, i := range b.instances {
		names := []string{attr}
		if attr == "" {
			if b.diags.HasErrors() {
				return b.diags
			}
			names = slices.Sorted(maps.Keys(b.attrs))
		} else {
			if i.done[attr] {
				return nil
			}
			if i.progress[attr] {
				return fmt.Errorf("%s.%s.%s refers to itself", b.Type, i.name, attr)
			}
			if i.progress == nil {
				i.progress = map[string]bool{}
			}
			i.progress[attr] = true
		}
		if err := e.guarded(b, func() error { return e.attributes(i, names) }); err != nil {
			return err
		}
		if attr != "" {
			i.done[attr] = true
		}
		i.object = cty.NilVal
		b.typ.current[i.name] = i
	}
	return nil
}

// attributes evaluates attributes of an instance, after all that they need.
func (e *evaluator) attributes(i *instance, names []string) error {
	for _, name := range names {
		if x := i.block.attrs[name]; x != nil && !i.done[name] {
			if err := e.need(x, i.ctx, nil, true); err != nil {
				return err
			}
		}
	}
	var diags hcl.Diagnostics
	for _, name := range names {
		x := i.block.attrs[name]
		if x == nil || i.done[name] {
			continue
		}
		f := i.block.typ.fields[name]
		field := i.value.Elem().Field(f.index)
		decode := gohcl.DecodeOptions{ImpliedType: func(any) (cty.Type, error) { return f.typ, nil }, Convert: converted}
		if ds := decode.DecodeExpression(x.paid, e.within(x, i.ctx), field.Addr().Interface()); ds.HasErrors() {
			diags = append(diags, ds...)
			continue
		}
		if !f.plain {
			if _, err := toCty(field, f.typ); err != nil {
				return err
			}
		}
		i.done[name] = true
	}
	if diags.HasErrors() {
		return diags
	}
	return nil
}

// salvage evaluates what can be evaluated of a block that failed, so that it can be
// checked, and notes what else is wrong with it.
func (e *evaluator) salvage(b *evalBlock) {
	seen := map[string]bool{}
	for _, i := range b.instances {
		for _, name := range slices.Sorted(maps.Keys(b.attrs)) {
			if i.done[name] {
				continue
			}
			if e.needsAxis(b, b.attrs[name]) {
				i.failed = append(i.failed, name)
				continue
			}
			err := e.guarded(b, func() error { return e.attributes(i, []string{name}) })
			if err == nil {
				continue
			}
			i.value.Elem().Field(b.typ.fields[name].index).SetZero()
			i.failed = append(i.failed, name)
			var diags hcl.Diagnostics
			if errors.As(err, &diags) && !seen[name] {
				seen[name] = true
				e.failures[b.Block] = append(e.failures[b.Block], diags...)
			}
		}
	}
}

// exists reports whether there is a variable, value or type of blocks of that name.
func (e *evaluator) exists(name string) bool {
	_, evaluated := e.scope.Variables[name]
	return evaluated || e.types[name] != nil || e.variables[name] != nil || e.values[name] != nil
}

// seen is what references see of an instance.
func (i *instance) seen() cty.Value {
	if i.object != cty.NilVal {
		return i.object
	}
	t := i.block.typ
	attrs := make(map[string]cty.Value, len(t.fields)+1)
	attrs["name"] = cty.StringVal(i.name)
	for name, f := range t.fields {
		// Not what was evaluated of this block alone: if it is the first one of its
		// name the later ones are merged into it.
		attrs[name] = f.zero
		if field := i.value.Elem().Field(f.index); !field.IsZero() {
			if v, err := toCty(field, f.typ); err == nil {
				attrs[name] = v
			}
		}
	}
	i.object = cty.ObjectVal(attrs)
	return i.object
}

// evaluateBlocks evaluates the blocks into a file, of those that fail what can be
// had of them. They are merged with what the file has.
func (e *evaluator) evaluateBlocks(file *wireFile) *wireFile {
	to := reflect.ValueOf(file).Elem()
	index := map[*blockType]map[string]int{}
	fields := map[*blockType]int{}
	for i := range to.NumField() {
		name, _, _ := strings.Cut(to.Type().Field(i).Tag.Get("hcl"), ",")
		fields[e.types[name]] = i
		names := map[string]int{}
		index[e.types[name]] = names
		for j := range to.Field(i).Len() {
			there := to.Field(i).Index(j).Elem().FieldByName("Name").String()
			if _, ok := names[there]; !ok {
				names[there] = j
			}
		}
	}
	for _, b := range e.order {
		if err := e.block(b, ""); err != nil {
			if !errors.Is(err, errBroken) || len(e.failures[b.Block]) == 0 {
				e.fail(b.Block, b.LabelRanges[0], "Invalid block", err)
			}
			e.salvage(b)
		}
		list := to.Field(fields[b.typ])
		for _, i := range b.instances {
			if v, ok := i.value.Interface().(interface{ SetBlockSource(block *hcl.Block) }); ok {
				v.SetBlockSource(b.Block)
			}
			if t, ok := i.value.Interface().(*wireTarget); ok {
				t.failed = i.failed
			}
			at, ok := index[b.typ][i.name]
			if !ok {
				index[b.typ][i.name] = list.Len()
				list.Set(reflect.Append(list, i.value))
				continue
			}
			if old, ok := list.Index(at).Interface().(*wireTarget); ok {
				old.Merge(i.value.Interface().(*wireTarget))
			} else {
				list.Index(at).Set(i.value)
			}
		}
	}
	return file
}
