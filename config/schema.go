package config

import (
	"slices"
	"strings"

	"github.com/docker/buildx/util/buildflags"
)

// mergeRule says what becomes of an attribute that a parent (of inherits) or an
// earlier file gives too.
type mergeRule string

const (
	mergeNone    mergeRule = "none"     // is not a value of the target
	mergeReplace mergeRule = "replace"  // the later value stands
	mergeKeys    mergeRule = "by key"   // later keys are added or replaced
	mergeAppend  mergeRule = "append"   // later elements are added
	mergeElement mergeRule = "by id"    // later elements replace those with the same id or type
	mergeFields  mergeRule = "by field" // later fields are added or replaced
)

// use says who an attribute is for.
type use int

const (
	forEvaluation use = iota // evaluation alone: it makes or names targets
	forBuild                 // it reaches Target, for the planner or the runner
	forPrint                 // it is only shown
	forWatch                 // it reaches Target and Project, for watch mode
	notYet                   // decoded and shown, but without effect in this release
)

// subkey says whether a --set key is followed by the name of an element.
type subkey int

const (
	noSubkey subkey = iota
	needsSubkey
	maySubkey
)

// attribute is one row of the table of a target's attributes.
type attribute struct {
	name  string
	kind  string // what is written, for people
	rule  mergeRule
	sets  []string // keys of --set; the first is what aliases are turned into
	sub   subkey
	multi bool // --set may give several values, and takes +=
	use   use
	// effect says what goes missing for notYet.
	effect string
	// ours is set for an addition to bake's language, which only zbuild's files
	// may use; project for one that may also stand outside of all blocks.
	ours, project bool
	ops
}

// ops are what a kind of attribute does with a target's field. They are nil for
// an attribute that is no field.
type ops struct {
	has   func(t *wireTarget) bool
	merge func(t, from *wireTarget)
	set   func(t *wireTarget, o *override) error
	// keys are the names of a map's elements.
	keys func(t *wireTarget) []string
}

