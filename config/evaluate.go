package config

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
	l.file, l.renamed, l.variables = e.file, e.renamed, e.variables
}

// mayExist reports whether there is a target or group of that name among those
// that could not be evaluated.
func (l *loader) mayExist(name string) bool { return l.broken[name] || l.hidden }
