package pack

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
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

// Steady rewrites a tar so that whiteouts, which no file stands for, have the same time
// whenever it is made. The files of these paths have to be in it: who makes tars of
// directories may leave out what cannot be read, and say nothing.
func Steady(in io.ReadCloser, files []string) io.ReadCloser {
	missing := make(map[string]bool, len(files))
	for _, name := range files {
		missing[name] = true
	}
	return rewriteWhole(in, func(h *tar.Header) {
		delete(missing, path.Clean(h.Name))
		if strings.HasPrefix(path.Base(h.Name), ".wh.") {
			h.ModTime, h.AccessTime, h.ChangeTime = time.Unix(0, 0), time.Time{}, time.Time{}
		}
	}, func() error {
		if len(missing) == 0 {
			return nil
		}
		return fmt.Errorf("/%s of the layer cannot be read; look for errors of the disk in the kernel's log", slices.Min(slices.Collect(maps.Keys(missing))))
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
	return rewriteWhole(in, change, func() error { return nil })
}

// rewriteWhole is rewrite with something to look at when all has been read.
func rewriteWhole(in io.ReadCloser, change func(*tar.Header), end func() error) io.ReadCloser {
	return &rewriter{ReadCloser: Stream(func(w io.Writer) error { return rewriteTar(in, w, change, end) }), in: in}
}

type rewriter struct {
	io.ReadCloser
	in io.Closer
}

// Close closes what is rewritten, too.
func (c *rewriter) Close() error { return errors.Join(c.ReadCloser.Close(), c.in.Close()) }

// Stream is what fill writes, which goes on until it is done or the stream is closed.
// Its error is that of the stream.
func Stream(fill func(io.Writer) error) io.ReadCloser {
	r, w := io.Pipe()
	s := &stream{PipeReader: r, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		w.CloseWithError(fill(w))
	}()
	return s
}

type stream struct {
	*io.PipeReader
	done chan struct{}
}

// Close waits until nothing writes to the stream any more.
func (s *stream) Close() error {
	err := s.PipeReader.Close()
	<-s.done
	return err
}

func rewriteTar(in io.Reader, out io.Writer, change func(*tar.Header), end func() error) error {
	r, w := tar.NewReader(in), tar.NewWriter(out)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			// What follows the end of the archive is padding; the stream has to be read
			// to its end all the same, for whoever makes it.
			if _, err := io.Copy(io.Discard, in); err != nil {
				return err
			}
			if err := end(); err != nil {
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
