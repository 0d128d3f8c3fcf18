package config

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	composetypes "github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"
)

// compose-go ends with the first value that it cannot use. To find the others, each
// value is read by itself, as the only one of a Compose file, and where that fails
// each of its elements.

// maxComposeTries is how many values are tried at most.
const maxComposeTries = 200

// composeSearch looks for values that compose-go cannot use.
type composeSearch struct {
	*loader
	ctx    context.Context
	env    composetypes.Mapping
	source *source
	tries  int
	work   int // see composeWork
	found  []composeProblem
}

// composeValue is a value of a Compose file.
type composeValue struct {
	key  *yaml.Node // nil if it is an element of a list
	node *yaml.Node
	path string
	// file is a Compose file without anything but such a value.
	file func(value any) map[string]any
	// depth is how many levels of elements below it can be read by themselves.
	depth int
}

// wrongValues are the values of all files that cannot be used, each by itself.
func (l *loader) wrongValues(ctx context.Context, sources []*source) []composeProblem {
	env, err := l.composeEnvironment()
	if err != nil {
		return nil
	}
	search := &composeSearch{loader: l, ctx: ctx, env: env}
	for _, building := range []bool{true, false} { // what matters most first
		for _, s := range sources {
			search.source = s
			search.services(building)
			search.resources(building)
		}
	}
	return search.found
}

// services tries the fields of all services, those about building or the others.
func (c *composeSearch) services(building bool) {
	for _, service := range elements(findNode(c.source.yaml(), []string{"services"})) {
		for _, field := range elements(service.node) {
			if service.key == nil || field.key == nil || field.key.Value == "extends" || slices.Contains(buildingFields, field.key.Value) != building {
				continue
			}
			field.path, field.depth = "services."+service.key.Value+"."+field.key.Value, 2
			field.file = func(value any) map[string]any {
				return map[string]any{"services": map[string]any{service.key.Value: map[string]any{field.key.Value: value}}}
			}
			c.try(field)
		}
	}
}

// resources tries what services have in common: secrets, or everything else.
func (c *composeSearch) resources(building bool) {
	for _, section := range []string{"secrets", "configs", "networks", "volumes"} {
		if (section == "secrets") != building {
			continue
		}
		for _, e := range elements(findNode(c.source.yaml(), []string{section})) {
			if e.key == nil {
				continue
			}
			e.path, e.depth = section+"."+e.key.Value, 1
			e.file = func(value any) map[string]any {
				return map[string]any{
					"services": map[string]any{"x": map[string]any{"image": "x"}},
					section:    map[string]any{e.key.Value: value},
				}
			}
			c.try(e)
		}
	}
}

// elements are the values in a mapping, with their keys, or those of a list.
func elements(node *yaml.Node) (all []composeValue) {
	if node = findNode(node, nil); node == nil {
		return nil
	}
	switch node.Kind {
	case yaml.SequenceNode:
		for _, value := range node.Content {
			all = append(all, composeValue{node: value})
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value != "<<" {
				all = append(all, composeValue{key: node.Content[i], node: node.Content[i+1]})
			}
		}
	}
	return all
}

// try notes what is wrong with a value, and reports whether anything is.
func (c *composeSearch) try(v composeValue) bool {
	node := findNode(v.node, nil)
	c.tries, c.work = c.tries+1, c.work+composeWork(node)
	var value any
	if c.tries > maxComposeTries || c.work > maxComposeWork || c.ctx.Err() != nil || node == nil || isCustom(node) || node.Decode(&value) != nil {
		return false
	}
	err := c.usable(v.file(value))
	if err == nil {
		return false
	}
	inside := false
	for i, e := range elements(node) {
		if v.depth == 0 || c.usable(v.file(empty(node))) != nil { // it is no list, or no mapping, that is needed
			break
		}
		e.depth, e.path = v.depth-1, v.path+"."+strconv.Itoa(i)
		if e.key != nil {
			e.path = v.path + "." + e.key.Value
		}
		e.file = func(value any) map[string]any {
			if e.key == nil {
				return v.file([]any{value})
			}
			return v.file(map[string]any{e.key.Value: value})
		}
		inside = c.try(e) || inside
	}
	if inside {
		return true
	}
	if unknown := unknownKeys([]*source{c.source}, composeText(err)); len(unknown) > 0 {
		c.found = append(c.found, unknown...)
		return true
	}
	p := composeProblem{at: nodeRange(c.source, v.node), text: composeText(err), path: v.path}
	var kind wrongKind
	var build *buildError
	switch {
	case errors.As(err, &kind):
		p.text = v.path + kind.text()
	case errors.As(err, &build):
		_, text, ok := strings.Cut(build.err.Error(), ": ") // without the field
		if !ok {
			text = build.err.Error()
		}
		p.text = v.path + ": " + text
	}
	c.found = append(c.found, p)
	return true
}

