package config

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// wireCacheMounts are cache mounts by name.
type wireCacheMounts map[string]*wireCacheMount

// wireCacheMount is the body of a cache-mount block: the attributes that are
// written, as text.
type wireCacheMount map[string]string

// FromCtyValue is part of hclparser's protocol.
func (m *wireCacheMounts) FromCtyValue(in cty.Value, at cty.Path) error {
	if in.IsNull() || !in.IsKnown() || !in.Type().IsObjectType() && !in.Type().IsMapType() {
		return at.NewErrorf("cache-mount is a block with a name")
	}
	*m = wireCacheMounts{}
	mounts := in.AsValueMap()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(mounts)) {
		mount, err := decodeCacheMount(name, mounts[name])
		errs = append(errs, err)
		(*m)[name] = mount
	}
	if err := errors.Join(errs...); err != nil {
		return at.NewError(err)
	}
	return nil
}

func decodeCacheMount(name string, in cty.Value) (*wireCacheMount, error) {
	// JSON has a list where a block may be repeated.
	if !in.IsNull() && (in.Type().IsTupleType() || in.Type().IsListType()) && in.LengthInt() == 1 {
		in = in.AsValueSlice()[0]
	}
	if in.IsNull() || !in.IsKnown() || !in.Type().IsObjectType() && !in.Type().IsMapType() {
		return nil, fmt.Errorf("the cache-mount %q has to be one object", name)
	}
	mount := wireCacheMount{}
	cacheMountAttributes := formNamed("cache-mount").attributes()
	values := in.AsValueMap()
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(cacheMountAttributes, key) {
			errs = append(errs, fmt.Errorf("the cache-mount %q cannot have an attribute %q.%s", name, key, didYouMean(key, cacheMountAttributes)))
			continue
		}
		if values[key].IsNull() {
			continue
		}
		value, err := convert.Convert(values[key], cty.String)
		if err != nil || !value.IsKnown() {
			errs = append(errs, fmt.Errorf("%s of the cache-mount %q has to be a string or a number", key, name))
			continue
		}
		mount[key] = value.AsString()
	}
	return &mount, errors.Join(errs...)
}

// cacheMountType is what an expression sees of cache mounts.
var cacheMountType = cty.Map(cty.Map(cty.String))

// ToCtyValue is part of hclparser's protocol.
func (m wireCacheMounts) ToCtyValue() cty.Value {
	if len(m) == 0 {
		return cty.MapValEmpty(cacheMountType.ElementType())
	}
	mounts := map[string]cty.Value{}
	for name, mount := range m {
		values := map[string]cty.Value{}
		for key, value := range *mount {
			values[key] = cty.StringVal(value)
		}
		mounts[name] = cty.MapValEmpty(cty.String)
		if len(values) > 0 {
			mounts[name] = cty.MapVal(values)
		}
	}
	return cty.MapVal(mounts)
}

// resolve checks a cache mount's attributes.
func (m wireCacheMount) resolve(name string) (CacheMount, error) {
	mount := CacheMount{Name: name, Target: m["target"], ID: m["id"], Sharing: m["sharing"], Mode: 0o755}
	var errs []error
	if !path.IsAbs(mount.Target) {
		errs = append(errs, fmt.Errorf("target has to be an absolute path in the container, not %q", mount.Target))
	}
	if mount.ID == "" {
		mount.ID = mount.Target
	}
	switch mount.Sharing {
	case "":
		mount.Sharing = "shared"
	case "shared", "private", "locked":
	default:
		errs = append(errs, fmt.Errorf(`sharing has to be "shared", "private" or "locked", not %q`, mount.Sharing))
	}
	number := func(key string, base int, limit, fallback int64) int64 {
		text, ok := m[key]
		if !ok {
			return fallback
		}
		n, err := strconv.ParseInt(text, base, 64)
		if err != nil || n < 0 || n > limit {
			kind := "a number"
			if base == 8 {
				kind = "permission bits in octal, such as 0755,"
			}
			errs = append(errs, fmt.Errorf("%s has to be %s not below 0 nor above %s, not %q", key, kind, strconv.FormatInt(limit, base), text))
		}
		return n
	}
	mount.UID = int(number("uid", 10, 1<<31-1, 0))
	mount.GID = int(number("gid", 10, 1<<31-1, 0))
	mount.Mode = uint32(number("mode", 8, 0o7777, 0o755))
	return mount, errors.Join(errs...)
}
