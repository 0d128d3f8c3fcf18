// Package jsonschema stands in for github.com/santhosh-tekuri/jsonschema/v6, by
// which compose-go validates Compose files.
//
// That package compiles the schemas of five drafts of JSON Schema whenever a
// program starts that has it, a quarter of what a build takes that has nothing to
// do, and few builds have a Compose file. Here github.com/google/jsonschema-go
// decides, which does nothing until it is asked. As it says only that a document
// is wrong, explain.go looks for the place, asking it about parts.
//
// Only what compose-go uses is here. As with the original, the keyword "format" of
// a draft 2020-12 schema is a remark that nobody checks.
package jsonschema

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/google/jsonschema-go/jsonschema"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// UnmarshalJSON reads a document for AddResource.
func UnmarshalJSON(r io.Reader) (any, error) {
	raw, err := io.ReadAll(r)
	return json.RawMessage(raw), err
}

// Format is the check of a format; see the package's comment.
type Format struct {
	Name     string
	Validate func(v any) error
}

// Compiler makes a Schema of a document.
type Compiler struct {
	documents map[string]*jsonschema.Schema
}

// NewCompiler makes a Compiler that knows no document.
func NewCompiler() *Compiler {
	return &Compiler{documents: make(map[string]*jsonschema.Schema)}
}

// AddResource names a document that UnmarshalJSON has read.
func (c *Compiler) AddResource(url string, document any) error {
	raw, err := json.Marshal(document)
	if err != nil {
		return err
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	c.documents[url] = &s
	return nil
}

// RegisterFormat does nothing; see the package's comment.
func (*Compiler) RegisterFormat(*Format) {}

// Compile makes a schema of the document that AddResource named so.
func (c *Compiler) Compile(url string) (*Schema, error) {
	root, ok := c.documents[url]
	if !ok {
		return nil, fmt.Errorf("no schema is named %s", url)
	}
	// References are within the document, whatever it calls itself.
	root.ID = ""
	resolved, err := root.CloneSchemas().Resolve(nil)
	if err != nil {
		return nil, err
	}
	return &Schema{
		resolved:  resolved,
		explainer: explainer{root: root, resolved: make(map[*jsonschema.Schema]*jsonschema.Resolved)},
	}, nil
}

// Schema is what documents are validated against.
type Schema struct {
	resolved *jsonschema.Resolved

	mu        sync.Mutex // of the explainer, which remembers parts of the schema
	explainer explainer
}

// Validate returns a *ValidationError if the document is not as the schema says.
// The document is made of what encoding/json decodes into an empty interface.
func (s *Schema) Validate(document any) error {
	err := s.resolved.Validate(document)
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.explainer.explain(s.explainer.root, document, nil)
	if len(found) == 0 {
		found = []*ValidationError{other(nil, err.Error())}
	}
	return &ValidationError{ErrorKind: found[0].ErrorKind, Causes: found}
}

// ErrorKind says what is wrong.
type ErrorKind interface {
	LocalizedString(p *message.Printer) string
}

// ValidationError says what is wrong and where. One with causes is about them.
type ValidationError struct {
	InstanceLocation []string // keys and indices, from the root of the document
	ErrorKind        ErrorKind
	Causes           []*ValidationError
}

func (e *ValidationError) Error() string {
	p := message.NewPrinter(language.English)
	if len(e.Causes) == 0 {
		return strings.Join(e.InstanceLocation, ".") + " " + e.ErrorKind.LocalizedString(p)
	}
	lines := make([]string, len(e.Causes))
	for i, c := range e.Causes {
		lines[i] = c.Error()
	}
	return strings.Join(lines, "\n")
}
