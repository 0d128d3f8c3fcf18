//go:build linux

package buildah

// What other machines have built: read from a registry, and unpacked into layers
// as if a step had made them.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/pkg/blobinfocache"
	"go.podman.io/image/v5/types"

	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/runner"
)

// Fetch opens what a name stands for in a registry.
func (e *Engine) Fetch(ctx context.Context, name string, insecure bool) (pack.Source, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("the name %q: %w", name, err)
	}
	ref, err := docker.NewReference(reference.TagNameOnly(trimTag(named)))
	if err != nil {
		return nil, err
	}
	sys := e.systemFor(named, ocispecs.Platform{})
	if insecure {
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	f := &fetched{e: e, name: named, cache: blobinfocache.DefaultCache(e.system), open: func(ctx context.Context) (src types.ImageSource, err error) {
		err = e.persist(ctx, func() (err error) {
			src, err = patientReference{ImageReference: ref, patience: e.patience}.NewImageSource(ctx, sys)
			return err
		})
		return src, err
	}}
	if f.src, err = f.open(ctx); err != nil {
		return nil, advise(err, named)
	}
	return f, nil
}

type fetched struct {
	e     *Engine
	name  reference.Named
	cache types.BlobInfoCache
	open  func(context.Context) (types.ImageSource, error)

	mu  sync.Mutex
	src types.ImageSource
}

// ask makes a request. The leave that was given when the source was opened may have run
// out by then: it is opened anew.
func (f *fetched) ask(ctx context.Context, request func(types.ImageSource) error) error {
	f.mu.Lock()
	src := f.src
	f.mu.Unlock()
	err := f.e.persist(ctx, func() error { return request(src) })
	if err == nil || ctx.Err() != nil || !unauthorized(err) && !denied(err) {
		return advise(err, f.name)
	}
	if src, err = f.renew(ctx, src); err == nil {
		err = f.e.persist(ctx, func() error { return request(src) })
	}
	if unauthorized(err) {
		err = &expiredError{err}
	}
	return advise(err, f.name)
}

// renew opens the source anew, unless somebody else has done so.
func (f *fetched) renew(ctx context.Context, old types.ImageSource) (types.ImageSource, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.src != old {
		return f.src, nil
	}
	src, err := f.open(ctx)
	if err == nil {
		f.src = src
	}
	return src, err
}

// Manifest is for pack.Source.
func (f *fetched) Manifest(ctx context.Context, instance digest.Digest) (data []byte, err error) {
	var which *digest.Digest
	if instance != "" {
		which = &instance
	}
	err = f.ask(ctx, func(src types.ImageSource) (err error) {
		data, _, err = src.GetManifest(ctx, which)
		return err
	})
	if err != nil || instance == "" {
		return data, err
	}
	if ok, err := manifest.MatchesDigest(data, instance); err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("the registry's answer for %s is something else", instance), err)
	}
	return data, nil
}

// Blob is for pack.Source.
func (f *fetched) Blob(ctx context.Context, desc ocispecs.Descriptor) (in io.ReadCloser, err error) {
	err = f.ask(ctx, func(src types.ImageSource) (err error) {
		in, _, err = src.GetBlob(ctx, types.BlobInfo{Digest: desc.Digest, Size: desc.Size, MediaType: desc.MediaType}, f.cache)
		return err
	})
	return in, err
}

// Layer gives what lies between two snapshots as a layer.
func (e *Engine) Layer(ctx context.Context, below, s runner.Snapshot) (pack.Layer, error) {
	l, err := e.digest(ctx, below, s, nil)
	if err != nil {
		return pack.Layer{}, err
	}
	return e.stepLayer(below, s, l, nil), nil
}

// Unpack makes a snapshot of a layer on another one.
func (e *Engine) Unpack(ctx context.Context, below runner.Snapshot, l pack.Layer) (runner.Snapshot, error) {
	// All of it is here, and known to be right, before any of it is unpacked.
	in, err := l.Open(ctx)
	if err != nil {
		return "", err
	}
	sum := digest.Canonical.Digester()
	tar, err := e.spool(io.TeeReader(in, sum.Hash()))
	if err = errors.Join(err, in.Close()); err == nil && sum.Digest() != l.DiffID {
		err = fmt.Errorf("layer %s is %s", l.DiffID, sum.Digest())
	}
	if err != nil {
		if tar != nil {
			tar.Close()
		}
		return "", err
	}
	defer tar.Close()
	layer, err := e.newLayer(below)
	if err != nil {
		return "", err
	}
	defer layer.drop()
	// It is written to without the overlay between, which knows nothing of that.
	if err := e.unmount(layer.id); err != nil {
		return "", fmt.Errorf("unmounting a layer: %w", err)
	}
	if _, err := e.store.ApplyDiff(layer.id, tar); err != nil {
		return "", fmt.Errorf("unpacking layer %s: %w", l.DiffID, err)
	}
	if err := e.finished(layer.id); err != nil {
		return "", err
	}
	layer.done = true
	return runner.Snapshot(layer.id), nil
}
