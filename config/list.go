package config

import (
	"cmp"
	"slices"
	"strings"
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
	list = slices.DeleteFunc(list, func(e Listed) bool { return strings.HasPrefix(e.Name, "_") })
	slices.SortStableFunc(list, func(a, b Listed) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
