//go:build linux

package buildah

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// imageOf makes an image of snapshots, which is another one for each n.
func imageOf(t *testing.T, e *Engine, n int, layers ...runner.Snapshot) *runner.Image {
	t.Helper()
	img, err := e.Commit(t.Context(), runner.ImageSpec{
		Layers: layers, Config: fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"User":"%d"}}`, n),
		Format: planner.FormatOCI, Created: make([]time.Time, len(layers)), Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestDrop(t *testing.T) {
	e := open(t, Options{})
	ctx := t.Context()
	base := tinyRoot(t, e)
	s, _ := do(t, e, execOp(nil, "sh", "-c", "echo > /file"), runner.Input{Snapshot: base})
	layers := func() int {
		t.Helper()
		all, err := e.store.Layers()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := layers()
	kept := imageOf(t, e, 0, base)
	withKept := layers()

	plain := imageOf(t, e, 1, base, s)
	if err := e.Drop(ctx, plain); err != nil || e.store.Exists(plain.ID.Encoded()) {
		t.Errorf("an image that nobody uses: %v, or it is still there", err)
	}
	if n := layers(); n != withKept {
		t.Errorf("%d layers are left of %d: those stay that another image has, and no others", n, withKept)
	}
	if err := e.Drop(ctx, plain); err != nil {
		t.Errorf("an image that is gone already: %v", err)
	}

	named := imageOf(t, e, 2, base, s)
	if err := e.Tag(ctx, named, []string{"localhost/named"}); err != nil {
		t.Fatal(err)
	}
	if err := e.Drop(ctx, named); err != nil || !e.store.Exists(named.ID.Encoded()) {
		t.Errorf("an image that has a name: %v, or it is gone", err)
	}

	used := imageOf(t, e, 3, base, s)
	c, err := e.store.CreateContainer("", nil, used.ID.Encoded(), "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Drop(ctx, used); !errors.Is(err, runner.ErrInUse) || !e.store.Exists(used.ID.Encoded()) {
		t.Errorf("an image that a container was made of: %v, or it is gone", err)
	}
	if err := e.store.DeleteContainer(c.ID); err != nil {
		t.Fatal(err)
	}

	list, err := e.Index(ctx, []*runner.Image{used}, planner.FormatOCI)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Drop(ctx, used); !errors.Is(err, runner.ErrInUse) || !e.store.Exists(used.ID.Encoded()) {
		t.Errorf("an image that a list has: %v, or it is gone", err)
	}
	for _, img := range []*runner.Image{list, used, kept} {
		if err := e.Drop(ctx, img); err != nil || e.store.Exists(img.ID.Encoded()) {
			t.Errorf("a list, what it had, and an image that shares layers: %v, or it is still there", err)
		}
	}
	if _, err := e.store.DeleteImage(named.ID.Encoded(), true); err != nil {
		t.Fatal(err)
	}
	if n := layers(); n != before {
		t.Errorf("%d layers are left of %d", n, before)
	}
}

// TestDropKilled is about who dies when the store has forgotten an image and not its
// layers.
func TestDropKilled(t *testing.T) {
	dir := t.TempDir()
	e := reopen(t, dir)
	base := tinyRoot(t, e)
	s, _ := do(t, e, execOp(nil, "sh", "-c", "echo > /file"), runner.Input{Snapshot: base})
	for _, forgotten := range []bool{false, true} {
		img := imageOf(t, e, 1, base, s)
		layers, err := e.store.DeleteImage(img.ID.Encoded(), false)
		if err != nil || len(layers) != 2 {
			t.Fatalf("layers %q, %v", layers, err)
		}
		for _, l := range layers {
			if err := e.proc.begin(l); err != nil {
				t.Fatal(err)
			}
		}
		if forgotten {
			// The image is taken out of the store's list as by a process that dies then. The
			// lock's content tells those who have the list in memory.
			images := filepath.Join(dir, "root", "overlay-images")
			err := errors.Join(os.RemoveAll(filepath.Join(images, img.ID.Encoded())),
				os.WriteFile(filepath.Join(images, "images.json"), []byte("[]"), 0o600),
				os.WriteFile(filepath.Join(images, "images.lock"), bytes.Repeat([]byte("x"), 64), 0o600))
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := e.proc.lock.Close(); err != nil {
			t.Fatal(err)
		}
		e = reopen(t, dir)
		for _, l := range layers {
			if e.store.Exists(l) == forgotten {
				t.Errorf("the image is gone, and its layer is there: %t", forgotten)
			}
		}
		if !e.Has(t.Context(), s) {
			t.Error("the step's own snapshot is gone")
		}
	}
}
