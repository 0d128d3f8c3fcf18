package config

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2"
	"go.yaml.in/yaml/v4"
)

// compose-go stops at the first mistake that it comes upon, often says it of one of
// several at random, and does not know where it is. What it refuses is looked for in
// the documents as they are written, so that all of the kind are reported, each at
// its place; what is not found there is reported in compose-go's words.

// composeProblem is one of what is wrong with Compose files.
type composeProblem struct {
	at   *hcl.Range // nil if that cannot be told
	text string
	file string // another file that it is about, as it is written
	path string // of the value, if it is about one
}

// composeError reports why Compose files cannot be read.
func (l *loader) composeError(ctx context.Context, sources []*source, err error) {
	l.hidden = true
	l.reportCompose(l.composeProblems(ctx, sources, err))
}

func (l *loader) reportCompose(problems []composeProblem) {
	for _, p := range problems {
		if !strings.HasSuffix(p.text, ".") && !strings.HasSuffix(p.text, "?") {
			p.text += "."
		}
		l.errorf(p.at, "Invalid Compose file", "%s", p.text)
	}
}

// composeProblems are what compose-go speaks of, and what it would have spoken of
// next.
func (l *loader) composeProblems(ctx context.Context, sources []*source, err error) []composeProblem {
	text := composeText(err)
	if doubledKey().MatchString(text) {
		if all := doubledKeys(sources); len(all) > 0 {
			return all
		}
	}
	all := l.wrongExtends(sources)
	if len(all) > 0 && (extendsText().MatchString(text) || slices.ContainsFunc(all, func(p composeProblem) bool {
		return p.file != "" && strings.HasSuffix(text, p.file+": no such file or directory")
	})) {
		return all
	}
	all = append(all, l.wrongValues(ctx, sources)...)
	if kind := wrongKind(""); errors.As(err, &kind) && len(all) > 0 {
		return all // it is one of these
	}
	for _, text := range composeTexts(sources, text) {
		problems := unknownKeys(sources, text)
		if len(problems) == 0 {
			problems = []composeProblem{{at: composeErrorRange(sources, text), text: text}}
		}
		for _, p := range problems {
			if !slices.ContainsFunc(all, func(o composeProblem) bool { return o.text == p.text }) {
				all = append(all, p)
			}
		}
	}
	return all
}

// composeTexts are what compose-go says and could have said instead.
func composeTexts(sources []*source, text string) []string {
	if strings.Contains(text, noBuild) {
		return strings.Split(text, "\n")
	}
	if starts := interpolated().FindAllStringIndex(text, -1); len(starts) > 0 && starts[0][0] == 0 {
		var all []string
		for i, start := range starts {
			end := len(text)
			if i+1 < len(starts) {
				end = starts[i+1][0]
			}
			all = append(all, strings.TrimSpace(text[start[0]:end]))
		}
		return all
	}
	var all []string
	if m := noMapping().FindStringSubmatch(text); m != nil {
		for _, s := range sources {
			for _, name := range notMappings(findNode(s.yaml(), m[1:2]), nil, 0) {
				all = append(all, fmt.Sprintf("%s.%s must be a mapping", m[1], name))
			}
		}
	} else {
		all = wronglyBuilt(sources)
	}
	if !slices.Contains(all, text) {
		return []string{text}
	}
	return all
}

// doubledKeys are the keys that are there twice in a mapping.
func doubledKeys(sources []*source) (all []composeProblem) {
	for _, s := range sources {
		for node := range nodes(s.yaml()) {
			if node.Kind != yaml.MappingNode {
				continue
			}
			first := make(map[string]*yaml.Node, len(node.Content)/2)
			for i := 0; i < len(node.Content); i += 2 {
				key := node.Content[i]
				if before := first[key.Value]; before != nil {
					all = append(all, composeProblem{at: nodeRange(s, key), text: fmt.Sprintf("the key %q is there already, on line %d", key.Value, before.Line)})
					continue
				}
				first[key.Value] = key
			}
		}
	}
	return all
}

// wronglyBuilt is what compose-go says of builds that are neither a mapping nor a
// text, of one of them.
func wronglyBuilt(sources []*source) (all []string) {
	types := map[string]string{"!!null": "<nil>", "!!int": "int", "!!float": "float64", "!!bool": "bool", "!!seq": "[]interface {}"}
	for _, s := range sources {
		services := findNode(s.yaml(), []string{"services"})
		for i := 0; services != nil && i+1 < len(services.Content); i += 2 {
			name := services.Content[i].Value
			if build := findNode(s.yaml(), []string{"services", name, "build"}); build != nil && types[build.Tag] != "" {
				all = append(all, fmt.Sprintf("services.%s.build: invalid type %s for build", name, types[build.Tag]))
			}
		}
	}
	return unique(all)
}

// notMappings adds the names in a mapping whose values are none, in their order.
func notMappings(node *yaml.Node, names []string, depth int) []string {
	const merges = 20 // within each other; there could be a circle
	if node == nil || node.Kind != yaml.MappingNode || depth > merges {
		return names
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Value == "<<" {
			if value.Kind == yaml.AliasNode {
				names = notMappings(value.Alias, names, depth+1)
			}
			continue
		}
		for n := 0; value.Kind == yaml.AliasNode && n < len(node.Content); n++ {
			value = value.Alias
		}
		if value.Kind != yaml.MappingNode && value.Tag != "!!null" && !slices.Contains(names, key.Value) {
			names = append(names, key.Value)
		}
	}
	return names
}

var (
	doubledKey = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`line \d+: mapping key .* already defined at line \d+`)
	})
	yamlLine = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?:yaml: (?:while .* at line \d+, column \d+: )?|^|\[)line (\d+)`)
	})
	interpolated = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?m)^(error while interpolating|invalid interpolation format for) `)
	})
	openedFile = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:open|stat) (.+): no such file or directory`) })
	noMapping  = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?s)^(services|secrets|networks|volumes|configs)\.(.+) must be a mapping\.?$`)
	})
	composeNamed = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^service "?([^\s".]+)"? `) })
	composePath  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\b(?:services|secrets)\.[^\s:,'"]+`) })
)

func composeErrorRange(sources []*source, text string) *hcl.Range {
	if m := yamlLine().FindStringSubmatch(text); m != nil && len(sources) == 1 {
		if line, err := strconv.Atoi(m[1]); err == nil {
			return lineRange(sources[0], line)
		}
	}
	if m := openedFile().FindStringSubmatch(text); m != nil {
		for _, s := range sources {
			for node := range nodes(s.yaml()) {
				if node.Kind == yaml.ScalarNode && node.Value != "" && filepath.Clean(node.Value) == m[1] {
					return nodeRange(s, node)
				}
			}
		}
	}
	path := composePath().FindString(text)
	if m := composeNamed().FindStringSubmatch(text); m != nil && path == "" {
		path = "services." + m[1]
	}
	for keys := strings.Split(path, "."); path != "" && len(keys) > 0; keys = keys[:len(keys)-1] {
		for _, s := range slices.Backward(sources) {
			if node := findNode(s.yaml(), keys); node != nil {
				return nodeRange(s, node)
			}
		}
	}
	if len(sources) == 1 {
		return lineRange(sources[0], 1)
	}
	return nil
}
