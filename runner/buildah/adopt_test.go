//go:build linux

package buildah

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/planner"
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
	tmp, done, err := e.proc.stage(filepath.Dir(lowers[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer done() //nolint:errcheck // the test's directory goes, too
	stage := &linkStage{ctx: t.Context(), src: lowers[0], tmp: tmp}
	staged, err := stage.fill()
	if err != nil {
		t.Fatal(err)
	}
	defer staged.TarSplit.Close()
	if _, err := e.place(first.ID, "", &staged); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(dir)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the layer's directory was replaced (%v)", err)
	}
}

// TestStagingSwept has the store's own staging directory be emptied all the time, as
// every podman before version 5 does when it ends: image layers have all their files.
func TestStagingSwept(t *testing.T) {
	e := open(t, Options{})
	s := lowest(t, e)
	lowers, err := e.lowerDirs(string(s))
	if err != nil {
		t.Fatal(err)
	}
	want := countFiles(t, lowers[0])
	ctx, stop := context.WithCancel(t.Context())
	var sweeping sync.WaitGroup
	sweeping.Go(func() {
		for ctx.Err() == nil {
			_ = os.RemoveAll(filepath.Join(e.store.GraphRoot(), "overlay", "staging"))
		}
	})
	defer sweeping.Wait()
	defer stop()
	for range 20 {
		l, err := e.adopt(t.Context(), "", "", s, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := countFiles(t, filepath.Join(e.store.GraphRoot(), "overlay", l.ID, "diff")); got != want {
			t.Fatalf("%d files, want %d", got, want)
		}
		if err := e.store.DeleteLayer(l.ID); err != nil {
			t.Fatal(err)
		}
	}
}

func countFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error {
		n++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAdopt makes the layers of an image before the image: it takes them as they are.
func TestAdopt(t *testing.T) {
	e := open(t, Options{})
	first := lowest(t, e)
	second, _ := do(t, e, execOp(nil, "/bin/busybox", "touch", "/x"), runner.Input{Snapshot: first})
	spec := runner.ImageSpec{Layers: []runner.Snapshot{first}, Config: []byte(`{"architecture":"amd64","os":"linux"}`), Format: planner.FormatOCI}
	if err := e.Adopt(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	known, ok := e.digested("", first)
	if !ok {
		t.Fatal("no digest is known of the layer")
	}
	before, err := e.store.Layer(known.DiffID.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	spec.Layers = append(spec.Layers, second)
	img, err := e.Commit(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := e.store.Image(img.ID.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	top, err := e.store.Layer(stored.TopLayer)
	if err != nil || top.Parent != before.ID {
		t.Fatalf("the image's layers are %v, %v", top, err)
	}
	after, err := e.store.Layer(before.ID)
	if err != nil || !after.Created.Equal(before.Created) {
		t.Errorf("the layer was made at %v, and again at %v (%v)", before.Created, after.Created, err)
	}
}

// What lies between two snapshots that are not next to each other, as in a squashed
// image, is read from views of the engine's own: what the driver mounts another process
// takes away when it is done with the same.
func TestDiffMountsNothing(t *testing.T) {
	e := open(t, Options{})
	base := tinyRoot(t, e)
	s := base
	for _, file := range []string{"/a", "/b"} {
		s, _ = do(t, e, execOp(nil, "/bin/touch", file), runner.Input{Snapshot: s})
	}
	for _, below := range []runner.Snapshot{"", base} {
		tar, err := e.diff(t.Context(), below, s)
		if err != nil {
			t.Fatal(err)
		}
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(e.store.GraphRoot()))
		if err != nil {
			t.Error(err)
		}
		for _, m := range mounts {
			if filepath.Base(m.Mountpoint) == "merged" {
				t.Errorf("while it is read there is %s", m.Mountpoint)
			}
		}
		if _, err := io.Copy(io.Discard, tar); err != nil {
			t.Error(err)
		}
		if err := tar.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A layer that is found by comparing trees is the same whenever it is read: it is read
// for its digest, and again to be stored, compressed or pushed.
func TestDiffIsSteady(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		e := open(t, Options{Driver: driver})
		base := tinyRoot(t, e)
		s := base
		for _, args := range [][]string{{"/bin/rm", "/bin/cat"}, {"/bin/touch", "/b"}} {
			s, _ = do(t, e, execOp(nil, args...), runner.Input{Snapshot: s})
		}
		var sums []digest.Digest
		for i := range 2 {
			tar, err := e.diff(t.Context(), base, s)
			if err != nil {
				t.Fatal(err)
			}
			d, err := digest.FromReader(tar)
			if err := errors.Join(err, tar.Close()); err != nil {
				t.Fatal(err)
			}
			sums = append(sums, d)
			if i == 0 {
				time.Sleep(1100 * time.Millisecond) // times are in seconds
			}
		}
		if sums[0] != sums[1] {
			t.Errorf("%s: %s became %s", driver, sums[0], sums[1])
		}
	}
}

// However a layer is read, who cancels a build does not wait for the rest of it.
func TestReadingALayerIsCancelled(t *testing.T) {
	e := open(t, Options{})
	base := tinyRoot(t, e)
	s, _ := do(t, e, execOp(nil, "/bin/touch", "/a"), runner.Input{Snapshot: base})
	layer, err := e.adopt(t.Context(), "", "", base, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		open func(context.Context) (io.ReadCloser, error)
	}{
		{"of the store", func(ctx context.Context) (io.ReadCloser, error) { return e.storedLayer(layer).Open(ctx) }},
		{"of a step", func(ctx context.Context) (io.ReadCloser, error) { return e.diff(ctx, base, s) }},
		{"squashed", func(ctx context.Context) (io.ReadCloser, error) { return e.diff(ctx, "", s) }},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		tar, err := tt.open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		_, err = io.Copy(io.Discard, tar)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err := tar.Close(); err != nil {
			t.Errorf("%s: closing: %v", tt.name, err)
		}
	}
}
