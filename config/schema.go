package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
		use: notYet, effect: "the image gets no annotations",
		ops: always(list(func(t *wireTarget) *[]string { return &t.Annotations })),
	},
	{
		name: "attest", kind: "list of attestations", rule: mergeElement, sets: []string{"attest"}, multi: true,
		use: notYet, effect: "no attestation is made",
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
		use: notYet, effect: "no cache is imported",
		ops: caches(func(t *wireTarget) *buildflags.CacheOptions { return &t.CacheFrom }),
	},
	{
		name: "cache-to", kind: "list of caches", rule: mergeReplace, sets: []string{"cache-to"}, multi: true,
		use: notYet, effect: "no cache is exported",
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
		name: "ssh", kind: "list of agents or keys", rule: mergeElement, sets: []string{"ssh"}, multi: true,
		use: notYet, effect: "no step can use an agent or a key",
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
		ops: value(func(t *wireTarget) **wirePull { return &t.Pull }, parsePull),
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
		use: notYet, effect: "no limit is set", ops: resources(),
	},
	{
		name: "call", kind: "string", rule: mergeReplace, sets: []string{"call"},
		use: notYet, effect: "the target is built", ops: text(func(t *wireTarget) **string { return &t.Call }),
	},
	{
		name: "entitlements", kind: "list of strings", rule: mergeAppend, sets: []string{"entitlement", "entitlements"}, multi: true,
		use: notYet, effect: "no step gets more rights",
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

// value is a field that is nil until it is set, and replaced as a whole.
func value[T any](field func(*wireTarget) **T, parse func(string) (*T, error)) ops {
	return ops{
		has:   func(t *wireTarget) bool { return *field(t) != nil },
		merge: func(t, from *wireTarget) { *field(t) = *field(from) },
		set: func(t *wireTarget, o *override) error {
			v, err := parse(o.last())
			if err == nil {
				*field(t) = v
			}
			return err
		},
	}
}

func text(field func(*wireTarget) **string) ops {
	return value(field, func(s string) (*string, error) { return &s, nil })
}

func parseBool(s string) (*bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not a bool", s)
	}
	return &b, nil
}

func parseInt(s string) (*int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not a number", s)
	}
	return &n, nil
}

// list is a list of strings that later ones are appended to.
func list(field func(*wireTarget) *[]string) ops {
	return ops{
		has: func(t *wireTarget) bool { return *field(t) != nil },
		merge: func(t, from *wireTarget) {
			// An empty list is not nil: it says that there are no elements.
			*field(t) = append(append([]string{}, *field(t)...), *field(from)...)
		},
		set: func(t *wireTarget, o *override) error {
			if !o.add {
				*field(t) = nil
			}
			*field(t) = slices.Concat(*field(t), o.values)
			return nil
		},
	}
}

// replaced is o, but merged by replacement.
func replaced[S ~[]E, E any](field func(*wireTarget) *S, o ops) ops {
	o.merge = func(t, from *wireTarget) { *field(t) = slices.Clone(*field(from)) }
	return o
}

func tagsOf(t *wireTarget) *[]string                   { return &t.Tags }
func platformsOf(t *wireTarget) *[]string              { return &t.Platforms }
func outputsOf(t *wireTarget) *buildflags.Exports      { return &t.Outputs }
func cacheToOf(t *wireTarget) *buildflags.CacheOptions { return &t.CacheTo }

// always is o, but --set adds also without +=, and only an empty value clears.
func always(o ops) ops {
	set := o.set
	o.set = func(t *wireTarget, over *override) error {
		added := *over
		added.add = !over.clear
		return set(t, &added)
	}
	return o
}

// table is a map of strings, in which nil means that nothing is said.
func table(field func(*wireTarget) *map[string]*string) ops {
	return ops{
		has: func(t *wireTarget) bool { return *field(t) != nil },
		merge: func(t, from *wireTarget) {
			*field(t) = withKeys(*field(t), *field(from), func(v *string) bool { return v != nil })
		},
		set: func(t *wireTarget, o *override) error {
			v := o.last()
			*field(t) = withKey(*field(t), o.sub, &v)
			return nil
		},
		keys: func(t *wireTarget) []string { return slices.Sorted(maps.Keys(*field(t))) },
	}
}

// withKeys is a copy of the map, as targets share maps, with those keys of other
// set whose value is to be kept. It is nil if it is empty.
func withKeys[M ~map[string]V, V any](m, other M, keep func(V) bool) M {
	result := make(M, len(m)+len(other))
	maps.Copy(result, m)
	for key, v := range other {
		if keep(v) {
			result[key] = v
		}
	}
	if len(result) == 0 {
		return nil
	}
	return result
}

// withKey is a copy of the map with one key set.
func withKey[M ~map[string]V, V any](m M, key string, v V) M {
	return withKeys(m, M{key: v}, func(V) bool { return true })
}

