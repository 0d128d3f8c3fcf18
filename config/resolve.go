package config

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/docker/buildx/util/buildflags"
)

// printed is what bake --print shows.
type printed struct {
	Group  map[string]*wireGroup  `json:"group,omitempty"`
	Target map[string]*wireTarget `json:"target"`
	// fileDefault is set if the group default was gone through, and is not just
	// the list of what was asked for.
	fileDefault bool
}

// addMatrixGroups makes a group of the targets that each matrix made, by the
// label of its block, unless that is just the name of the one target.
func (l *loader) addMatrixGroups() {
	for _, label := range slices.Sorted(maps.Keys(l.renamed)) {
		names := unique(l.renamed[label])
		if len(names) == 1 && names[0] == label {
			continue
		}
		l.file.Groups = append(l.file.Groups, &wireGroup{Name: label, Targets: names})
	}
	for _, g := range l.file.Groups {
		g.Targets = unique(g.Targets)
	}
}

// unique is the list without the later of equal elements. An empty list stays
// what it is: bake prints null for one that nobody wrote and [] for one that is
// written so.
func unique[T comparable](list []T) []T {
	if len(list) == 0 {
		return list
	}
	seen := map[T]bool{}
	var result []T
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			result = append(result, s)
		}
	}
	return result
}

// withoutEmpty is unique, without "" too. It keeps the difference between a nil
// list and an empty one.
func withoutEmpty(list []string) []string {
	if list == nil {
		return nil
	}
	return slices.DeleteFunc(append([]string{}, unique(list)...), func(s string) bool { return s == "" })
}

// resolve finds out what is to be built, and makes l.project of it.
func (l *loader) resolve() {
	r := &resolver{
		loader:  l,
		targets: map[string]*wireTarget{},
		groups:  map[string]*wireGroup{},
		done:    map[string]*wireTarget{},

		evaluated: map[string]bool{},
	}
	for _, t := range l.file.Targets {
		r.targets[t.Name] = t
	}
	for _, g := range slices.Backward(l.file.Groups) { // the first of a name counts
		r.groups[g.Name] = g
	}
	out := r.requested()
	r.link(out)
	r.checkNames(out)
	r.checkLinks(out)
	l.addEpoch(out.Target)
	r.build(out)
}

// resolver evaluates what depends on the names of targets and groups.
type resolver struct {
	*loader
	targets map[string]*wireTarget
	groups  map[string]*wireGroup
	// done are the resolved targets; evaluated are the names of those and of all
	// that they inherit from.
	done      map[string]*wireTarget
	evaluated map[string]bool
	// names are the requested targets, in order.
	names []string
	// rootDirs are the directories that may be used without leave; fsUnchecked
	// is set where that is not checked.
	rootDirs    []string
	fsUnchecked bool
}

// known are all names that a person could have meant.
func (r *resolver) known() []string {
	return slices.Concat(slices.Collect(maps.Keys(r.targets)), slices.Collect(maps.Keys(r.groups)), slices.Collect(maps.Keys(r.broken)))
}

// requested resolves the targets that the request names, and lists the groups
// that it went through.
func (r *resolver) requested() *printed {
	asked := r.req.Targets
	if len(asked) == 0 {
		asked = []string{"default"}
	}
	var names []string
	for _, pattern := range asked {
		names = append(names, r.match(pattern, len(r.req.Targets) == 0)...)
	}
	names = unique(names)

	out := &printed{Target: map[string]*wireTarget{}, Group: map[string]*wireGroup{}}
	for _, name := range names {
		targets, groups := r.expand(name)
		for _, t := range targets {
			if _, ok := r.targets[t]; !ok {
				r.checkCircle(t)
				continue // else reported by checkNames or match
			}
			r.names = append(r.names, t)
			out.Target[t] = r.target(t)
		}
		for _, g := range groups {
			clone := *r.groups[g]
			out.Group[g] = &clone
		}
	}
	r.names = unique(r.names)
	if len(r.names) == 0 && !r.diags.HasErrors() && !r.req.EvaluateOnly {
		r.nothingToBuild()
	}
	out.fileDefault = out.Group["default"] != nil
	r.defaultGroup(out, names)
	return out
}

// nothingToBuild warns that what was asked for has no targets: groups without
// members, such as that of a Compose file whose services are all images.
func (r *resolver) nothingToBuild() {
	why := "The group has no targets."
	if slices.ContainsFunc(r.sources, func(s *source) bool { return s.compose }) {
		why = `No service of the Compose file has a "build".`
	}
	r.warnf(nil, "Nothing to build", "%s", why)
}

