package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/docker/buildx/util/buildflags"
)

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
