//go:build linux

package buildah

import (
	"context"
	"io"

	digest "github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/types"
)

// patientReference is an image of a registry that is given up when the registry
// does not answer, or stops in the middle of a blob.
type patientReference struct {
	types.ImageReference
	patience patience
	accepted func() // called when the registry has answered; may be nil
}

// NewImageSource is for types.ImageReference.
func (r patientReference) NewImageSource(ctx context.Context, sys *types.SystemContext) (types.ImageSource, error) {
	var src types.ImageSource
	err := patiently(ctx, r.patience.answer, func(gctx context.Context, _ func()) (err error) {
		src, err = r.ImageReference.NewImageSource(gctx, sys)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &patientSource{ImageSource: src, ref: r}, nil
}

type patientSource struct {
	types.ImageSource
	ref patientReference
}

// Reference is for types.ImageSource.
func (s *patientSource) Reference() types.ImageReference { return s.ref }

func (s *patientSource) answered(err error) {
	if err == nil && s.ref.accepted != nil {
		s.ref.accepted()
	}
}

// GetManifest is for types.ImageSource.
func (s *patientSource) GetManifest(ctx context.Context, instance *digest.Digest) (data []byte, mime string, err error) {
	err = patiently(ctx, s.ref.patience.answer, func(gctx context.Context, _ func()) (err error) {
		data, mime, err = s.ImageSource.GetManifest(gctx, instance)
		return err
	})
	s.answered(err)
	return data, mime, err
}

// GetBlob is for types.ImageSource. The reader ends when nothing comes for too
// long.
func (s *patientSource) GetBlob(ctx context.Context, info types.BlobInfo, cache types.BlobInfoCache) (io.ReadCloser, int64, error) {
	in := &patientReader{patience: s.ref.patience, closed: make(chan struct{}), alive: make(chan struct{}, 1), ended: make(chan struct{})}
	opened := make(chan struct{})
	var size int64
	var err error
	// The request lives as long as the reader, and so does who watches over it.
	go func() {
		defer close(in.ended)
		in.err = patiently(ctx, s.ref.patience.blob, func(gctx context.Context, alive func()) error {
			in.body, size, err = s.ImageSource.GetBlob(gctx, info, cache)
			close(opened)
			if err != nil {
				return err
			}
			for {
				select {
				case <-in.alive:
					alive()
				case <-in.closed:
					return nil
				case <-gctx.Done():
					return context.Cause(gctx)
				}
			}
		})
	}()
	<-opened
	s.answered(err)
	if err != nil {
		<-in.ended
		return nil, 0, in.err
	}
	return in, size, nil
}

type patientReader struct {
	patience patience
	body     io.ReadCloser
	alive    chan struct{}
	closed   chan struct{}
	ended    chan struct{} // in.err may be read from then on
	err      error
}

// Read is for io.Reader.
func (r *patientReader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if n > 0 {
		select {
		case r.alive <- struct{}{}:
		default:
		}
	}
	if err != nil && err != io.EOF {
		select {
		case <-r.ended:
			if r.err != nil {
				err = r.err
			}
		default:
		}
	}
	return n, err
}

// Close is for io.Closer.
func (r *patientReader) Close() error {
	close(r.closed)
	<-r.ended
	return r.body.Close()
}
