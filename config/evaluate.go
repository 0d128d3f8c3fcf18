package config

import (
	"context"
	"fmt"

	"github.com/docker/buildx/bake/hclparser"
	"github.com/hashicorp/hcl/v2"
)

// evaluate evaluates the items into l.file. If that fails it finds everything
// that is wrong, and evaluates what does not depend on it, so that this can be
// checked further; l.file stays nil if nothing can be said about targets.
func (l *loader) evaluate(ctx context.Context) {
	for _, s := range l.sources {
		l.hidden = l.hidden || s.file == nil && !s.compose
	}
	if l.tooManyTargets() {
		return
	}
	file, renamed, diags := l.decode(l.items)
	if !diags.HasErrors() {
		l.file, l.renamed = file, renamed
		return
	}
	l.diagnose(ctx, diags)
}

// decode has hclparser evaluate items. What it reports depends on the order in
// which it goes through maps, so an error is only a sign that there is one.
func (l *loader) decode(it *items) (file *wireFile, renamed map[string][]string, diags hcl.Diagnostics) {
	defer func() {
		// hclparser and what it decodes into panic on some values, such as null
		// in a list of caches.
		if r := recover(); r != nil {
			diags = hcl.Diagnostics{{
				Severity: hcl.DiagError,
				Summary:  "A value cannot be evaluated",
				Detail:   fmt.Sprintf("Check the values for null and for wrong types (%v).", r),
				Subject:  it.MissingItemRange().Ptr(),
			}}
		}
	}()
	file = l.compose.wireFile()
	l.left = maxTargets
	meta, diags := hclparser.Parse(it, hclparser.Opt{
		LookupVar:     l.lookupVar,
		Vars:          l.builtins(),
		ValidateLabel: validateName,
	}, file)
	if diags.HasErrors() {
		return nil, nil, diags
	}
	return file, meta.Renamed["target"], nil
}

// mayExist reports whether there is a target or group of that name among those
// that could not be evaluated.
func (l *loader) mayExist(name string) bool { return l.broken[name] || l.hidden }

// tooManyTargets reports it if there are more blocks than targets may be.
func (l *loader) tooManyTargets() bool {
	n := 0
	for _, b := range l.items.blocks {
		if b.Type != "target" {
			continue
		}
		n++
		if n > maxTargets {
			l.diags = append(l.diags, tooManyTargets(b.DefRange))
			return true
		}
	}
	return false
}