// defaultGroup makes the group "default" list what was asked for.
func (r *resolver) defaultGroup(out *printed, names []string) {
	for _, name := range names {
		group, ok := out.Group["default"]
		if ok && name == "default" {
			continue
		}
		if !ok {
			group = &wireGroup{Name: "default"}
			out.Group["default"] = group
		}
		group.Targets = append(slices.Clone(group.Targets), name)
	}
	if group, ok := out.Group["default"]; ok {
		group.Targets = unique(group.Targets)
		slices.Sort(group.Targets)
	}
}

// match are the names of targets and groups that an argument of the command line
// stands for.
func (r *resolver) match(written string, implied bool) []string {
	pattern := strings.ReplaceAll(written, ".", "_")
	if !strings.ContainsAny(pattern, "*?[]") {
		if r.targets[pattern] == nil && r.groups[pattern] == nil && !r.mayExist(pattern) {
			if implied {
				r.errorf(nil, "Nothing to build", "No target was named, and there is no group or target called default.%s Name one, or add a group \"default\".",
					listed(r.known()))
				return nil
			}
			hint, meant := cmp.Or(r.pathHint(written), verbHint(written)), didYouMean(pattern, r.known())
			if hint == "" && meant == "" {
				meant = misspelledVerb(written)
			}
			r.errorf(nil, "Unknown target", "There is no target or group called %q.%s%s%s", written, hint, meant, listed(r.known()))
			return nil
		}
		return []string{pattern}
	}
	var names []string
	for _, g := range r.file.Groups {
		if ok, err := path.Match(pattern, g.Name); ok && err == nil {
			names = append(names, g.Name)
		}
	}
	for _, t := range r.file.Targets {
		if ok, err := path.Match(pattern, t.Name); ok && err == nil {
			names = append(names, t.Name)
		}
	}
	broken := func(name string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	}
	if len(names) == 0 && !r.hidden && !slices.ContainsFunc(slices.Collect(maps.Keys(r.broken)), broken) {
		if len(r.known()) == 0 {
			r.errorf(nil, "Nothing to build", `There is no target in the build files. Write one: target "app" {}`)
		} else {
			r.errorf(nil, "Unknown target", "No target or group matches %q.%s", pattern, listed(r.known()))
		}
	}
	return names
}

// expand is the list of the targets that a name stands for, and of the groups
// that were gone through. Where a group leads back to itself, its name means the
// target of that name.
func (r *resolver) expand(name string) (targets, groups []string) {
	type members struct{ targets, groups []string }
	visited := map[string]*members{}
	var visit func(string) *members
	visit = func(name string) *members {
		if m, ok := visited[name]; ok {
			return m
		}
		g := r.groups[name]
		if g == nil {
			return &members{targets: []string{name}}
		}
		m := &members{}
		visited[name] = m
		all := members{groups: []string{name}}
		for _, member := range g.Targets {
			of := visit(member)
			all.groups = append(all.groups, of.groups...)
			if len(of.targets) == 0 { // it is being visited, or has no members
				all.targets = append(all.targets, member)
			}
			all.targets = append(all.targets, of.targets...)
		}
		m.targets, m.groups = unique(all.targets), unique(all.groups)
		return m
	}
	m := visit(name)
	return m.targets, m.groups
}

// target resolves a target: the project's settings, what it inherits, what it
// says itself and what --set says, in this order.
func (r *resolver) target(name string) *wireTarget {
	if t, ok := r.done[name]; ok {
		return t
	}
	t := r.inherit(name, map[string]*wireTarget{})
	resolved := *t
	resolved.Inherits = nil
	ownHost := t.ownHost
	if len(r.file.Project) > 0 {
		base := &wireTarget{}
		base.Merge(r.file.Project[0])
		base.Watch = nil // the project's is the project's
		base.Merge(&resolved)
		base.Name, base.Inherits = name, nil
		resolved = *base
	}
	if resolved.Context == nil {
		dot := "."
		resolved.Context = &dot
	}
	if resolved.Dockerfile == nil || *resolved.Dockerfile == "" {
		dockerfile := "Dockerfile"
		resolved.Dockerfile = &dockerfile
	}
	resolved.ownHost = ownHost
	r.done[name] = &resolved
	return &resolved
}

// inherit merges a target with those that it inherits from. Each of them has
// its own overrides applied first, as bake does it.
func (r *resolver) inherit(name string, visited map[string]*wireTarget) *wireTarget {
	if t, ok := visited[name]; ok {
		return t
	}
	visited[name] = nil
	r.evaluated[name] = true
	own := r.targets[name]
	t := &wireTarget{}
	if r.meter.at = own.at; r.meter.over != nil {
		return own // it is an error already
	}
	for _, parent := range own.Inherits {
		if r.targets[parent] == nil {
			continue // reported by checkNames
		}
		if p := r.inherit(parent, visited); p != nil {
			if n := p.size() + 1; !r.meter.spend(n/2, n*valueBytes/2) {
				return own
			}
			t.Merge(p)
			t.Inherits = nil
		}
	}
	t.Merge(own)
	t.Name = name
	r.applyOverrides(t)
	normalize(t)
	visited[name] = t
	return t
}

