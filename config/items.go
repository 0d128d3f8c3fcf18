package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/docker/buildx/bake/hclparser"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// items are blocks and attributes as they are evaluated, from any number of files. It is
// an hcl.Body that ignores what it is not asked for.
type items struct {
	blocks []*hcl.Block
	attrs  hcl.Attributes
}

// Content is part of hcl.Body.
func (it *items) Content(schema *hcl.BodySchema) (*hcl.BodyContent, hcl.Diagnostics) {
	content, _, diags := it.PartialContent(schema)
	return content, diags
}

// PartialContent is part of hcl.Body.
func (it *items) PartialContent(schema *hcl.BodySchema) (*hcl.BodyContent, hcl.Body, hcl.Diagnostics) {
	content := &hcl.BodyContent{Attributes: hcl.Attributes{}}
	rest := &items{attrs: maps.Clone(it.attrs)}
	for _, b := range it.blocks {
		if slices.ContainsFunc(schema.Blocks, func(h hcl.BlockHeaderSchema) bool { return h.Type == b.Type }) {
			content.Blocks = append(content.Blocks, b)
		} else {
			rest.blocks = append(rest.blocks, b)
		}
	}
	for _, a := range schema.Attributes {
		if attr, ok := it.attrs[a.Name]; ok {
			content.Attributes[a.Name] = attr
			delete(rest.attrs, a.Name)
		}
	}
	return content, rest, nil
}

// JustAttributes is part of hcl.Body.
func (it *items) JustAttributes() (hcl.Attributes, hcl.Diagnostics) {
	return maps.Clone(it.attrs), nil
}

// MissingItemRange is part of hcl.Body.
func (it *items) MissingItemRange() hcl.Range {
	if len(it.blocks) > 0 {
		return it.blocks[0].DefRange
	}
	return hcl.Range{}
}

// The blocks that stand at the top of a file, of bake's language and of ours.
var (
	bakeBlocks = []hcl.BlockHeaderSchema{
		{Type: "target", LabelNames: []string{"name"}},
		{Type: "group", LabelNames: []string{"name"}},
		{Type: "variable", LabelNames: []string{"name"}},
		{Type: "function", LabelNames: []string{"name"}},
	}
	ourBlocks = []hcl.BlockHeaderSchema{
		{Type: "cache-mount", LabelNames: []string{"name"}},
		{Type: "zbuild"},
		{Type: "watch"},
	}
)

// prologueNames are what stands at the top of a file of ours and is read before
// anything is evaluated. zbuild is a block; in JSON it is an attribute.
var prologueNames = []string{"include", "env-file", "zbuild"}

// collect checks what every file holds against the language and gathers it.
func (l *loader) collect() *items {
	all := &items{attrs: hcl.Attributes{}}
	for _, s := range l.sources {
		if s.file == nil {
			continue
		}
		if s.ours {
			l.collectOurs(s, all)
		} else {
			l.collectBake(s, all)
		}
	}
	return all
}

func (l *loader) collectBake(s *source, all *items) {
	content, rest, diags := s.file.Body.PartialContent(&hcl.BodySchema{Blocks: bakeBlocks})
	l.diags = append(l.diags, diags...)
	l.hidden = l.hidden || diags.HasErrors() // a target without a name
	l.checkBlockTypes(s, bakeBlocks)
	attrs := l.globals(rest)
	maps.Copy(all.attrs, attrs)
	ours := []hcl.AttributeSchema{{Name: pullPolicyName}}
	for _, name := range attributeNames(ourAttribute) {
		ours = append(ours, hcl.AttributeSchema{Name: name})
	}
	for _, b := range content.Blocks {
		l.checkBlock(s, b)
		if b.Type == "target" {
			b.Body = hclparser.FilterExcludeBody(b.Body, &hcl.BodySchema{Attributes: ours})
		}
		all.blocks = append(all.blocks, b)
	}
}

// globals are the attributes of what is left of a file. Blocks that are left are
// reported by checkBlockTypes, and of values that are there twice the last one
// counts; bake lets both pass, but nothing else.
func (l *loader) globals(rest hcl.Body) hcl.Attributes {
	attrs, diags := rest.JustAttributes()
	for _, d := range diags {
		if d.Detail != "Blocks are not allowed here." && !alreadySet().MatchString(d.Detail) {
			l.diags = append(l.diags, d)
		}
	}
	return attrs
}

