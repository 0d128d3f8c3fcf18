package pack

import (
	"archive/tar"
	"errors"
	"io"
	"time"
)

// Clamp rewrites a tar so that nothing in it is younger than latest. Access and
// change times go: what SOURCE_DATE_EPOCH is for is that they make no difference.
func Clamp(in io.ReadCloser, latest time.Time) io.ReadCloser {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(clamp(in, w, latest))
	}()
	return &clampReader{PipeReader: r, in: in, done: done}
}

type clampReader struct {
	*io.PipeReader
	in   io.Closer
	done chan struct{}
}

// Close waits until nobody reads from the tar any more.
func (c *clampReader) Close() error {
	err := c.PipeReader.Close()
	<-c.done
	return errors.Join(err, c.in.Close())
}

func clamp(in io.Reader, out io.Writer, latest time.Time) error {
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
		if h.ModTime.After(latest) {
			h.ModTime = latest
		}
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		for _, k := range []string{"mtime", "atime", "ctime"} {
			delete(h.PAXRecords, k)
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}