// attributes is the table. It is in the order in which bake prints attributes.
var attributes = []attribute{
	{name: "matrix", kind: "map of lists", rule: mergeNone, use: forEvaluation},
	{name: "name", kind: "string", rule: mergeNone, use: forEvaluation},
	{name: "description", kind: "string", rule: mergeReplace, use: forBuild, ops: ops{
		has:   func(t *wireTarget) bool { return t.Description != "" },
		merge: func(t, from *wireTarget) { t.Description = from.Description },
	}},
	{
		name: "inherits", kind: "list of targets", rule: mergeAppend, use: forEvaluation,
		ops: list(func(t *wireTarget) *[]string { return &t.Inherits }),
	},
	{
		name: "annotations", kind: "list of strings", rule: mergeAppend, sets: []string{"annotation", "annotations"}, multi: true,
		use: forBuild,
		ops: always(list(func(t *wireTarget) *[]string { return &t.Annotations })),
	},
	{
		name: "attest", kind: "list of attestations", rule: mergeElement, sets: []string{"attest"}, multi: true,
		use: forBuild,
		ops: always(composite[buildflags.Attest](func(t *wireTarget) *buildflags.Attests { return &t.Attest })),
	},
	{
		name: "context", kind: "string", rule: mergeReplace, sets: []string{"context"}, use: forBuild,
		ops: text(func(t *wireTarget) **string { return &t.Context }),
	},
	{
		name: "contexts", kind: "map of strings", rule: mergeKeys, sets: []string{"contexts"}, sub: needsSubkey, use: forBuild,
		ops: contexts(),
	},
	{
		name: "dockerfile", kind: "string", rule: mergeReplace, sets: []string{"dockerfile"}, use: forBuild,
		ops: text(func(t *wireTarget) **string { return &t.Dockerfile }),
	},
	{
		name: "dockerfile-inline", kind: "string", rule: mergeReplace, use: forBuild,
		ops: text(func(t *wireTarget) **string { return &t.DockerfileInline }),
	},
	{
		name: "args", kind: "map of strings", rule: mergeKeys, sets: []string{"arg", "args"}, sub: needsSubkey, use: forBuild,
		ops: table(func(t *wireTarget) *map[string]*string { return &t.Args }),
	},
	{
		name: "labels", kind: "map of strings", rule: mergeKeys, sets: []string{"label", "labels"}, sub: needsSubkey, use: forBuild,
		ops: table(func(t *wireTarget) *map[string]*string { return &t.Labels }),
	},
	{
		name: "tags", kind: "list of strings", rule: mergeReplace, sets: []string{"tag", "tags"}, multi: true, use: forBuild,
		ops: replaced(tagsOf, list(tagsOf)),
	},
	{
		name: "cache-from", kind: "list of caches", rule: mergeAppend, sets: []string{"cache-from"}, multi: true,
		use: forBuild,
		ops: caches(func(t *wireTarget) *buildflags.CacheOptions { return &t.CacheFrom }),
	},
	{
		name: "cache-to", kind: "list of caches", rule: mergeReplace, sets: []string{"cache-to"}, multi: true,
		use: forBuild,
		ops: replaced(cacheToOf, caches(cacheToOf)),
	},
	{
		name: "target", kind: "string", rule: mergeReplace, sets: []string{"target"}, use: forBuild,
		ops: text(func(t *wireTarget) **string { return &t.Target }),
	},
	{
		name: "secret", kind: "list of secrets", rule: mergeElement, sets: []string{"secret", "secrets"}, sub: maySubkey, multi: true, use: forBuild,
		ops: secrets(),
	},
	{
		name: "ssh", kind: "list of agents or keys", rule: mergeElement, sets: []string{"ssh"}, multi: true, use: forBuild,
		ops: composite[buildflags.SSH](func(t *wireTarget) *buildflags.SSHKeys { return &t.SSH }),
	},
	{
		name: "platforms", kind: "list of strings", rule: mergeReplace, sets: []string{"platform", "platforms"}, multi: true, use: forBuild,
		ops: replaced(platformsOf, list(platformsOf)),
	},
	{
		name: "output", kind: "list of outputs", rule: mergeReplace, sets: []string{"output"}, multi: true, use: forBuild,
		ops: replaced(outputsOf, composite[buildflags.ExportEntry](outputsOf)),
	},
	{
		name: "pull", kind: "bool, or missing, newer, always, never", rule: mergeReplace, sets: []string{"pull"}, use: forBuild,
		ops: pull(),
	},
	{
		name: "no-cache", kind: "bool", rule: mergeReplace, sets: []string{"no-cache"}, use: forBuild,
		ops: value(func(t *wireTarget) **bool { return &t.NoCache }, parseBool),
	},
	{
		name: "network", kind: "default, host or none", rule: mergeReplace, sets: []string{"network"}, use: forBuild,
		ops: text(func(t *wireTarget) **string { return &t.Network }),
	},
	{
		name: "no-cache-filter", kind: "list of stages", rule: mergeAppend, sets: []string{"no-cache-filter"}, multi: true, use: forBuild,
		ops: list(func(t *wireTarget) *[]string { return &t.NoCacheFilter }),
	},
	{
		name: "shm-size", kind: "size", rule: mergeReplace, sets: []string{"shm-size"}, use: forBuild,
		ops: text(func(t *wireTarget) **string { return &t.ShmSize }),
	},
	{
		name: "ulimits", kind: "list of name=soft:hard", rule: mergeAppend, sets: []string{"ulimit", "ulimits"}, multi: true, use: forBuild,
		ops: list(func(t *wireTarget) *[]string { return &t.Ulimits }),
	},
	{
		name: "resources", kind: "object", rule: mergeFields, sets: []string{"resource", "resources"}, sub: needsSubkey,
		use: forBuild, ops: resources(),
	},
	{
		name: "call", kind: "string", rule: mergeReplace, sets: []string{"call"}, use: forBuild,
		ops: text(func(t *wireTarget) **string { return &t.Call }),
	},
	{
		name: "entitlements", kind: "list of strings", rule: mergeAppend, sets: []string{"entitlement", "entitlements"}, multi: true,
		use: forBuild,
		ops: always(list(func(t *wireTarget) *[]string { return &t.Entitlements })),
	},
	{
		name: "extra-hosts", kind: "map of addresses", rule: mergeKeys, sets: []string{"extra-host", "extra-hosts"}, sub: needsSubkey, use: forBuild,
		ops: table(func(t *wireTarget) *map[string]*string { return &t.ExtraHosts }),
	},
	{
		name: "policy", kind: "list of policies", rule: mergeAppend, sets: []string{"policy"}, multi: true,
		use: notYet, effect: "no policy is enforced", ops: policies(),
	},

	{name: "cache-mount", kind: "blocks with a name", rule: mergeKeys, use: forBuild, ours: true, project: true, ops: cacheMounts()},
	{
		name: "retries", kind: "number", rule: mergeReplace, sets: []string{"retries"}, use: forBuild, ours: true, project: true,
		ops: value(func(t *wireTarget) **int { return &t.Retries }, parseInt),
	},
	{
		name: "retry-delay", kind: "duration", rule: mergeReplace, sets: []string{"retry-delay"}, use: forBuild, ours: true, project: true,
		ops: text(func(t *wireTarget) **string { return &t.RetryDelay }),
	},
	{
		name: "default-registry", kind: "string", rule: mergeReplace, sets: []string{"default-registry"}, use: forBuild, ours: true, project: true,
		ops: text(func(t *wireTarget) **string { return &t.DefaultRegistry }),
	},
	{
		name: "format", kind: "oci or docker", rule: mergeReplace, sets: []string{"format"}, use: forBuild, ours: true, project: true,
		ops: text(func(t *wireTarget) **string { return &t.Format }),
	},
	{
		name: "squash", kind: "bool", rule: mergeReplace, sets: []string{"squash"}, use: forBuild, ours: true, project: true,
		ops: value(func(t *wireTarget) **bool { return &t.Squash }, parseBool),
	},
	{
		name: "depends-on", kind: "list of targets", rule: mergeAppend, sets: []string{"depends-on"}, multi: true, use: forBuild, ours: true,
		ops: list(func(t *wireTarget) *[]string { return &t.DependsOn }),
	},
	{name: "watch", kind: "block", rule: mergeFields, use: forWatch, ours: true, project: true, ops: watching()},
}

// attributeNames are the names of the attributes for which keep is true.
func attributeNames(keep func(*attribute) bool) []string {
	var names []string
	for i := range attributes {
		if keep(&attributes[i]) {
			names = append(names, attributes[i].name)
		}
	}
	return names
}

func bakeAttribute(a *attribute) bool { return !a.ours }
func ourAttribute(a *attribute) bool  { return a.ours }
func attributeNamed(name string) *attribute {
	for i := range attributes {
		if attributes[i].name == name {
			return &attributes[i]
		}
	}
	return nil
}

// setKeys are all keys that --set takes, aliases left out.
func setKeys() []string {
	keys := []string{"push", "load"}
	for i := range attributes {
		keys = append(keys, attributes[i].sets...)
	}
	slices.SortFunc(keys, strings.Compare)
	return keys
}
