package ctxio_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/zbuild/zbuild/internal/ctxio"
)

func TestReadCloser(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	var closed bool
	in := ctxio.NewReadCloser(ctx, readCloser{iotest.OneByteReader(strings.NewReader("abc")), &closed})
	b := make([]byte, 2)
	if _, err := io.ReadFull(in, b); err != nil || string(b) != "ab" {
		t.Errorf("read %q, %v", b, err)
	}
	cancel(cause)
	if rest, err := io.ReadAll(in); !errors.Is(err, cause) || len(rest) > 0 {
		t.Errorf("read %q after it was cancelled, %v", rest, err)
	}
	if err := in.Close(); err != nil || !closed {
		t.Errorf("closed: %t, %v", closed, err)
	}
}

type readCloser struct {
	io.Reader
	closed *bool
}

func (r readCloser) Close() error {
	*r.closed = true
	return nil
}
