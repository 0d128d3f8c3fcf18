package pack

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"
)

// TestLayoutTogether has several write the same blobs to one layout, each under a name
// of its own, as builds do that share a cache directory: all names are there, at every
// moment there is a whole index, and nothing else is left.
func TestLayoutTogether(t *testing.T) {
	dir := t.TempDir()
	c := newCompressor(t, t.TempDir())
	b, err := Build(t.Context(), c, []*Image{testImage(t, "amd64")}, Options{How: How{Level: -1}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WriteTagged(t.Context(), dir, "first"); err != nil {
		t.Fatal(err)
	}
	const writers, each = 6, 5
	done := make(chan struct{})
	var reader, g errgroup.Group
	reader.Go(func() error {
		for {
			if _, err := OpenLayout(dir, "first", ""); err != nil {
				return err
			}
			select {
			case <-done:
				return nil
			case <-time.After(time.Millisecond):
			}
		}
	})
	for i := range writers {
		g.Go(func() error {
			for j := range each {
				if err := b.WriteTagged(t.Context(), dir, fmt.Sprintf("t%d-%d", i, j)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = g.Wait()
	close(done)
	if err != nil {
		t.Error(err)
	}
	if err := reader.Wait(); err != nil {
		t.Errorf("reading meanwhile: %v", err)
	}
	for i := range writers {
		for j := range each {
			if _, err := OpenLayout(dir, fmt.Sprintf("t%d-%d", i, j), ""); err != nil {
				t.Error(err)
			}
		}
	}
	wantOnly(t, dir, "blobs", cacheLock, "index.json", "oci-layout")
}

func wantOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("there are %v, want %v", names, want)
	}
}

// TestLayoutReadOnly reads a layout that somebody else has locked, as one may that only
// has the right to read.
func TestLayoutReadOnly(t *testing.T) {
	dir := t.TempDir()
	c := newCompressor(t, t.TempDir())
	b, err := Build(t.Context(), c, []*Image{testImage(t, "amd64")}, Options{How: How{Level: -1}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WriteTagged(t.Context(), dir, "x"); err != nil {
		t.Fatal(err)
	}
	lock := flock.New(filepath.Join(dir, "index.json.lock"))
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock() //nolint:errcheck // it goes with the process
	if _, err := OpenLayout(dir, "x", ""); err != nil {
		t.Error(err)
	}
	wantOnly(t, dir, "blobs", cacheLock, "index.json", "index.json.lock", "oci-layout")
}
