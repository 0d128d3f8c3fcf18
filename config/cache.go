package config

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/buildx/util/buildflags"
	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/internal/s3cache"
)

// cacheTypes are the types of caches, and what each of them needs to be read and
// to be written.
var cacheTypes = map[string]struct{ from, to string }{
	"registry": {"ref", "ref"},
	"local":    {"src", "dest"},
	"inline":   {},
	"s3":       {},
	"gha":      {},
	"azblob":   {},
}

// caches are what cache-from or cache-to name.
func (r *resolver) caches(t *wireTarget, attribute string, entries buildflags.CacheOptions) []Cache {
	var out []Cache
	for i, e := range entries {
		at := t.whereIndex(attribute, i, len(entries))
		c := Cache{Type: e.Type, Attrs: maps.Clone(e.Attrs)}
		switch mode := e.Attrs["mode"]; mode {
		case "", "min":
		case "max":
			c.Max = true
		default:
			r.cacheError(at, attribute, e, "The mode is min or max, not "+strconv.Quote(mode)+".")
		}
		if e.Type == "gha" || e.Type == "azblob" {
			r.notYetCache(at, attribute, e)
			continue
		}
		r.checkCache(t, attribute, at, e, &c)
		out = append(out, c)
	}
	return out
}

// withInline adds an inline cache to others if the argument asks for one by which there
// was one before there was cache-to.
func withInline(t *wireTarget, all []Cache) []Cache {
	v := t.Args["BUILDKIT_INLINE_CACHE"]
	if v == nil || slices.ContainsFunc(all, func(c Cache) bool { return c.Type == "inline" }) {
		return all
	}
	if wanted, err := strconv.ParseBool(*v); err != nil || !wanted {
		return all
	}
	return append(all, Cache{Type: "inline"})
}

func (r *resolver) cacheError(at *hcl.Range, attribute string, e *buildflags.CacheOptionsEntry, detail string) {
	if !r.req.EvaluateOnly {
		r.errorf(at, "Invalid "+attribute, "The cache %s: %s", withoutSecrets(e), detail)
	}
}

// withoutSecrets is an entry as it may be shown.
func withoutSecrets(e *buildflags.CacheOptionsEntry) *buildflags.CacheOptionsEntry {
	shown := &buildflags.CacheOptionsEntry{Type: e.Type, Attrs: maps.Clone(e.Attrs)}
	for _, key := range []string{"secret_access_key", "session_token", "access_key_id", "token"} {
		if shown.Attrs[key] != "" {
			shown.Attrs[key] = "***"
		}
	}
	return shown
}

func (r *resolver) checkCache(t *wireTarget, attribute string, at *hcl.Range, e *buildflags.CacheOptionsEntry, c *Cache) {
	to := attribute == "cache-to"
	kind, known := cacheTypes[e.Type]
	needs := kind.from
	if to {
		needs = kind.to
	}
	switch {
	case !known:
		r.cacheError(at, attribute, e, "There is no cache of type "+strconv.Quote(e.Type)+"."+didYouMean(e.Type, slices.Sorted(maps.Keys(cacheTypes))))
		return
	case e.Type == "inline" && !to:
		r.cacheError(at, attribute, e, "Read an inline cache from the image that has it: type=registry,ref=IMAGE.")
		return
	case needs != "" && e.Attrs[needs] == "":
		r.cacheError(at, attribute, e, "It needs "+needs+".")
		return
	}
	for _, name := range []string{"ignore-error", "force-compression", "oci-mediatypes", "image-manifest", "reset", "registry.insecure"} {
		b, ok := e.Attrs[name]
		if _, err := strconv.ParseBool(b); ok && err != nil && (b != "" || name != "force-compression") {
			r.cacheError(at, attribute, e, name+" is true or false.")
		}
	}
	if to && (e.Type == "registry" || e.Type == "local") {
		r.checkCacheForm(attribute, at, e)
	}
	if e.Type == "s3" {
		r.checkS3(attribute, at, e, c)
	}
	if e.Type != "local" {
		return
	}
	c.Dir = joinPath(r.base(at.Filename), e.Attrs[needs])
	if t.from[attribute].set {
		return
	}
	if to {
		r.checkWrite(at, "A cache of target "+t.Name, c.Dir)
	} else {
		r.checkRead(at, "A cache of target "+t.Name, c.Dir)
	}
}

// checkCacheForm looks at how a cache is to be written. It is always an image manifest
// with media types of OCI's, which is what there is without these attributes.
func (r *resolver) checkCacheForm(attribute string, at *hcl.Range, e *buildflags.CacheOptionsEntry) {
	if c, ok := e.Attrs["compression"]; ok && !slices.Contains([]string{"gzip", "estargz", "zstd", "uncompressed"}, c) {
		r.cacheError(at, attribute, e, "The compression is gzip, estargz, zstd or uncompressed.")
	}
	if l, ok := e.Attrs["compression-level"]; ok {
		if _, err := strconv.Atoi(l); err != nil {
			r.cacheError(at, attribute, e, "The compression-level is a number.")
		}
	}
	oci, err := strconv.ParseBool(e.Attrs["oci-mediatypes"])
	image, err2 := strconv.ParseBool(e.Attrs["image-manifest"])
	if err == nil && err2 == nil && image && !oci {
		r.cacheError(at, attribute, e, "An image-manifest has OCI's media types: leave oci-mediatypes=false out.")
	}
}

// checkS3 fills in what BuildKit takes from the environment and checks the rest.
func (r *resolver) checkS3(attribute string, at *hcl.Range, e *buildflags.CacheOptionsEntry, c *Cache) {
	if c.Attrs == nil {
		c.Attrs = make(map[string]string)
	}
	for key, name := range map[string]string{"bucket": "AWS_BUCKET", "region": "AWS_REGION"} {
		if v, _ := r.req.LookupEnv(name); c.Attrs[key] == "" && v != "" {
			c.Attrs[key] = v
		}
	}
	if c.Attrs["bucket"] == "" {
		r.cacheError(at, attribute, e, "It needs bucket, or the variable AWS_BUCKET.")
		return
	}
	if _, err := s3cache.Parse(c.Attrs); err != nil {
		r.cacheError(at, attribute, e, "Its "+strings.ReplaceAll(err.Error(), "\n", "; its ")+".")
	}
}

// notYetCache warns of a kind of cache that this release does not have: the images
// are the same without it.
func (r *resolver) notYetCache(at *hcl.Range, attribute string, e *buildflags.CacheOptionsEntry) {
	if !r.req.EvaluateOnly {
		r.warnf(at, attribute+" of type "+e.Type+" is not available yet",
			"This release has registry, local, s3 and inline. The build goes on without this one.")
	}
}
