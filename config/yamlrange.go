package config

import (
	"bytes"
	"iter"
	"path/filepath"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"go.yaml.in/yaml/v4"
)

// Where in a YAML document something is. yaml says where a value begins, by line and
// column, and not where it ends.

// lineRange is the range of one line, counted from 1.
func lineRange(s *source, line int) *hcl.Range {
	start := 0
	for n := 1; n < line; n++ {
		i := bytes.IndexByte(s.text[start:], '\n')
		if i < 0 {
			break
		}
		start += i + 1
	}
	end := len(s.text)
	if i := bytes.IndexByte(s.text[start:], '\n'); i >= 0 {
		end = start + i
	}
	at := rangeOf(s, start, end)
	return &at
}

// yaml is the document as it is written; nil if it cannot be parsed.
func (s *source) yaml() *yaml.Node {
	if s.document == nil {
		s.document = &yaml.Node{}
		if err := yaml.Unmarshal(s.text, s.document); err != nil || len(s.document.Content) == 0 {
			s.document = &yaml.Node{}
		}
	}
	if len(s.document.Content) == 0 {
		return nil
	}
	return s.document.Content[0]
}

// findNode is the value at a path of keys, written in the document itself or
// merged into it by an alias.
func findNode(node *yaml.Node, keys []string) *yaml.Node {
	const aliases = 100 // that follow each other; there could be a circle
	for n := 0; node != nil && node.Kind == yaml.AliasNode && n < aliases; n++ {
		node = node.Alias
	}
	if len(keys) == 0 || node == nil {
		return node
	}
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == keys[0] {
			return findNode(node.Content[i+1], keys[1:])
		}
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if merged := node.Content[i+1]; node.Content[i].Value == "<<" && merged.Kind == yaml.AliasNode {
			if found := findNode(merged.Alias, keys); found != nil {
				return found
			}
		}
	}
	return nil
}

// nodes are a node and all below it, as they are written: aliases are not followed.
func nodes(node *yaml.Node) iter.Seq[*yaml.Node] {
	return func(yield func(*yaml.Node) bool) {
		for open := []*yaml.Node{node}; len(open) > 0; {
			n := open[len(open)-1]
			open = open[:len(open)-1]
			if n == nil {
				continue
			}
			if !yield(n) {
				return
			}
			for _, child := range slices.Backward(n.Content) {
				open = append(open, child)
			}
		}
	}
}

// nodeRange is where a value begins, to the end of the line: yaml does not say
// where it ends.
func nodeRange(s *source, node *yaml.Node) *hcl.Range {
	line := lineRange(s, node.Line)
	text := s.text[line.Start.Byte:line.End.Byte]
	start := 0
	for i := range string(text) { // columns count characters
		if start++; start == node.Column {
			start = i
			break
		}
	}
	if start > len(text) {
		start = 0
	}
	end := len(bytes.TrimRight(text, " \t\r"))
	if start >= end {
		start, end = 0, len(text)
	}
	at := rangeOf(s, line.Start.Byte+start, line.Start.Byte+end)
	return &at
}

// absolutePaths are those that are written in files of which the first is included;
// nil if it is not.
func absolutePaths(sources []*source) map[string]bool {
	if !sources[0].included {
		return nil
	}
	all := map[string]bool{}
	for _, s := range sources {
		for node := range nodes(s.yaml()) {
			if node.Kind == yaml.ScalarNode && filepath.IsAbs(node.Value) {
				all[node.Value] = true
			}
		}
	}
	return all
}