var alreadySet = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^Argument ".*" was already set at `) })

func (l *loader) collectOurs(s *source, all *items) {
	schema := bakeBlocks
	if _, native := s.file.Body.(*hclsyntax.Body); native { // in JSON the others are attributes
		schema = slices.Concat(bakeBlocks, ourBlocks)
	}
	content, rest, diags := s.file.Body.PartialContent(&hcl.BodySchema{Blocks: schema})
	l.diags = append(l.diags, diags...)
	l.hidden = l.hidden || diags.HasErrors() // a target without a name
	l.checkBlockTypes(s, schema)
	attrs := l.globals(rest)
	for _, b := range content.Blocks {
		l.checkBlock(s, b)
		switch b.Type {
		case "target":
			b.Body = withPullPolicy(blocksAsAttributes(b.Body))
			all.blocks = append(all.blocks, b)
		case "cache-mount", "watch": // below, all at once
		case "zbuild": // read by prepare
		default:
			all.blocks = append(all.blocks, b)
		}
	}
	settings := &items{attrs: hcl.Attributes{}}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		attr := attrs[name]
		if slices.Contains(prologueNames, name) {
			continue // read by prepare
		}
		if a := attributeNamed(name); a != nil && a.project {
			settings.attrs[name] = attr
		}
		if !slices.Contains(formNames(forms), name) {
			// A setting can be referred to like any other global value.
			all.attrs[name] = attr
		}
	}
	if native, ok := s.file.Body.(*hclsyntax.Body); ok {
		l.checkDoubles(native)
		for _, f := range forms {
			if blocks := f.of(native); len(blocks) > 0 {
				settings.attrs[f.name] = f.attribute(blocks).AsHCLAttribute()
			}
		}
	}
	if len(settings.attrs) > 0 {
		at := s.file.Body.MissingItemRange()
		all.blocks = append(all.blocks, &hcl.Block{
			Type: projectBlock, Labels: []string{projectName}, Body: settings,
			DefRange: at, TypeRange: at, LabelRanges: []hcl.Range{at},
		})
	}
}

func literal(s string, at hcl.Range) *hclsyntax.LiteralValueExpr {
	return &hclsyntax.LiteralValueExpr{Val: cty.StringVal(s), SrcRange: at}
}

// validateName is bake's rule for the names of targets and groups.
func validateName(name string) error {
	foreign := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}
	if name == "" || strings.ContainsFunc(name, foreign) {
		return errName
	}
	return nil
}

type nameError string

func (e nameError) Error() string { return string(e) }

const errName = nameError("only letters, digits, - and _ are allowed")

// checkBlockTypes says which blocks of a native file are none of the language's.
// In JSON they cannot be told from global values.
func (l *loader) checkBlockTypes(s *source, schema []hcl.BlockHeaderSchema) {
	native, ok := s.file.Body.(*hclsyntax.Body)
	if !ok {
		return
	}
	var types []string
	for _, h := range schema {
		types = append(types, h.Type)
	}
	for _, b := range native.Blocks {
		if slices.Contains(types, b.Type) {
			continue
		}
		l.unknown(s, "block", b.Type, b.TypeRange, "a build file", types)
	}
}

// unknown reports something that the language does not have: an error in ours, a
// warning in bake's, which ignores it without a word.
func (l *loader) unknown(s *source, what, name string, at hcl.Range, where string, known []string) {
	if s.ours {
		l.errorf(&at, "Unknown "+what, "There is no %s %q in %s.%s", what, name, where, didYouMean(name, known))
		return
	}
	if a := attributeNamed(name); a != nil && a.ours || what == "block" && name == settingsForm.name {
		l.warnf(&at, "Ignored "+what, "bake has no %s %q in %s; it is zbuild's own, and only read from zbuild.hcl, zbuild.json and files called *.zbuild.hcl.", what, name, where)
		return
	}
	l.warnf(&at, "Unknown "+what, "There is no %s %q in %s; it is ignored, as bake does.%s", what, name, where, didYouMean(name, known))
}

// checkBlock checks a block's label, and the names of what is in it.
func (l *loader) checkBlock(s *source, b *hcl.Block) {
	known, blocks := blockAttributes(s, b.Type)
	if (b.Type == "target" || b.Type == "group") && validateName(b.Labels[0]) != nil {
		l.errorf(&b.LabelRanges[0], "Invalid name", "%q cannot be the name of a %s: %v.", b.Labels[0], b.Type, errName)
	}
	where := "a " + b.Type + " block"
	if known != nil {
		attrs, _ := b.Body.JustAttributes()
		for _, name := range slices.Sorted(maps.Keys(attrs)) {
			switch {
			case slices.Contains(known, name):
			case slices.Contains(blocks, name): // JSON
			default:
				l.unknown(s, "attribute", name, attrs[name].NameRange, where, slices.Concat(known, blocks))
			}
		}
	}
	native, ok := b.Body.(*hclsyntax.Body)
	if !ok {
		return
	}
	for _, inner := range native.Blocks {
		switch {
		case !slices.Contains(blocks, inner.Type):
			if known == nil {
				continue
			}
			if slices.Contains(known, inner.Type) {
				l.unknown(s, "block", inner.Type, inner.TypeRange, where+" ("+inner.Type+" is an attribute: write "+inner.Type+" = ...)", nil)
				continue
			}
			l.unknown(s, "block", inner.Type, inner.TypeRange, where, slices.Concat(known, blocks))
		case formNamed(inner.Type) == nil: // the language's own, without more to check
		case len(inner.Labels) != formNamed(inner.Type).labels():
			l.errorf(&inner.TypeRange, "Invalid "+inner.Type, "Write it as %s.", formNamed(inner.Type).written())
		default:
			l.checkBlock(s, inner.AsHCLBlock())
		}
	}
	l.checkDoubles(native)
}

// blockAttributes are the names of the attributes and blocks that a type of
// block may have; nil if they are not checked here.
func blockAttributes(s *source, blockType string) (attrs, blocks []string) {
	switch blockType {
	case "target":
		if s.ours {
			names := attributeNames(func(a *attribute) bool { return formNamed(a.name) == nil })
			return names, formNames(forms)
		}
		return attributeNames(bakeAttribute), nil
	case "group":
		// name and matrix have a better message of their own.
		return []string{"description", "targets", "name", "matrix"}, nil
	case "variable":
		return []string{"type", "default", "description"}, []string{"validation"}
	case "function":
		if !s.ours {
			return nil, nil // bake refuses what there is not, and so does evaluation
		}
		return []string{"params", "variadic_params", "result"}, nil
	default:
		if f := topForm(blockType); f != nil && s.ours {
			return f.attributes(), formNames(f.blocks)
		}
		return nil, nil
	}
}