// normalize removes what is there twice.
func normalize(t *wireTarget) {
	t.Annotations = withoutEmpty(t.Annotations)
	t.Attest = slices.Clone(t.Attest).Normalize()
	t.Tags = withoutEmpty(t.Tags)
	t.Secrets = slices.Clone(t.Secrets).Normalize()
	t.SSH = slices.Clone(t.SSH).Normalize()
	t.Platforms = withoutEmpty(t.Platforms)
	t.CacheFrom = slices.Clone(t.CacheFrom).Normalize()
	t.CacheTo = slices.Clone(t.CacheTo).Normalize()
	t.Outputs = slices.Clone(t.Outputs).Normalize()
	t.NoCacheFilter = withoutEmpty(t.NoCacheFilter)
	t.Ulimits = withoutEmpty(t.Ulimits)
	t.DependsOn = withoutEmpty(t.DependsOn)
	if t.Network != nil && *t.Network == "host" {
		t.Entitlements = slices.Concat(t.Entitlements, []string{entitlementNetworkHost})
	}
	t.Entitlements = withoutEmpty(t.Entitlements)
	t.ownHost = slices.Contains(t.Entitlements, entitlementNetworkHost)
	t.Contexts = maps.Clone(t.Contexts)
	maps.DeleteFunc(t.Contexts, func(_, value string) bool { return value == "" })
	if len(t.Contexts) == 0 {
		t.Contexts = nil
	}
}

const (
	entitlementNetworkHost = "network.host"
	entitlementInsecure    = "security.insecure"
	entitlementDevice      = "device"
	targetPrefix           = "target:"
)

// link adds the targets that others need, and lets entitlements through to those
// that need them.
func (r *resolver) link(out *printed) {
	visited := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(out.Target)) {
		r.linkTarget(out, name, visited)
	}
}

func (r *resolver) linkTarget(out *printed, name string, visited map[string]bool) {
	if visited[name] {
		return
	}
	visited[name] = true // a cycle is reported by checkNames
	t := out.Target[name]
	for _, key := range slices.Sorted(maps.Keys(t.Contexts)) {
		other, ok := strings.CutPrefix(t.Contexts[key], targetPrefix)
		if !ok {
			continue
		}
		t2 := r.need(out, other, visited)
		if t2 == nil {
			if !r.mayExist(other) {
				r.errorf(t.where("contexts."+key), "Unknown target", "The context %q of target %s is the target %q, which does not exist.%s",
					key, name, other, didYouMean(other, slices.Collect(maps.Keys(r.targets))))
			}
			continue
		}
		for _, e := range t2.Entitlements {
			if !slices.Contains(t.Entitlements, e) {
				t.Entitlements = append(slices.Clone(t.Entitlements), e)
			}
		}
		if len(t.Platforms) > 1 && len(t2.Platforms) > 1 {
			for _, p := range t.Platforms {
				if !slices.Contains(t2.Platforms, p) {
					r.errorf(t.where("contexts."+key), "Platforms do not match",
						"Target %s is built for %s, but target %s, which it builds on, is not.", name, p, other)
				}
			}
		}
	}
	for _, other := range t.DependsOn {
		r.needGroup(out, t, other, visited)
	}
}

// need adds a target that is only needed by another; nil if there is none.
func (r *resolver) need(out *printed, name string, visited map[string]bool) *wireTarget {
	if r.targets[name] == nil {
		return nil
	}
	t, ok := out.Target[name]
	if !ok {
		t = r.target(name)
		t.Outputs = buildflags.Exports{{Type: "cacheonly"}}
		t.linked = true
		out.Target[name] = t
	}
	r.linkTarget(out, name, visited)
	return t
}

// needGroup adds the targets that depends-on names: a target or a group.
func (r *resolver) needGroup(out *printed, t *wireTarget, name string, visited map[string]bool) {
	if r.targets[name] == nil && r.groups[name] == nil {
		if !r.mayExist(name) {
			r.errorf(t.whereValue("depends-on", name), "Unknown target", "Target %s depends on %q, which does not exist.%s",
				t.Name, name, didYouMean(name, r.known()))
		}
		return
	}
	targets, _ := r.expand(name)
	for _, other := range targets {
		r.need(out, other, visited)
	}
}

const envEpoch = "SOURCE_DATE_EPOCH"

// addEpoch hands the environment's SOURCE_DATE_EPOCH to every target.
func (l *loader) addEpoch(targets map[string]*wireTarget) {
	const name = envEpoch
	value := l.env(name)
	if value == "" {
		return
	}
	for _, t := range targets {
		if _, ok := t.Args[name]; !ok {
			t.Args = withKey(t.Args, name, &value)
		}
	}
}