func contexts() ops {
	return ops{
		has: func(t *wireTarget) bool { return t.Contexts != nil },
		merge: func(t, from *wireTarget) {
			t.Contexts = withKeys(t.Contexts, from.Contexts, func(string) bool { return true })
		},
		set: func(t *wireTarget, o *override) error {
			t.Contexts = withKey(t.Contexts, o.sub, o.last())
			return nil
		},
		keys: func(t *wireTarget) []string { return slices.Sorted(maps.Keys(t.Contexts)) },
	}
}

func cacheMounts() ops {
	return ops{
		has: func(t *wireTarget) bool { return t.CacheMounts != nil },
		merge: func(t, from *wireTarget) {
			t.CacheMounts = withKeys(t.CacheMounts, from.CacheMounts, func(*wireCacheMount) bool { return true })
		},
		keys: func(t *wireTarget) []string { return slices.Sorted(maps.Keys(t.CacheMounts)) },
	}
}

// composite is a list of elements that are written as objects or in the syntax
// of buildx's flags.
func composite[T any, P interface {
	*T
	UnmarshalText([]byte) error
}, S interface {
	~[]*T
	Merge(S) S
}](field func(*wireTarget) *S) ops {
	return ops{
		has:   func(t *wireTarget) bool { return *field(t) != nil },
		merge: func(t, from *wireTarget) { *field(t) = slices.Clone(*field(t)).Merge(slices.Clone(*field(from))) },
		set: func(t *wireTarget, o *override) error {
			var elements S
			for _, s := range o.values {
				if s == "" {
					continue
				}
				element := P(new(T))
				if err := element.UnmarshalText([]byte(s)); err != nil {
					return err
				}
				elements = append(elements, element)
			}
			if o.add {
				elements = slices.Clone(*field(t)).Merge(elements)
			}
			*field(t) = elements
			return nil
		},
	}
}

func caches(field func(*wireTarget) *buildflags.CacheOptions) ops {
	o := composite[buildflags.CacheOptionsEntry](field)
	o.set = func(t *wireTarget, over *override) error {
		entries, err := buildflags.ParseCacheEntry(over.values)
		if err != nil {
			return err
		}
		if over.add {
			entries = slices.Clone(*field(t)).Merge(entries)
		}
		*field(t) = entries
		return nil
	}
	return o
}

func secrets() ops {
	o := composite[buildflags.Secret](func(t *wireTarget) *buildflags.Secrets { return &t.Secrets })
	setAll := o.set
	o.set = func(t *wireTarget, over *override) error {
		if over.sub == "" {
			return setAll(t, over)
		}
		return setSecret(t, over.sub, over.last())
	}
	o.keys = func(t *wireTarget) []string {
		var ids []string
		for _, s := range t.Secrets {
			ids = append(ids, s.ID)
		}
		return ids
	}
	return o
}

// setSecret changes where a secret that the target has comes from.
func setSecret(t *wireTarget, id, value string) error {
	i := slices.IndexFunc(t.Secrets, func(s *buildflags.Secret) bool { return s.ID == id })
	if i < 0 {
		return fmt.Errorf("the target has no secret with the id %q", id)
	}
	next := &buildflags.Secret{}
	if err := next.UnmarshalText([]byte(value)); err != nil {
		return err
	}
	if next.ID != "" && next.ID != id {
		return fmt.Errorf("the id of a secret cannot be changed from %q to %q", id, next.ID)
	}
	next.ID = id
	t.Secrets = slices.Clone(t.Secrets)
	t.Secrets[i] = next
	return nil
}

func resources() ops {
	o := value(func(t *wireTarget) **buildflags.ResourcesConfig { return &t.Resources }, nil)
	o.merge = func(t, from *wireTarget) { t.Resources = t.Resources.Merge(from.Resources) }
	o.set = func(t *wireTarget, over *override) error {
		merged := t.Resources.Merge(nil)
		t.Resources = merged
		return merged.SetField(over.sub, over.last())
	}
	return o
}

func policies() ops {
	return ops{
		has: func(t *wireTarget) bool { return t.Policy != nil },
		merge: func(t, from *wireTarget) {
			// bake leaves doubles in, and so the list doubles with each diamond
			// of inherits. There has to be an end.
			const most = 1000
			t.Policy = slices.Concat(t.Policy, from.Policy)
			t.Policy = t.Policy[:min(len(t.Policy), most)]
		},
		set: func(t *wireTarget, o *override) error {
			if !o.add {
				t.Policy = nil
			}
			var errs []error
			for _, s := range o.values {
				p, err := buildflags.ParsePolicyConfig(s)
				errs = append(errs, err)
				t.Policy = slices.Concat(t.Policy, []buildflags.PolicyConfig{p})
			}
			return errors.Join(errs...)
		},
	}
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
