package config

import (
	"cmp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Listed is a target or group, as a list of what can be built shows it.
type Listed struct {
	Name string
	// Description is what the block says; a group's has its members, too.
	Description string
	Group       bool
}

// list lists the targets and groups, by name. Those whose names start with _ are
// private by convention: they are there to be inherited from.
func (l *loader) list() []Listed {
	var list []Listed
	for _, t := range l.file.Targets {
		list = append(list, Listed{Name: t.Name, Description: t.Description})
	}
	for _, g := range l.file.Groups {
		description := g.Description
		if len(g.Targets) > 0 {
			description = strings.Join(slices.Sorted(slices.Values(g.Targets)), ", ")
			if g.Description != "" {
				description = g.Description + " (" + description + ")"
			}
		}
		list = append(list, Listed{Name: g.Name, Description: description, Group: true})
	}
	return withoutPrivate(list)
}

// listTorn adds to a list what can be told of files that cannot be read to their ends:
// the labels of their blocks, and the services that are built.
func (l *loader) listTorn(list []Listed) []Listed {
	add := func(name string, group bool) {
		if validateName(name) == nil && !slices.ContainsFunc(list, func(o Listed) bool { return o.Name == name }) {
			list = append(list, Listed{Name: name, Group: group})
		}
	}
	for _, s := range l.sources {
		if s.compose && l.compose == nil {
			for _, service := range elements(findNode(s.yaml(), []string{"services"})) {
				if service.key != nil && findNode(service.node, []string{"build"}) != nil {
					add(strings.ReplaceAll(service.key.Value, ".", "_"), false)
				}
			}
		}
		if s.torn == nil {
			continue
		}
		if native, ok := s.torn.Body.(*hclsyntax.Body); ok {
			for _, b := range native.Blocks {
				if (b.Type == "target" || b.Type == "group") && len(b.Labels) == 1 {
					add(b.Labels[0], b.Type == "group")
				}
			}
		}
	}
	return withoutPrivate(list)
}

// withoutPrivate leaves out what is there to be inherited from, and sorts the rest.
func withoutPrivate(list []Listed) []Listed {
	list = slices.DeleteFunc(list, func(e Listed) bool { return strings.HasPrefix(e.Name, "_") })
	slices.SortStableFunc(list, func(a, b Listed) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
