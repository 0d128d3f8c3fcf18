//go:build linux

package buildah

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/zbuild/zbuild/runner"
)

// TestLayerWithoutFiles: of an image's layer that another program has half removed
// only the record is left; it is made again.
func TestLayerWithoutFiles(t *testing.T) {
	e := open(t, Options{})
	s := tinyRoot(t, e)
	for { // down to the layer that lies on nothing
		l, err := e.store.Layer(string(s))
		if err != nil {
			t.Fatal(err)
		}
		if l.Parent == "" {
			break
		}
		s = runner.Snapshot(l.Parent)
	}
	first, err := e.adopt(t.Context(), "", "", s, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(e.store.GraphRoot(), "overlay", first.ID)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	again, err := e.adopt(t.Context(), "", "", s, nil)
	if err != nil || again != first {
		t.Errorf("%v, %v; was %v", again, err, first)
	}
	if _, err := os.Stat(filepath.Join(dir, "diff", "bin", "busybox")); err != nil {
		t.Error(err)
	}
}
