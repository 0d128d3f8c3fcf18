//go:build linux

package buildah

// The layers of a base image lie unpacked in the store. The registry that it came
// from has them compressed: if they leave in that form, registries have them
// already, and share them between images.

import (
	"context"
	"io"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/storage"

	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/planner"
)

// origins are a base image's layers as the registry has them that it came from,
// lowest first, nil for one that is not known to be anywhere. It is nil if none is.
func (e *Engine) origins(base *planner.BaseImage, layers int) []*pack.Origin {
	named, err := reference.ParseNormalizedNamed(base.Ref)
	if err != nil || base.Layout != "" || reference.Domain(named) == "localhost" {
		return nil
	}
	pinned, err := reference.WithDigest(reference.TrimNamed(named), base.Digest)
	if err != nil {
		return nil
	}
	described := e.described(base)
	if len(described) != layers {
		return nil
	}
	out := make([]*pack.Origin, layers)
	for i, d := range described {
		if d.MediaType == "" {
			continue
		}
		out[i] = &pack.Origin{Descriptor: d, Open: func(ctx context.Context) (io.ReadCloser, error) {
			return e.openOrigin(ctx, pinned, d)
		}}
	}
	return out
}

// described are the layers that a base image's manifest speaks of. One that is not
// compressed, or in a way that is not known, has no media type. It is nil if the
// manifest is not at hand.
func (e *Engine) described(base *planner.BaseImage) []ocispecs.Descriptor {
	var raw []byte
	for _, id := range []string{base.ID, base.ConfigDigest.Encoded()} {
		if id == "" || raw != nil {
			continue
		}
		key := storage.ImageDigestManifestBigDataNamePrefix + "-" + base.Digest.String()
		if data, err := e.store.ImageBigData(id, key); err == nil && digest.FromBytes(data) == base.Digest {
			raw = data
		}
	}
	if raw == nil {
		return nil
	}
	m, err := manifest.FromBlob(raw, manifest.GuessMIMEType(raw))
	if err != nil {
		return nil
	}
	var out []ocispecs.Descriptor
	for _, l := range m.LayerInfos() {
		d := ocispecs.Descriptor{Digest: l.Digest, Size: l.Size}
		switch l.MediaType {
		case manifest.DockerV2Schema2LayerMediaType, ocispecs.MediaTypeImageLayerGzip:
			d.MediaType = ocispecs.MediaTypeImageLayerGzip
		case ocispecs.MediaTypeImageLayerZstd:
			d.MediaType = ocispecs.MediaTypeImageLayerZstd
		}
		out = append(out, d)
	}
	return out
}

// openOrigin reads a layer from where an image is.
func (e *Engine) openOrigin(ctx context.Context, image reference.Canonical, d ocispecs.Descriptor) (io.ReadCloser, error) {
	fail := func(err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &pack.OriginError{From: reference.FamiliarString(reference.TrimNamed(image)), Err: err}
	}
	src, err := e.Fetch(ctx, image.String(), false)
	if err != nil {
		return nil, fail(err)
	}
	in, err := src.Blob(ctx, d)
	if err != nil {
		return nil, fail(err)
	}
	return &originReader{ReadCloser: in, fail: fail}, nil
}

type originReader struct {
	io.ReadCloser
	fail func(error) error
}

// Read is for io.Reader.
func (r *originReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // readers give it as it is
		err = r.fail(err)
	}
	return n, err
}
