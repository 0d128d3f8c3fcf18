//go:build linux

package buildah

// Base images that lie in a directory, as an OCI image layout.

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/oci/layout"
	is "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"

	"github.com/zbuild/zbuild/planner"
)

// layoutImage resolves an image of a layout. Its reference has the digest that the
// layout's index gave it.
func (e *Engine) layoutImage(ctx context.Context, req planner.ImageRequest) (*planner.BaseImage, error) {
	named, err := reference.ParseNormalizedNamed(req.Ref)
	if err != nil {
		return nil, err
	}
	digested, ok := named.(reference.Digested)
	if !ok {
		return nil, fmt.Errorf("%s has no digest", req.Ref)
	}
	ref, err := inLayout(req.Layout, digested.Digest())
	if err != nil {
		return nil, err
	}
	img, err := readImage(ctx, ref, named, e.systemFor(named, req.Platform))
	if err != nil {
		return nil, err
	}
	img.Layout = req.Layout
	return img, nil
}

// inLayout refers to the image of a layout that has a digest in its index.
func inLayout(dir string, d digest.Digest) (types.ImageReference, error) {
	raw, err := os.ReadFile(filepath.Join(dir, ocispecs.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	var index ocispecs.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, ocispecs.ImageIndexFile), err)
	}
	for i, m := range index.Manifests {
		if m.Digest == d {
			return layout.NewIndexReference(dir, i)
		}
	}
	return nil, fmt.Errorf("%s has no image %s", dir, d)
}

// layoutCopy says where an image of a layout is copied from and to. In the store it
// has no name: the layout's is nobody's but the layout's.
func (e *Engine) layoutCopy(img *planner.BaseImage) (src, dst types.ImageReference, err error) {
	if src, err = inLayout(img.Layout, img.Digest); err != nil {
		return nil, nil, err
	}
	dst, err = is.Transport.NewStoreReference(e.store, nil, img.ConfigDigest.Encoded())
	return src, dst, err
}
