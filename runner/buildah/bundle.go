//go:build linux

package buildah

// A bundle as containers/image sees it: the source of a copy. Copying is left to
// that library, which knows what a registry has already and what can be mounted
// from another repository.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	digest "github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/types"

	"github.com/zbuild/zbuild/internal/pack"
)

// bundleReference is a bundle as a types.ImageReference, and its own transport.
type bundleReference struct {
	bundle *pack.Bundle
	alive  func() // called as often as something of it is read
}

var (
	_ types.ImageReference = bundleReference{}
	_ types.ImageTransport = bundleReference{}
)

var errOnlyRead = errors.New("a bundle can only be read")

// Name is for types.ImageTransport.
func (bundleReference) Name() string { return "zbuild-bundle" }

// ParseReference is for types.ImageTransport.
func (bundleReference) ParseReference(string) (types.ImageReference, error) {
	return nil, errOnlyRead
}

// ValidatePolicyConfigurationScope is for types.ImageTransport.
func (bundleReference) ValidatePolicyConfigurationScope(string) error { return errOnlyRead }

// Transport is for types.ImageReference.
func (r bundleReference) Transport() types.ImageTransport { return r }

// StringWithinTransport is for types.ImageReference.
func (r bundleReference) StringWithinTransport() string {
	return r.bundle.Root.Descriptor.Digest.String()
}

// DockerReference is for types.ImageReference.
func (bundleReference) DockerReference() reference.Named { return nil }

// PolicyConfigurationIdentity is for types.ImageReference.
func (bundleReference) PolicyConfigurationIdentity() string { return "" }

// PolicyConfigurationNamespaces is for types.ImageReference.
func (bundleReference) PolicyConfigurationNamespaces() []string { return nil }

// NewImage is for types.ImageReference.
func (bundleReference) NewImage(context.Context, *types.SystemContext) (types.ImageCloser, error) {
	return nil, errOnlyRead
}

// NewImageSource is for types.ImageReference.
func (r bundleReference) NewImageSource(context.Context, *types.SystemContext) (types.ImageSource, error) {
	return bundleSource{r}, nil
}

// NewImageDestination is for types.ImageReference.
func (bundleReference) NewImageDestination(context.Context, *types.SystemContext) (types.ImageDestination, error) {
	return nil, errOnlyRead
}

// DeleteImage is for types.ImageReference.
func (bundleReference) DeleteImage(context.Context, *types.SystemContext) error { return errOnlyRead }

type bundleSource struct{ ref bundleReference }

var _ types.ImageSource = bundleSource{}

// Reference is for types.ImageSource.
func (s bundleSource) Reference() types.ImageReference { return s.ref }

// Close is for types.ImageSource.
func (bundleSource) Close() error { return nil }

// GetManifest is for types.ImageSource.
func (s bundleSource) GetManifest(_ context.Context, instance *digest.Digest) (data []byte, mediaType string, err error) {
	m := s.ref.bundle.Root
	if instance != nil {
		found := false
		for _, other := range s.ref.bundle.Manifests {
			if other.Descriptor.Digest == *instance {
				m, found = other, true
			}
		}
		if !found {
			return nil, "", fmt.Errorf("manifest %s: %w", *instance, fs.ErrNotExist)
		}
	}
	return bytes.Clone(m.Data), m.Descriptor.MediaType, nil
}

// GetBlob is for types.ImageSource.
func (s bundleSource) GetBlob(ctx context.Context, info types.BlobInfo, _ types.BlobInfoCache) (io.ReadCloser, int64, error) {
	for _, b := range s.ref.bundle.Blobs {
		if b.Digest != info.Digest {
			continue
		}
		s.ref.alive() // the registry has said that it does not have it
		in, err := b.Open(ctx)
		if err != nil {
			return nil, 0, err
		}
		return struct {
			io.Reader
			io.Closer
		}{&livelyReader{in, s.ref.alive}, in}, b.Size, nil
	}
	return nil, 0, fmt.Errorf("blob %s: %w", info.Digest, fs.ErrNotExist)
}

// HasThreadSafeGetBlob is for types.ImageSource.
func (bundleSource) HasThreadSafeGetBlob() bool { return true }

// GetSignatures is for types.ImageSource.
func (bundleSource) GetSignatures(context.Context, *digest.Digest) ([][]byte, error) { return nil, nil }

// LayerInfosForCopy is for types.ImageSource.
func (bundleSource) LayerInfosForCopy(context.Context, *digest.Digest) ([]types.BlobInfo, error) {
	return nil, nil
}
