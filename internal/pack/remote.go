package pack

// What comes from elsewhere: manifests and blobs are read under their digests, and
// what does not have the digest is not seen by anybody.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source reads what is under a name in a registry, a directory or elsewhere.
type Source interface {
	// Manifest reads a manifest: the one that the name stands for, or one that that
	// lists. It is checked against the digest.
	Manifest(ctx context.Context, instance digest.Digest) ([]byte, error)
	// Blob reads a blob. What is read is not checked.
	Blob(ctx context.Context, desc ocispecs.Descriptor) (io.ReadCloser, error)
}

// ReadBlob reads a small blob and checks it.
func ReadBlob(ctx context.Context, src Source, desc ocispecs.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit || desc.Digest.Validate() != nil {
		return nil, fmt.Errorf("%s: longer than %d bytes, or without a digest", desc.Digest, limit)
	}
	in, err := src.Blob(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit || desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
		return nil, fmt.Errorf("%s: %w", desc.Digest, errDigest)
	}
	return data, nil
}

var errDigest = errors.New("the content does not have its digest; it is damaged")

// RemoteBlob is a blob that is read from where it is, when it is needed.
func RemoteBlob(src Source, desc ocispecs.Descriptor) Blob {
	d := ocispecs.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
	return Blob{Descriptor: d, stream: func(ctx context.Context) (io.ReadCloser, error) {
		in, err := src.Blob(ctx, d)
		if err != nil {
			return nil, err
		}
		return &verified{ReadCloser: in, verifier: d.Digest.Verifier(), left: d.Size, digest: d.Digest}, nil
	}}
}

// verified is a reader that ends with an error unless it had what it should have.
type verified struct {
	io.ReadCloser
	verifier digest.Verifier
	left     int64
	digest   digest.Digest
}

// Read is for io.Reader.
func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	_, _ = v.verifier.Write(p[:n])
	if v.left -= int64(n); v.left < 0 {
		return 0, fmt.Errorf("%s: %w", v.digest, errDigest)
	}
	if errors.Is(err, io.EOF) && (v.left > 0 || !v.verifier.Verified()) {
		return n, fmt.Errorf("%s: %w", v.digest, errDigest)
	}
	return n, err
}

// RemoteLayer is a layer that is in a blob elsewhere. size bounds what it unpacks
// to.
func RemoteLayer(src Source, desc ocispecs.Descriptor, diffID digest.Digest, size int64) Layer {
	return Layer{DiffID: diffID, Size: size, Open: func(ctx context.Context) (io.ReadCloser, error) {
		in, err := RemoteBlob(src, desc).Open(ctx)
		if err != nil {
			return nil, err
		}
		plain, err := decompress(desc.MediaType, in)
		if err != nil {
			in.Close()
			return nil, fmt.Errorf("%s: %w", desc.Digest, err)
		}
		return &verified{ReadCloser: plain, verifier: diffID.Verifier(), left: size, digest: diffID}, nil
	}}
}

// decompress undoes what a media type says was done.
func decompress(mediaType string, in io.ReadCloser) (io.ReadCloser, error) {
	rest := func(r io.Reader, stop func() error) io.ReadCloser {
		return &drained{Reader: r, in: in, stop: stop}
	}
	switch mediaType {
	case ocispecs.MediaTypeImageLayer, dockerLayer:
		return in, nil
	case ocispecs.MediaTypeImageLayerGzip, dockerLayerGzip:
		z, err := pgzip.NewReader(in)
		if err != nil {
			return nil, err
		}
		return rest(z, z.Close), nil
	case ocispecs.MediaTypeImageLayerZstd, dockerLayerZstd:
		z, err := zstd.NewReader(bufio.NewReader(in), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, err
		}
		return rest(z, func() error { z.Close(); return nil }), nil
	}
	return nil, fmt.Errorf("layers of type %q cannot be read", mediaType)
}

// drained reads what it is made of to its end, so that its digest is checked.
type drained struct {
	io.Reader
	in   io.ReadCloser
	stop func() error
}

// Read is for io.Reader.
func (d *drained) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		if _, err := io.Copy(io.Discard, d.in); err != nil {
			return n, err
		}
	}
	return n, err
}

// Close is for io.Closer.
func (d *drained) Close() error { return errors.Join(d.stop(), d.in.Close()) }

// OpenLayout reads an OCI layout in a directory: what has the tag there, or the
// digest if that is given.
func OpenLayout(dir, tag string, d digest.Digest) (Source, error) {
	if _, err := os.Stat(filepath.Join(dir, ocispecs.ImageIndexFile)); err != nil {
		return nil, err
	}
	if d == "" {
		desc, err := tagged(dir, tag)
		if err != nil {
			return nil, err
		}
		if desc == nil {
			return nil, fmt.Errorf("%s has no tag %q", dir, tag)
		}
		d = desc.Digest
	}
	store, err := local.NewStore(dir)
	if err != nil {
		return nil, err
	}
	return &layout{store: store, root: d}, nil
}

type layout struct {
	store content.Store
	root  digest.Digest
}

// Manifest is for Source.
func (l *layout) Manifest(ctx context.Context, instance digest.Digest) ([]byte, error) {
	if instance == "" {
		instance = l.root
	}
	info, err := l.store.Info(ctx, instance)
	if err != nil {
		return nil, err
	}
	const most = 32 << 20
	return ReadBlob(ctx, l, ocispecs.Descriptor{Digest: instance, Size: info.Size}, most)
}

// Blob is for Source.
func (l *layout) Blob(ctx context.Context, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	at, err := l.store.ReaderAt(ctx, ocispecs.Descriptor{Digest: desc.Digest})
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{content.NewReader(at), at}, nil
}

// Artifact makes a bundle of blobs that are no image, with a configuration of its
// own kind.
func Artifact(artifactType, configType string, config []byte, layers []Blob) (*Bundle, error) {
	blob := dataBlob(configType, config)
	m := ocispecs.Manifest{
		MediaType: ocispecs.MediaTypeImageManifest, ArtifactType: artifactType, Config: blob.Descriptor, Layers: []ocispecs.Descriptor{},
	}
	m.SchemaVersion = 2
	for _, l := range layers {
		m.Layers = append(m.Layers, l.Descriptor)
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	return &Bundle{Root: manifest(m.MediaType, data), Blobs: append([]Blob{blob}, layers...), Config: blob.Digest}, nil
}
