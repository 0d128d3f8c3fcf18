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
	s := lowest(t, e)
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

// lowest is a snapshot that lies on nothing and has the files of tinyRoot.
func lowest(t *testing.T, e *Engine) runner.Snapshot {
	t.Helper()
	s := tinyRoot(t, e)
	for {
		l, err := e.store.Layer(string(s))
		if err != nil {
			t.Fatal(err)
		}
		if l.Parent == "" {
			return s
		}
		s = runner.Snapshot(l.Parent)
	}
}

// TestPlaceTwice has a layer be staged that somebody else has made in the meantime:
// the files of that one stay as they are, for a moment without them would be one in
// which a kill leaves half a layer.
func TestPlaceTwice(t *testing.T) {
	e := open(t, Options{})
	s := lowest(t, e)
	first, err := e.adopt(t.Context(), "", "", s, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(e.store.GraphRoot(), "overlay", first.ID, "diff")
	before, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	lowers, err := e.lowerDirs(string(s))
	if err != nil {
		t.Fatal(err)
	}
	staged, err := e.stage(&linkDiffer{ctx: t.Context(), dir: lowers[0]})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.place(first.ID, "", staged); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(dir)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the layer's directory was replaced (%v)", err)
	}
	if _, err := os.Lstat(staged.Target); !os.IsNotExist(err) {
		t.Errorf("what was staged is left: %v", err)
	}
}
