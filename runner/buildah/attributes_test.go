//go:build linux

package buildah

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/continuity/sysx"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/internal/storecheck"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// TestAttributes looks for a file's extended attributes: they are there for later
// steps, but neither in an image's layers nor in its files, by whichever way these
// are made.
func TestAttributes(t *testing.T) {
	data := tarOf(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "dir", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.user.note": "x"}},
		tar.Header{Typeflag: tar.TypeReg, Name: "dir/file", Linkname: "text", PAXRecords: map[string]string{"SCHILY.xattr.user.note": "x"}},
	)
	local := &planner.Local{Dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(local.Dir, "a.tar"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, driver := range []string{"overlay", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			e := open(t, Options{Driver: driver})
			s, _ := do(t, e, addOp("/a.tar", "/"), runner.Input{Local: local})
			spec := runner.ImageSpec{
				Layers: []runner.Snapshot{s}, Config: []byte(`{"architecture":"amd64","os":"linux","config":{},"history":[{"created_by":"ADD"}]}`),
				Format: planner.FormatOCI, Created: []time.Time{time.Unix(1, 0)}, Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"},
			}
			packed, err := e.Pack(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			in, err := packed.Layers[0].Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			names := 0
			for archive := tar.NewReader(in); ; names++ {
				h, err := archive.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				for k := range h.PAXRecords {
					if strings.Contains(k, "xattr") {
						t.Errorf("%s has %s in the layer that leaves", h.Name, k)
					}
				}
			}
			if err := in.Close(); err != nil {
				t.Error(err)
			}
			if names < 2 {
				t.Errorf("the layer has %d files", names)
			}
			img, err := e.Commit(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			stored, err := e.store.Image(img.ID.Encoded())
			if err != nil {
				t.Fatal(err)
			}
			if l, err := e.store.Layer(stored.TopLayer); err != nil || l.UncompressedDigest != packed.Layers[0].DiffID {
				t.Errorf("the store's layer is %s, the one that leaves %s: %v", l.UncompressedDigest, packed.Layers[0].DiffID, err)
			}
			for of, want := range map[runner.Snapshot]string{s: "x", runner.Snapshot(stored.TopLayer): ""} {
				v, err := e.view(of)
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range []string{"dir", "dir/file"} {
					value, _ := sysx.LGetxattr(filepath.Join(v.root, name), "user.note")
					// This driver copies trees without attributes.
					if string(value) != want && driver != "vfs" {
						t.Errorf("%s in %s has the note %q, not %q", name, of, value, want)
					}
				}
				v.close()
			}
			problems, err := storecheck.Problems(e.store)
			if err != nil || len(problems) > 0 {
				t.Errorf("the store: %v, %v", problems, err)
			}
		})
	}
}
