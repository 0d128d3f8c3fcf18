package config

import (
	"maps"
	"slices"
)

// evaluate evaluates the items into l.file. If that fails it finds everything
// that is wrong; what does not depend on it can be checked further. l.file stays
// nil if nothing can be said about targets.
func (l *loader) evaluate() {
	for _, s := range l.sources {
		l.hidden = l.hidden || s.file == nil && !s.compose
	}
	e := l.evaluateItems(l.items)
	if over := l.meter.over; over != nil {
		l.diags = append(l.diags, over)
		return
	}
	if len(e.failures) > 0 {
		l.diagnose(e)
	}
	l.checkGlobals(e.mentioned)
	l.checkGivenVars(e)
	l.file, l.renamed, l.variables = e.file, e.renamed, e.variables
}

// checkGlobals says which values outside of all blocks look like settings and are
// none: to bake's language they are names for values, like any other.
func (l *loader) checkGlobals(mentioned map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(l.items.attrs)) {
		at := l.items.attrs[name].NameRange
		s, a := l.source(at.Filename), attributeNamed(name)
		switch {
		case mentioned[name] || s == nil:
		case s.ours:
			if a != nil && !a.project {
				l.warnf(&at, "A value that nothing refers to", "%s is no setting of all targets. If it is meant to be one of a target, write it in its block.", name)
			}
		case slices.Contains(prologueNames, name) || a != nil && a.project:
			l.warnf(&at, "Ignored attribute", "bake has no %s; it is zbuild's own, and only read from zbuild.hcl, zbuild.json and files called *.zbuild.hcl. Here it is a value, and nothing refers to it.", name)
		case a != nil:
			l.warnf(&at, "A value that nothing refers to", "%s is an attribute of targets. If it is meant to be one, write it in the target's block.", name)
		}
	}
}

// mayExist reports whether there is a target or group of that name among those
// that could not be evaluated.
func (l *loader) mayExist(name string) bool { return l.broken[name] || l.hidden }
