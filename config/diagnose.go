package config

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/docker/buildx/bake/hclparser"
	"github.com/hashicorp/hcl/v2"
)

// wrongKeyword is what hcl says of a type that there is not.
var wrongKeyword = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^The keyword "([^"]+)" is not a valid type specification`)
})

// listForString is what hcl says of a string where a list has to be.
var listForString = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`list of .* required, but have string$`) })

// wrongAttribute is what hcl says of an attribute that there is not.
var wrongAttribute = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`does not have an attribute named "([^"]+)"`) })

var typeKeywords = []string{"string", "number", "bool", "any", "list", "set", "map", "tuple", "object"}

// diagnosis makes sense of what failed: of mistakes that depend on one another
// only the first is of interest, and a name that does not exist is that and
// nothing else.
type diagnosis struct {
	*loader
	units []*unit
	// byName are the units by "kind name".
	byName    map[string][]*unit
	renamed   map[string][]string
	functions []string // the names of all functions
	values    []string // the names of all variables and values
}

// diagnose reports what is wrong with what could not be evaluated.
func (l *loader) diagnose(e *evaluation) {
	d := &diagnosis{loader: l, units: unitsOf(l.items), byName: map[string][]*unit{}, renamed: e.renamed}
	for _, u := range d.units {
		d.byName[u.kind+" "+u.name] = append(d.byName[u.kind+" "+u.name], u)
	}
	d.listNames()
	d.findCycles()
	for _, u := range d.units {
		diags, failed := e.failures[u.key()]
		delete(e.failures, u.key())
		switch {
		case !failed || u.broken: // or part of a circle
		case len(diags) > 0:
			d.explain(u, diags)
		default: // it might be right, but for what it needs
			d.undefined(u, true)
		}
		u.broken = u.broken || failed
	}
	for _, diags := range e.failures { // of blocks that others hide
		l.diags = append(l.diags, diags...)
	}
	if !l.diags.HasErrors() {
		l.errorf(nil, "The project cannot be evaluated", "It refers to itself somewhere.")
	}
	for _, u := range d.units {
		if u.broken && (u.kind == "target" || u.kind == "group") {
			l.broken[u.name] = true
			l.hidden = l.hidden || u.matrix && len(e.renamed[u.name]) == 0
		}
	}
}

func (d *diagnosis) listNames() {
	d.functions = slices.Collect(maps.Keys(hclparser.Stdlib()))
	d.values = slices.Collect(maps.Keys(d.builtins()))
	for _, u := range d.units {
		switch u.kind {
		case "function":
			d.functions = append(d.functions, u.name)
		case "variable", "value":
			d.values = append(d.values, u.name)
		}
	}
	slices.Sort(d.functions)
	slices.Sort(d.values)
}

// meant are the units that a mention is about.
func (d *diagnosis) meant(r mention) []*unit {
	if r.kind != "value" {
		units := d.byName[r.kind+" "+r.name]
		if r.kind == "target" && len(units) == 0 { // made by a matrix?
			for _, u := range d.units {
				if u.kind == "target" && u.matrix {
					units = append(units, u)
				}
			}
		}
		return units
	}
	if units := d.byName["value "+r.name]; len(units) > 0 {
		return units
	}
	return d.byName["variable "+r.name]
}

// explain reports why a unit cannot be evaluated, given what its evaluation said.
func (d *diagnosis) explain(u *unit, diags hcl.Diagnostics) {
	undefined := d.undefined(u, false)
	consequences := len(undefined) > 0
	for _, diag := range diags {
		known := diag.Subject == nil || slices.ContainsFunc(undefined, func(at hcl.Range) bool { return overlaps(at, *diag.Subject) })
		// A value that could not be evaluated is also unknown, and of no type.
		unknown := strings.Contains(diag.Detail, "value must be known") || strings.Contains(diag.Detail, "value is not known")
		if consequences && known || unknown && len(diags) > 1 {
			continue
		}
		clone := *diag
		// There is no place for some errors of a variable.
		if clone.Subject == nil || d.project.Sources[clone.Subject.Filename] == nil || clone.Subject.Empty() {
			clone.Subject = u.at.Ptr()
		}
		if m := wrongKeyword().FindStringSubmatch(clone.Detail); m != nil {
			clone.Detail += didYouMean(m[1], typeKeywords)
		}
		d.explainAttribute(u, &clone)
		d.explainKind(&clone)
		if s := d.source(clone.Subject.Filename); u.kind == "function" && clone.Summary == "Unsupported argument" && s != nil && s.ours {
			continue // reported by checkBlock
		}
		clone.Context = nil
		clone.Expression, clone.EvalContext = nil, nil // it would show values
		d.diags = append(d.diags, &clone)
	}
}

