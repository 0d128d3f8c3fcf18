package jsonschema

// The library says whether a document is as a schema says. Where it is not is found
// by asking about smaller and smaller parts: of each value against its own part of
// the schema, and in the end of each value against one keyword.

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

var reference = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`"\$ref":"#/\$defs/([^"/]*)"`) })

type explainer struct {
	root     *jsonschema.Schema
	resolved map[*jsonschema.Schema]*jsonschema.Resolved // parts of the schema
}

// wrong asks the library about a value and a part of the schema.
func (e *explainer) wrong(s *jsonschema.Schema, v any) error {
	r, ok := e.resolved[s]
	if !ok {
		alone := s.CloneSchemas()
		alone.Defs = make(map[string]*jsonschema.Schema)
		e.define(alone.Defs, s)
		var err error
		if r, err = alone.Resolve(nil); err != nil {
			return nil // not a part that can be asked about
		}
		e.resolved[s] = r
	}
	return r.Validate(v)
}

// define adds what a part of the schema refers to, and no more: most refers to
// nothing, and resolving everything for each would take seconds.
func (e *explainer) define(defs map[string]*jsonschema.Schema, s *jsonschema.Schema) {
	raw, err := json.Marshal(s)
	if err != nil {
		return
	}
	for _, m := range reference().FindAllSubmatch(raw, -1) {
		name := string(m[1])
		if d, ok := e.root.Defs[name]; ok && defs[name] == nil {
			defs[name] = d
			e.define(defs, d)
		}
	}
}

// explain lists what is wrong with a value, in the order of its keys.
func (e *explainer) explain(s *jsonschema.Schema, v any, at []string) []*ValidationError {
	if s == nil {
		return nil
	}
	err := e.wrong(s, v)
	if err == nil {
		return nil
	}
	if bad := e.mistyped(s, v, at); bad != nil {
		return []*ValidationError{bad}
	}
	found := e.explain(e.target(s.Ref), v, at)
	found = append(found, e.local(s, v, at)...)
	found = append(found, e.children(s, v, at)...)
	for _, parts := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf} {
		for _, part := range parts {
			found = append(found, e.explain(part, v, at)...)
		}
	}
	if len(found) == 0 {
		found = append(found, other(at, err.Error()))
	}
	return found
}

// target is what a reference within the document refers to; nil if there is none.
func (e *explainer) target(ref string) *jsonschema.Schema {
	return e.root.Defs[strings.TrimPrefix(ref, "#/$defs/")]
}

func (e *explainer) mistyped(s *jsonschema.Schema, v any, at []string) *ValidationError {
	want := s.Types
	if s.Type != "" {
		want = []string{s.Type}
	}
	only, err := (&jsonschema.Schema{Types: want}).Resolve(nil)
	if len(want) == 0 || err != nil || only.Validate(v) == nil {
		return nil
	}
	return &ValidationError{InstanceLocation: at, ErrorKind: &kind.Type{Got: typeName(v), Want: slices.Clone(want)}}
}

// local asks about keywords one by one that look at the value itself.
func (e *explainer) local(s *jsonschema.Schema, v any, at []string) []*ValidationError {
	var found []*ValidationError
	ask := func(part *jsonschema.Schema, k ErrorKind) {
		if r, err := part.Resolve(nil); err == nil && r.Validate(v) != nil {
			found = append(found, &ValidationError{InstanceLocation: at, ErrorKind: k})
		}
	}
	if s.Enum != nil {
		ask(&jsonschema.Schema{Enum: s.Enum}, &kind.Enum{Want: s.Enum})
	}
	if number, ok := v.(float64); ok {
		got := new(big.Rat).SetFloat64(number)
		if s.Minimum != nil {
			ask(&jsonschema.Schema{Minimum: s.Minimum}, &kind.Minimum{Got: got, Want: new(big.Rat).SetFloat64(*s.Minimum)})
		}
		if s.Maximum != nil {
			ask(&jsonschema.Schema{Maximum: s.Maximum}, &kind.Maximum{Got: got, Want: new(big.Rat).SetFloat64(*s.Maximum)})
		}
	}
	if s.Pattern != "" {
		ask(&jsonschema.Schema{Pattern: s.Pattern}, &kind.Other{Text: fmt.Sprintf("'%v' does not match pattern '%s'", v, s.Pattern)})
	}
	if object, ok := v.(map[string]any); ok && s.Required != nil {
		missing := slices.DeleteFunc(slices.Clone(s.Required), func(name string) bool { _, has := object[name]; return has })
		ask(&jsonschema.Schema{Required: s.Required}, &kind.Required{Missing: missing})
	}
	if s.UniqueItems {
		ask(&jsonschema.Schema{UniqueItems: true}, &kind.Other{Text: "has equal items"})
	}
	return found
}

// children explains the values within a value.
func (e *explainer) children(s *jsonschema.Schema, v any, at []string) []*ValidationError {
	var found []*ValidationError
	switch v := v.(type) {
	case []any:
		for i, item := range v {
			found = append(found, e.explain(s.Items, item, below(at, strconv.Itoa(i)))...)
		}
	case map[string]any:
		var extra []string
		for _, name := range slices.Sorted(maps.Keys(v)) {
			schemas := property(s, name)
			for _, p := range schemas {
				found = append(found, e.explain(p, v[name], below(at, name))...)
			}
			switch {
			case len(schemas) > 0:
			case forbids(s.AdditionalProperties), forbids(s.UnevaluatedProperties) && !e.declares(s, name):
				extra = append(extra, name)
			case s.AdditionalProperties != nil:
				found = append(found, e.explain(s.AdditionalProperties, v[name], below(at, name))...)
			}
		}
		if len(extra) > 0 {
			found = append(found, &ValidationError{InstanceLocation: at, ErrorKind: &kind.AdditionalProperties{Properties: extra}})
		}
	}
	return found
}

// property lists the schemas that are said to be for a property.
func property(s *jsonschema.Schema, name string) []*jsonschema.Schema {
	var all []*jsonschema.Schema
	if p, ok := s.Properties[name]; ok {
		all = append(all, p)
	}
	for _, pattern := range slices.Sorted(maps.Keys(s.PatternProperties)) {
		if re, err := regexp.Compile(pattern); err == nil && re.MatchString(name) {
			all = append(all, s.PatternProperties[pattern])
		}
	}
	return all
}

// forbids reports whether a schema is false, for which the library has {"not": {}}.
func forbids(s *jsonschema.Schema) bool { return s != nil && s.Not != nil }

// declares reports whether a schema, or one that it is made of, is about a property.
func (e *explainer) declares(s *jsonschema.Schema, name string) bool {
	if s == nil {
		return false
	}
	parts := slices.Concat(s.AllOf, s.AnyOf, s.OneOf, []*jsonschema.Schema{e.target(s.Ref)})
	return len(property(s, name)) > 0 || slices.ContainsFunc(parts, func(p *jsonschema.Schema) bool { return e.declares(p, name) })
}

func below(at []string, name string) []string {
	return append(slices.Clone(at), name)
}

func other(at []string, text string) *ValidationError {
	return &ValidationError{InstanceLocation: at, ErrorKind: &kind.Other{Text: text}}
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case float64:
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	}
	return "object"
}
