package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"
)

// extendsText matches what compose-go says of a service that cannot extend another.
var extendsText = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(cannot extend service |extends\.\S+\.service is required|Circular reference:)`)
})

// extension is what a service of a document extends.
type extension struct {
	source  *source
	name    string     // of the service
	node    *yaml.Node // the value of its "extends"
	file    string     // as it is written; empty is the same document
	service string     // as it is written; empty if it is not there
}

// extensions are those of a document, in its order.
func extensions(s *source) (all []extension) {
	services := findNode(s.yaml(), []string{"services"})
	if services == nil || services.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(services.Content); i += 2 {
		node := findNode(services.Content[i+1], []string{"extends"})
		if node == nil {
			continue
		}
		e := extension{source: s, name: services.Content[i].Value, node: node}
		switch node.Kind {
		case yaml.ScalarNode:
			e.service = node.Value
		case yaml.MappingNode:
			e.file, e.service = scalar(node, "file"), scalar(node, "service")
		}
		all = append(all, e)
	}
	return all
}

// scalar is the text at a key of a mapping.
func scalar(node *yaml.Node, key string) string {
	if value := findNode(node, []string{key}); value != nil && value.Kind == yaml.ScalarNode {
		return value.Value
	}
	return ""
}

// wrongExtends are the services of all files that cannot extend what they name.
func (l *loader) wrongExtends(sources []*source) (all []composeProblem) {
	for _, s := range sources {
		extending := extensions(s)
		for _, e := range extending {
			if text := l.wrongExtension(e); text != "" {
				all = append(all, composeProblem{at: nodeRange(s, e.node), text: fmt.Sprintf("service %q cannot extend %s", e.name, text), file: e.file})
			}
		}
		for _, circle := range extendsCircles(extending) {
			all = append(all, composeProblem{
				at:   nodeRange(s, circle[0].node),
				text: fmt.Sprintf("service %q extends itself: %s", circle[0].name, circleText(circle)),
			})
		}
	}
	return all
}

// wrongExtension says why a service cannot extend what it names; empty if it can,
// as far as that can be told: a name with a variable in it is not looked up.
func (l *loader) wrongExtension(e extension) string {
	if strings.Contains(e.file+e.service, "$") {
		return ""
	}
	if e.service == "" {
		return `anything: "extends" does not name a service`
	}
	document, where := e.source.yaml(), "this file"
	if e.file != "" {
		text, err := readRegular(joinPath(l.composeDir(e.source), e.file))
		if err != nil {
			return fmt.Sprintf("a service of %s: %s", e.file, strings.TrimSuffix(readProblem(err), "."))
		}
		document, where = (&source{text: text}).yaml(), e.file
	}
	services := findNode(document, []string{"services"})
	if findNode(services, []string{e.service}) != nil {
		return ""
	}
	return fmt.Sprintf("%q: there is no such service in %s.%s", e.service, where, didYouMean(e.service, mappingKeys(services)))
}

// mappingKeys are the keys of a mapping as they are written.
func mappingKeys(node *yaml.Node) (keys []string) {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(node.Content); i += 2 {
		keys = append(keys, node.Content[i].Value)
	}
	return keys
}

// extendsCircles are the services of one document that extend each other, each
// circle once, from its first service on.
func extendsCircles(all []extension) (circles [][]extension) {
	index := make(map[string]int, len(all))
	for i, e := range all {
		index[e.name] = i
	}
	seen := make([]bool, len(all))
	for start := range all {
		var path []int
		for at := start; ; {
			if i := slices.Index(path, at); i >= 0 {
				circle := make([]extension, 0, len(path)-i)
				for _, n := range path[i:] {
					circle = append(circle, all[n])
				}
				circles = append(circles, circle)
				break
			}
			if seen[at] {
				break
			}
			seen[at] = true
			path = append(path, at)
			next, ok := index[all[at].service]
			if !ok || all[at].file != "" {
				break
			}
			at = next
		}
	}
	return circles
}

// circleText names the services of a circle and comes back to the first.
func circleText(circle []extension) string {
	names := make([]string, 0, len(circle)+1)
	for _, e := range circle {
		names = append(names, e.name)
	}
	return strings.Join(append(names, circle[0].name), " -> ")
}
