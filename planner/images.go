package planner

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

var errNoImages = errors.New("no image store is at hand")

// imageError is a base image that cannot be had.
type imageError struct {
	ref      string // normalised
	platform ocispecs.Platform
	err      error
}

func (e *imageError) Error() string { return e.err.Error() }
func (e *imageError) Unwrap() error { return e.err }

// images resolves each image once per plan: two targets that name it get the
// same one, also when a tag moves meanwhile.
type images struct {
	from Images
	// ctx is that of the whole plan. The frontend's own is canceled by the first
	// failure, and would make it a matter of chance what the others see.
	ctx context.Context

	known memo[imageKey, *BaseImage]
}

type imageKey struct {
	ref, platform, pull, registry, layout string

	explicit bool
}

func newImages(ctx context.Context, from Images) *images {
	return &images{from: from, ctx: ctx}
}

func (im *images) resolve(req ImageRequest) (*BaseImage, error) {
	key := imageKey{
		ref: req.Ref, platform: platforms.FormatAll(req.Platform), pull: string(req.Pull),
		registry: req.DefaultRegistry, explicit: req.Explicit, layout: req.Layout,
	}
	return im.known.get(key, func() (*BaseImage, error) {
		img, err := im.from.Resolve(im.ctx, req)
		if err == nil {
			img, err = checkImage(img, req)
		}
		if err != nil {
			return nil, &imageError{ref: req.Ref, platform: req.Platform, err: err}
		}
		return img, nil
	})
}

// checkImage completes what an engine says of an image.
func checkImage(img *BaseImage, req ImageRequest) (*BaseImage, error) {
	out := *img
	if out.Ref == "" {
		out.Ref = req.Ref
	}
	if out.Digest == "" {
		out.Digest = out.ConfigDigest // an image without a manifest is still one image
	}
	if out.Platform.OS == "" {
		out.Platform = req.Platform
	}
	if err := out.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("image %s has no digest: %w", out.Ref, err)
	}
	named, err := reference.ParseNormalizedNamed(out.Ref)
	if err != nil {
		return nil, fmt.Errorf("image name %q: %w", out.Ref, err)
	}
	if d, ok := named.(reference.Digested); ok {
		// Ref is without the digest.
		out.Ref = named.Name()
		if t, ok := named.(reference.Tagged); ok {
			out.Ref += ":" + t.Tag()
		}
		if d.Digest().Validate() != nil {
			return nil, fmt.Errorf("image name %q: invalid digest", img.Ref)
		}
	}
	return &out, nil
}

// pinned is an image's name with its digest. Tags are left out, so that one image
// under two tags is one image.
func pinned(img *BaseImage) string {
	named, err := reference.ParseNormalizedNamed(img.Ref)
	if err != nil {
		return img.Ref // cannot be: see checkImage
	}
	return named.Name() + "@" + img.Digest.String()
}

// imagePin is what the frontend makes of an image: a name with a digest, and a
// platform.
type imagePin struct{ ref, platform string }

// pins are the images that one conversion asked for. It may ask for several at
// once.
type pins struct {
	mu    sync.Mutex
	known map[imagePin]*BaseImage
}

func (p *pins) add(img *BaseImage, platform ocispecs.Platform) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pin := imagePin{pinned(img), platforms.FormatAll(platforms.Normalize(platform))}
	if p.known == nil {
		p.known = make(map[imagePin]*BaseImage)
	}
	// Whichever came first is a matter of chance; the name is not.
	if old := p.known[pin]; old == nil || img.Ref < old.Ref {
		p.known[pin] = img
	}
}

// find gives the image that an image source of the frontend's stands for.
func (p *pins) find(ref string, platform ocispecs.Platform) *BaseImage {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil
	}
	var dgst digest.Digest
	if d, ok := named.(reference.Digested); ok {
		dgst = d.Digest()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[imagePin{named.Name() + "@" + dgst.String(), platforms.FormatAll(platforms.Normalize(platform))}]
}