// additional is what the schema has to say of keys that there are not.
var additional = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(.+) additional properties ('.+') not allowed$`) })

// unknownKeys are the keys that there are not, if that is what a text says.
func unknownKeys(sources []*source, text string) (all []composeProblem) {
	m := additional().FindStringSubmatch(text)
	if m == nil {
		return nil
	}
	for _, name := range strings.Split(strings.Trim(m[2], "'"), "', '") {
		p := composeProblem{
			at: composeErrorRange(sources, m[1]), path: m[1] + "." + name,
			text: fmt.Sprintf("there is no %q in %s.%s", name, m[1], didYouMean(name, composeFields(m[1]))),
		}
		if m[1] == "services" {
			p.text = fmt.Sprintf("%q cannot be the name of a service: only letters, digits, ., - and _ are allowed", name)
		}
		for _, s := range slices.Backward(sources) {
			for _, e := range elements(findNode(s.yaml(), strings.Split(m[1], "."))) {
				if e.key != nil && e.key.Value == name {
					p.at = nodeRange(s, e.key)
				}
			}
		}
		all = append(all, p)
	}
	return all
}

// composeFields are the keys that there are in what is at a path.
func composeFields(path string) (names []string) {
	typ := reflect.TypeFor[composetypes.BuildConfig]()
	if strings.HasPrefix(path, "secrets.") {
		typ = reflect.TypeFor[composetypes.SecretConfig]()
	}
	for i := range typ.NumField() {
		if name, _, _ := strings.Cut(typ.Field(i).Tag.Get("yaml"), ","); name != "" && name[0] != '#' {
			names = append(names, name)
		}
	}
	return names
}

// empty is a list or mapping, as the node is one, without elements.
func empty(node *yaml.Node) any {
	if node.Kind == yaml.SequenceNode {
		return []any{}
	}
	return map[string]any{}
}

// isCustom reports whether a value has a tag of Compose's own, such as !reset.
func isCustom(node *yaml.Node) bool {
	return strings.HasPrefix(node.Tag, "!") && !strings.HasPrefix(node.Tag, "!!")
}

// usable is the error of a Compose file in which values stand alone.
func (c *composeSearch) usable(file map[string]any) error {
	project, err := c.readCompose(c.ctx, composeDetails(c.source, composetypes.ConfigFile{Content: []byte("{}"), Config: file}, c.env), skipConsistency)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		if service := project.Services[name]; service.Build != nil {
			s := &composeService{project: project, service: service, build: service.Build}
			if _, err := s.target(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// buildError is an error of what a service's build becomes.
type buildError struct {
	name string // of the service
	key  string // of the field of its build
	err  error
}

// Error is part of error.
func (e *buildError) Error() string { return fmt.Sprintf("services.%s.build: %v", e.name, e.err) }

// wrongKind is the error of a value whose kind compose-go takes for granted.
type wrongKind string

// Error is part of error.
func (e wrongKind) Error() string { return "there is a value somewhere that" + e.text() }

// text says it of a value.
func (e wrongKind) text() string {
	if m := conversion().FindStringSubmatch(string(e)); m != nil {
		return " must be of type " + m[2] + ", and is of type " + m[1]
	}
	return " is of the wrong kind"
}

var (
	conversion = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`interface conversion: interface \{\} is (\S+), not (\S+)$`)
	})
	decoding = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^decoding failed due to the following error\(s\):\s+'services\[([^]]*)\]\.(\S+)' `)
	})
)

// composeText is what compose-go says without what is of no help.
func composeText(err error) string {
	text := strings.TrimSpace(err.Error())
	text = strings.TrimPrefix(strings.TrimPrefix(text, "validating : "), "failed to parse : ")
	text = decoding().ReplaceAllString(text, "services.$1.$2: ")
	if text == noServices {
		return `there are no services in the file. They stand below the key "services"`
	}
	text = strings.ReplaceAll(text, " must be a array", " must be a list")
	text = strings.ReplaceAll(text, " must be a integer", " must be an integer")
	return strings.TrimSuffix(text, ".")
}
