package pack

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gofrs/flock"
)

// TestReset writes several things to a cache under one name and another: a reset takes
// away what no name stands for any more, unless somebody is writing.
func TestReset(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c := newCompressor(t, t.TempDir())
	write := func(arch, tag string) {
		t.Helper()
		b, err := Build(t.Context(), c, []*Image{testImage(t, arch)}, Options{How: How{Level: -1}})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.WriteTagged(t.Context(), dir, tag); err != nil {
			t.Fatal(err)
		}
	}
	blobs := func() int {
		t.Helper()
		all, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	const each = 3 // manifest, configuration, layer
	write("amd64", "latest")
	write("arm64", "other")
	write("riscv64", "latest")
	if n := blobs(); n != 3*each {
		t.Fatalf("there are %d blobs", n)
	}
	writer := flock.New(filepath.Join(dir, cacheLock))
	if ok, err := writer.TryRLock(); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if busy, err := Reset(t.Context(), dir); err != nil || !busy || blobs() != 3*each {
		t.Errorf("while somebody writes: busy %v, %v, %d blobs", busy, err, blobs())
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if busy, err := Reset(t.Context(), dir); err != nil || busy || blobs() != 2*each {
		t.Errorf("busy %v, %v, %d blobs", busy, err, blobs())
	}
	for _, tag := range []string{"latest", "other"} {
		src, err := OpenLayout(dir, tag, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := src.Manifest(t.Context(), ""); err != nil {
			t.Errorf("%s: %v", tag, err)
		}
	}
}
