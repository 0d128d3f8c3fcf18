// Package pack makes images ready to leave: layers become blobs, compressed as
// asked for, and manifests and lists get their final digests. It writes archives
// and layouts of them.
//
// It knows no store, no registry and no build: layers are handed in as something
// to open.
package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layer is one layer of an image, as an uncompressed tar.
type Layer struct {
	DiffID digest.Digest
	// Size is that of the tar in bytes.
	Size int64
	// Open reads the tar. It may be called any number of times, or never.
	Open func(context.Context) (io.ReadCloser, error)
	// Origin is the form that the layer came in; nil if it was made here, or nobody
	// knows.
	Origin *Origin
}

// Origin is a layer as a registry has it.
type Origin struct {
	// Descriptor has a media type of OCI's.
	Descriptor ocispecs.Descriptor
	// Open reads it from where it came from. An error, then or later, is an
	// *OriginError.
	Open func(context.Context) (io.ReadCloser, error)
}

// OriginError says that a layer cannot be had again in the form that it came in.
type OriginError struct {
	From string // the image that has it
	Err  error
}

func (e *OriginError) Error() string { return "reading a layer of " + e.From + ": " + e.Err.Error() }
func (e *OriginError) Unwrap() error { return e.Err }

// Image is an image for one platform.
type Image struct {
	Platform ocispecs.Platform
	// Config is complete: its root file system has the layers.
	Config []byte
	Layers []Layer
}

// Blob is content under a digest.
type Blob struct {
	ocispecs.Descriptor
	// diffID is the digest of a layer that became another one by its compression;
	// otherwise it is empty.
	diffID digest.Digest
	open   func(context.Context) (content.ReaderAt, error)
	// stream is set in place of open if the blob can only be read in order.
	stream func(context.Context) (io.ReadCloser, error)
}

// Open reads the blob.
func (b Blob) Open(ctx context.Context) (io.ReadCloser, error) {
	if b.stream != nil {
		return b.stream(ctx)
	}
	at, err := b.open(ctx)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{content.NewReader(at), at}, nil
}

// dataBlob is a blob in memory.
func dataBlob(mediaType string, data []byte) Blob {
	return Blob{
		Descriptor: ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))},
		open: func(context.Context) (content.ReaderAt, error) {
			return memory{bytes.NewReader(data)}, nil
		},
	}
}

type memory struct{ *bytes.Reader }

// Close does nothing.
func (memory) Close() error { return nil }

// Manifest is a manifest or a list of them, as it goes over the wire.
type Manifest struct {
	Descriptor ocispecs.Descriptor
	Data       []byte
}

// Bundle is an image or a list of images with all that belongs to it. It is
// immutable.
type Bundle struct {
	// Root is the manifest or list that stands for everything.
	Root Manifest
	// Manifests are those that Root lists.
	Manifests []Manifest
	// Blobs are configurations, layers and attestations, each once.
	Blobs []Blob
	// Config is the digest of the configuration; empty for a list.
	Config digest.Digest
	// Created is when the youngest of its images was made; zero if none says so.
	Created time.Time
}

// Archived is the descriptor of Root as an archive's index has it: with the time.
func (b *Bundle) Archived() ocispecs.Descriptor {
	d := b.Root.Descriptor
	if b.Created.IsZero() {
		return d
	}
	d.Annotations = maps.Clone(d.Annotations)
	if d.Annotations == nil {
		d.Annotations = make(map[string]string)
	}
	if d.Annotations[ocispecs.AnnotationCreated] == "" {
		d.Annotations[ocispecs.AnnotationCreated] = b.Created.UTC().Format(time.RFC3339)
	}
	return d
}

func (b *Bundle) find(d digest.Digest) (Blob, bool) {
	for _, m := range append([]Manifest{b.Root}, b.Manifests...) {
		if m.Descriptor.Digest == d {
			return dataBlob(m.Descriptor.MediaType, m.Data), true
		}
	}
	for _, blob := range b.Blobs {
		if blob.Digest == d {
			return blob, true
		}
	}
	return Blob{}, false
}

var _ content.InfoReaderProvider = (*Bundle)(nil)

// Info is for content.InfoProvider.
func (b *Bundle) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	blob, ok := b.find(d)
	if !ok {
		return content.Info{}, fmt.Errorf("%s: %w", d, errdefs.ErrNotFound)
	}
	return content.Info{Digest: d, Size: blob.Size}, nil
}

// ReaderAt is for content.Provider.
func (b *Bundle) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	blob, ok := b.find(desc.Digest)
	if !ok {
		return nil, fmt.Errorf("%s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	return blob.open(ctx)
}

// errChanged is a layer that is not what it was when its digest was made.
var errChanged = errors.New("the layer has changed since its digest was made")
