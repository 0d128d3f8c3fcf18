//go:build linux

package buildah

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"

	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// reopen opens the store in a directory as another process would, whose mounts are left
// when it is killed.
func reopen(t *testing.T, dir string) *Engine {
	t.Helper()
	e, err := Open(t.Context(), Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountBelow(dir) })
	return e
}

// A kill in the middle of recording an image leaves an image without its parts. The
// next start removes it; and if it is made again before that, it is made whole.
func TestHalfMadeImages(t *testing.T) {
	dir := t.TempDir()
	e := reopen(t, dir)
	base := tinyRoot(t, e)
	platform := ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	commit := func(format string) (img, list *runner.Image) {
		t.Helper()
		img, err := e.Commit(t.Context(), runner.ImageSpec{
			Layers: []runner.Snapshot{base}, Config: []byte(`{"architecture":"amd64","os":"linux","config":{}}`),
			Format: format, Created: []time.Time{time.Unix(1, 0)}, Platform: platform,
		})
		if err != nil {
			t.Fatal(err)
		}
		if list, err = e.Index(t.Context(), []*runner.Image{img}, format); err != nil {
			t.Fatal(err)
		}
		return img, list
	}
	for _, format := range []string{planner.FormatOCI, planner.FormatDocker} {
		for has := range 3 { // so many of the parts have been written
			img, list := commit(format)
			type part struct{ key, data string }
			parts := make(map[string][]part)
			tops := make(map[string]string)
			keys := make(map[string][]string)
			halve := func() {
				for _, made := range []*runner.Image{list, img} {
					id := made.ID.Encoded()
					whole, err := e.store.Image(id)
					if err != nil {
						t.Fatal(err)
					}
					tops[id], keys[id] = whole.TopLayer, whole.BigDataNames
					parts[id] = nil
					for _, key := range whole.BigDataNames {
						data, err := e.store.ImageBigData(id, key)
						if err != nil {
							t.Fatal(err)
						}
						parts[id] = append(parts[id], part{key, string(data)})
					}
					if _, err := e.store.DeleteImage(id, true); err != nil {
						t.Fatal(err)
					}
					if !e.store.Exists(tops[id]) {
						tops[id] = ""
					}
					opt := &storage.ImageOptions{Digest: made.Digest}
					for _, p := range parts[id][:has] {
						opt.BigData = append(opt.BigData, storage.ImageBigDataOption{Key: p.key, Data: []byte(p.data)})
					}
					if _, err := e.store.CreateImage(id, nil, tops[id], "{}", opt); err != nil {
						t.Fatal(err)
					}
				}
			}
			halve()
			img, list = commit(format)
			for _, made := range []*runner.Image{img, list} {
				for _, p := range parts[made.ID.Encoded()] {
					if data, err := e.store.ImageBigData(made.ID.Encoded(), p.key); err != nil || string(data) != p.data {
						t.Errorf("%s with %d parts, made again: %s is %q, %v", format, has, p.key, data, err)
					}
				}
			}
			halve()
			for id, names := range keys {
				if _, err := e.proc.beginImage(id, names...); err != nil {
					t.Fatal(err)
				}
			}
			if err := e.proc.lock.Close(); err != nil { // as if it were dead
				t.Fatal(err)
			}
			e = reopen(t, dir)
			for id := range keys {
				if _, err := e.store.Image(id); !errors.Is(err, storage.ErrImageUnknown) {
					t.Errorf("%s with %d parts: the next start leaves the image: %v", format, has, err)
				}
			}
		}
	}
	img, list := commit(planner.FormatOCI)
	for _, made := range []*runner.Image{img, list} {
		if _, err := e.proc.beginImage(made.ID.Encoded(), "manifest"); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.proc.lock.Close(); err != nil {
		t.Fatal(err)
	}
	e = reopen(t, dir)
	for _, made := range []*runner.Image{img, list} {
		if !e.store.Exists(made.ID.Encoded()) {
			t.Error("an image that was whole is gone")
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
