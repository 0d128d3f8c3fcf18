// Package ctxio has readers that end when a context does, so that whoever cancels a build
// need not wait until gigabytes are read to their end. It knows nothing else of zbuild.
package ctxio

import (
	"context"
	"io"
)

// NewReader reads r until ctx is done, and fails with the cause from then on. A Read that
// is under way goes on: of what may never answer it is no use.
func NewReader(ctx context.Context, r io.Reader) io.Reader { return &reader{ctx, r} }

// NewReadCloser is the same for what is to be closed. It can be closed at any time.
func NewReadCloser(ctx context.Context, r io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{NewReader(ctx, r), r}
}

type reader struct {
	ctx context.Context // a reader has no other way to have one
	r   io.Reader
}

// Read is for io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
