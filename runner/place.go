package runner

// Where caches of other machines are: a registry, a directory, a bucket.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/internal/s3cache"
	"github.com/zbuild/zbuild/internal/stepcache"
)

// cacheID tells places apart.
func cacheID(c config.Cache) string {
	raw, _ := json.Marshal([]any{c.Type, c.Dir, c.Attrs["ref"], c.Attrs["tag"], c.Attrs["digest"], c.Attrs["bucket"], c.Attrs["endpoint_url"], c.Attrs["prefix"], c.Attrs["manifests_prefix"], c.Attrs["name"]})
	return string(raw)
}

// cacheName is a place, for people.
func cacheName(c config.Cache) string {
	return cmp.Or(c.Attrs["ref"], c.Dir, c.Attrs["bucket"], c.Type)
}

// defaultTag is that of a local cache that is not told another one, as BuildKit has
// it.
const defaultTag = "latest"

// openCache opens a cache, which may be several objects.
func (r *run) openCache(ctx context.Context, c config.Cache) ([]pack.Source, error) {
	var src pack.Source
	var err error
	switch c.Type {
	case "registry":
		src, err = r.opt.Engine.Fetch(ctx, c.Attrs["ref"], isTrue(c.Attrs["registry.insecure"]))
	case "local":
		src, err = pack.OpenLayout(c.Dir, cmp.Or(c.Attrs["tag"], defaultTag), digest.Digest(c.Attrs["digest"]))
	case typeS3:
		bucket, err := r.bucket(ctx, c)
		if err != nil {
			return nil, err
		}
		return bucket.Sources(), nil
	default:
		err = errNoCache(c)
	}
	return []pack.Source{src}, err
}

// typeS3 is that of caches in buckets.
const typeS3 = "s3"

func errNoCache(c config.Cache) error {
	return fmt.Errorf("caches of type %s are not available yet", c.Type)
}

// bucket opens a cache of type s3.
func (r *run) bucket(ctx context.Context, c config.Cache) (*s3cache.Cache, error) {
	if r.opt.Bucket == nil {
		return nil, errNoCache(c)
	}
	o, err := s3cache.Parse(c.Attrs)
	if err != nil {
		return nil, err
	}
	return r.opt.Bucket(ctx, o)
}

func isTrue(s string) bool {
	b, err := strconv.ParseBool(s)
	return err == nil && b
}

// writeCache brings what was collected to its place.
func (r *run) writeCache(ctx context.Context, c config.Cache, b *stepcache.Builder[pack.Blob]) error {
	raw, err := json.Marshal(b.Config())
	if err != nil {
		return err
	}
	bundle, err := pack.Artifact(stepcache.ArtifactType, stepcache.ConfigType, raw, b.Blobs)
	if err != nil {
		return err
	}
	switch c.Type {
	case "registry":
		ref, insecure := c.Attrs["ref"], isTrue(c.Attrs["registry.insecure"])
		for _, repository := range repositories([]string{ref}) {
			if err := r.opt.Engine.Upload(ctx, bundle, repository, insecure); err != nil {
				return err
			}
		}
		return r.opt.Engine.Publish(ctx, bundle, ref, insecure)
	case "local":
		r.layouts.Lock()
		defer r.layouts.Unlock()
		err := bundle.WriteTagged(ctx, c.Dir, cmp.Or(c.Attrs["tag"], defaultTag))
		if err != nil || !isTrue(c.Attrs["reset"]) {
			return err
		}
		busy, err := pack.Reset(ctx, c.Dir)
		if busy {
			err = errors.New("somebody else is writing to it")
		}
		if err != nil && ctx.Err() == nil {
			r.warn(nil, fmt.Errorf("what the cache %s does not need any more stays in it: %w", c.Dir, err))
		}
		return context.Cause(ctx)
	case typeS3:
		bucket, err := r.bucket(ctx, c)
		if err != nil {
			return err
		}
		return bucket.Write(ctx, bundle)
	}
	return errNoCache(c)
}