// explainAttribute says it of a target that does not exist if that is the attribute
// which there is not.
func (d *diagnosis) explainAttribute(u *unit, diag *hcl.Diagnostic) {
	m := wrongAttribute().FindStringSubmatch(diag.Detail)
	if m == nil {
		return
	}
	for _, r := range u.refs {
		if r.kind == "target" && r.name == m[1] && overlaps(r.at, *diag.Subject) {
			diag.Summary, diag.Detail = d.noSuch(r)
			return
		}
	}
}

// explainKind says how to write a value of the kind that is needed.
func (d *diagnosis) explainKind(diag *hcl.Diagnostic) {
	s := d.source(diag.Subject.Filename)
	switch {
	case listForString().MatchString(diag.Detail):
		diag.Detail += `. Put it in brackets: ["…"]`
	case strings.HasPrefix(diag.Detail, "Unsuitable value: map of string required"):
		diag.Detail += `. Write it as { NAME = "value" }`
	case !strings.HasSuffix(diag.Detail, "a bool is required"):
	case s != nil && !s.ours && slices.Contains(pullPolicies, strings.Trim(string(diag.Subject.SliceBytes(s.text)), `"`)):
		diag.Detail += ": true or false. Pull policies are zbuild's own, and read only from zbuild.hcl, zbuild.json and files called *.zbuild.hcl"
	default:
		diag.Detail += ": true or false"
	}
}

// noSuch says that there is nothing that a mention of a block could be about.
func (d *diagnosis) noSuch(r mention) (summary, detail string) {
	if made := d.renamed[r.name]; r.kind == "target" && len(made) > 0 {
		return "Unknown target", fmt.Sprintf("%s is a matrix. Refer to one of the targets that it makes, such as target.%s.", r.name, made[0])
	}
	var names []string
	for _, other := range d.units {
		if other.kind == r.kind {
			names = append(names, other.name)
		}
	}
	return "Unknown " + r.kind, fmt.Sprintf("There is no %s called %q.%s", r.kind, r.name, didYouMean(r.name, names))
}

// undefined reports what the unit refers to that does not exist, and where. Of a
// unit that was not evaluated, only what certainly is.
func (d *diagnosis) undefined(u *unit, certain bool) []hcl.Range {
	var undefined []hcl.Range
	for _, r := range u.refs {
		if r.guarded || certain && r.branch || d.exists(r) {
			continue
		}
		at := r.at
		undefined = append(undefined, at)
		switch r.kind {
		case "function":
			d.errorf(&at, "Unknown function", "There is no function called %q.%s", r.name, didYouMean(r.name, d.functions))
		case "value":
			d.errorf(&at, "Unknown variable", "There is no variable called %q.%s", r.name,
				cmp.Or(didYouMean(r.name, d.values), " If it is meant as text, put it in quotes."))
		default:
			summary, detail := d.noSuch(r)
			d.report(hcl.DiagError, &at, summary, detail)
		}
	}
	return undefined
}

// exists reports whether there is what the mention is about, or might be.
func (d *diagnosis) exists(r mention) bool {
	switch r.kind {
	case "function":
		return slices.Contains(d.functions, r.name)
	case "value":
		return slices.Contains(d.values, r.name)
	default:
		return len(d.meant(r)) > 0
	}
}

// findCycles reports values, functions and attributes of targets that are
// defined by themselves.
func (d *diagnosis) findCycles() {
	places := map[string]map[string]hcl.Range{}
	owners := map[string]*unit{}
	for _, u := range d.units {
		for _, r := range u.refs {
			if r.loose {
				continue
			}
			from := node(u, r.from)
			owners[from] = u
			if places[from] == nil {
				places[from] = map[string]hcl.Range{}
			}
			for _, n := range d.meant(r) {
				places[from][node(n, r.attr)] = r.at
			}
		}
	}
	next := func(name string) []string { return slices.Sorted(maps.Keys(places[name])) }
	for _, cycle := range cycles(slices.Sorted(maps.Keys(places)), next) {
		var steps []string
		var at hcl.Range
		for i, name := range cycle[:len(cycle)-1] {
			at = places[name][cycle[i+1]]
			steps = append(steps, fmt.Sprintf("%s refers to %s (%s)", name, cycle[i+1], at))
			owners[name].broken = true
		}
		d.errorf(&at, "Definitions in a circle", "%s: %s.", strings.Join(cycle, " -> "), strings.Join(steps, ", "))
	}
}

// node is how a cycle names a unit, or an attribute of a target.
func node(u *unit, attr string) string {
	switch u.kind {
	case "target", "group":
		if attr == "" {
			return u.kind + "." + u.name
		}
		return u.kind + "." + u.name + "." + attr
	case "function":
		return u.name + "()"
	default:
		return u.name
	}
}
