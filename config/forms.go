package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// form is a kind of block inside of a target, or at the top of a file as the
// project's default. In JSON it is an attribute; in HCL it is made into one, an
// object, because blocks in a target do not see the variables of its matrix.
type form struct {
	name string
	// labeled is set if the block has a name: the attribute is an object of such
	// objects. repeated is set if there may be several: it is a list of them.
	labeled, repeated bool
	fields            []field
	blocks            []*form
}

// field is an attribute of a form.
type field struct {
	name string
	kind string // what is written, for people
	// fallback is what the field is if it is not written; empty if that is
	// nothing, "required" if it has to be written.
	fallback string
	about    string
	example  string
}

// forms are the kinds of blocks that a target can have in zbuild's dialect. Each
// is a row of the table of attributes, too.
var forms = []*form{
	{
		name: "cache-mount", labeled: true,
		fields: []field{
			{"target", "path in the container", "required", "Where the cache is mounted.", `"/root/.cache/go-build"`},
			{"id", "string", "the target", "Which cache it is: mounts with the same id share it.", `"go-build"`},
			{"sharing", "shared, private or locked", "shared", "What happens when two steps want it at once.", `"locked"`},
			{"uid", "number", "0", "The owner of a cache that is new.", "1000"},
			{"gid", "number", "0", "The group of a cache that is new.", "1000"},
			{"mode", "permission bits in octal", "0755", "The permissions of a cache that is new.", `"0700"`},
		},
	},
	{
		name: "watch",
		fields: []field{
			{"paths", "list of paths", "", "Files and directories that are watched besides what the build reads.", `["../proto/api.json"]`},
			{"ignore", "list of patterns", "", "What changes do not count, in the syntax of .dockerignore, relative to the file.", `["**/*.tmp"]`},
			{"debounce", "duration", "50ms", "How long it has to be quiet after a change before anything is built.", `"200ms"`},
			{"ceiling", "duration", "1s", "How long changes can put off a build at most.", `"3s"`},
			{"on-busy", "restart or queue", "restart", "What a change does to a build that is running: cancel it, or wait for it.", `"queue"`},
			{"exec", "list of strings, or a string for the shell", "", "What is run after a success.", `["podman", "restart", "web"]`},
		},
		blocks: []*form{{
			name: "sync", repeated: true,
			fields: []field{
				{"path", "path", "required", "The file or directory whose changes are copied.", `"site"`},
				{"target", "path in the container", "required", "Where they are copied to.", `"/srv/www"`},
				{"container", "string", "", "The name of the container; it has this or a label.", `"web"`},
				{"label", "string", "", "A label of the containers, KEY or KEY=VALUE.", `"app=web"`},
				{"ignore", "list of patterns", "", "What is not copied, in the syntax of .dockerignore, relative to path.", `["*.map"]`},
			},
		}},
	},
}

// formNamed is the form of that name, wherever it stands, or nil.
func formNamed(name string) *form {
	for _, f := range forms {
		if f.name == name {
			return f
		}
		for _, inner := range f.blocks {
			if inner.name == name {
				return inner
			}
		}
	}
	return nil
}

// topForm is the form of a block at the top of a file, settings of zbuild itself
// too, or nil.
func topForm(name string) *form {
	if name == settingsForm.name {
		return settingsForm
	}
	return formNamed(name)
}

func formNames(list []*form) []string {
	var names []string
	for _, f := range list {
		names = append(names, f.name)
	}
	return names
}

func (f *form) attributes() []string {
	var names []string
	for _, a := range f.fields {
		names = append(names, a.name)
	}
	return names
}

// labels is how many labels the block has.
func (f *form) labels() int {
	if f.labeled {
		return 1
	}
	return 0
}

// written is the block as it is written.
func (f *form) written() string {
	if f.labeled {
		return f.name + ` "NAME" { ... }`
	}
	return f.name + " { ... }"
}

// of are the blocks of this form in a body.
func (f *form) of(body *hclsyntax.Body) []*hclsyntax.Block {
	var blocks []*hclsyntax.Block
	for _, b := range body.Blocks {
		if b.Type == f.name && len(b.Labels) == f.labels() {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

// blocksAsAttributes turns the blocks of a target's body into attributes.
func blocksAsAttributes(body hcl.Body) hcl.Body {
	native, ok := body.(*hclsyntax.Body)
	if !ok {
		return body
	}
	clone := *native
	clone.Blocks = nil
	clone.Attributes = maps.Clone(native.Attributes)
	for _, f := range forms {
		if blocks := f.of(native); len(blocks) > 0 {
			clone.Attributes[f.name] = f.attribute(blocks)
		}
	}
	return &clone
}

// attribute is what blocks of this form are turned into.
func (f *form) attribute(blocks []*hclsyntax.Block) *hclsyntax.Attribute {
	at := blocks[0].DefRange()
	var expr hclsyntax.Expression
	switch {
	case f.labeled:
		object := &hclsyntax.ObjectConsExpr{SrcRange: at, OpenRange: at}
		for _, b := range blocks {
			object.Items = append(object.Items, hclsyntax.ObjectConsItem{KeyExpr: literal(b.Labels[0], b.LabelRanges[0]), ValueExpr: f.object(b)})
		}
		expr = object
	case f.repeated:
		list := &hclsyntax.TupleConsExpr{SrcRange: at, OpenRange: at}
		for _, b := range blocks {
			list.Exprs = append(list.Exprs, f.object(b))
		}
		expr = list
	default:
		expr = f.object(blocks[len(blocks)-1])
	}
	return &hclsyntax.Attribute{Name: f.name, Expr: expr, SrcRange: at, NameRange: blocks[0].TypeRange}
}

func (f *form) object(b *hclsyntax.Block) hclsyntax.Expression {
	object := &hclsyntax.ObjectConsExpr{SrcRange: b.DefRange(), OpenRange: b.DefRange()}
	known := f.attributes()
	for _, name := range slices.Sorted(maps.Keys(b.Body.Attributes)) {
		if !slices.Contains(known, name) {
			continue // reported by checkBlock
		}
		a := b.Body.Attributes[name]
		object.Items = append(object.Items, hclsyntax.ObjectConsItem{KeyExpr: literal(name, a.NameRange), ValueExpr: a.Expr})
	}
	for _, inner := range f.blocks {
		if blocks := inner.of(b.Body); len(blocks) > 0 {
			a := inner.attribute(blocks)
			object.Items = append(object.Items, hclsyntax.ObjectConsItem{KeyExpr: literal(inner.name, a.NameRange), ValueExpr: a.Expr})
		}
	}
	return object
}

// checkDoubles says which blocks of one body there may only be one of.
func (l *loader) checkDoubles(body *hclsyntax.Body) {
	seen := map[string]hcl.Range{}
	for _, b := range body.Blocks {
		f := topForm(b.Type)
		if f == nil || f.repeated || len(b.Labels) != f.labels() {
			continue
		}
		name, at := b.Type, b.DefRange()
		if f.labeled {
			name = fmt.Sprintf("%s %q", b.Type, b.Labels[0])
		}
		if first, ok := seen[name]; ok {
			l.errorf(&at, "Duplicate "+b.Type, "There is a %s at %s already.", name, first)
		}
		seen[name] = at
	}
}
