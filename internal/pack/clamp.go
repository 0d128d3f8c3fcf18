package pack

import (
	"archive/tar"
	"errors"
	"io"
	"strings"
	"time"
)

// Clamp rewrites a tar so that nothing in it is younger than latest. Access and
// change times go: what SOURCE_DATE_EPOCH is for is that they make no difference.
func Clamp(in io.ReadCloser, latest time.Time) io.ReadCloser {
	return rewrite(in, func(h *tar.Header) {
		if h.ModTime.After(latest) {
			h.ModTime = latest
		}
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		for _, k := range []string{"mtime", "atime", "ctime"} {
			delete(h.PAXRecords, k)
		}
	})
}

// Plain rewrites a tar so that files have no extended attributes but capabilities.
func Plain(in io.ReadCloser) io.ReadCloser {
	return rewrite(in, func(h *tar.Header) {
		h.Xattrs = nil //nolint:staticcheck // the same once more: a writer takes both
		for k := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && !InLayers(name) {
				delete(h.PAXRecords, k)
			}
		}
	})
}

// InLayers reports whether an extended attribute stays with a file in an image's
// layer. As with BuildKit others do not: they are what the host's file system, or
// its owner, has to say about a file. The store's own are left to the store.
func InLayers(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.containers.")
}

// rewrite rewrites a tar's headers.
func rewrite(in io.ReadCloser, change func(*tar.Header)) io.ReadCloser {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(rewriteTar(in, w, change))
	}()
	return &rewriter{PipeReader: r, in: in, done: done}
}

type rewriter struct {
	*io.PipeReader
	in   io.Closer
	done chan struct{}
}

// Close waits until nobody reads from the tar any more.
func (c *rewriter) Close() error {
	err := c.PipeReader.Close()
	<-c.done
	return errors.Join(err, c.in.Close())
}

func rewriteTar(in io.Reader, out io.Writer, change func(*tar.Header)) error {
	r, w := tar.NewReader(in), tar.NewWriter(out)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			// What follows the end of the archive is padding; the stream has to be read
			// to its end all the same, for whoever makes it.
			if _, err := io.Copy(io.Discard, in); err != nil {
				return err
			}
			return w.Close()
		}
		if err != nil {
			return err
		}
		change(h)
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}
