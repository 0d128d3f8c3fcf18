//go:build linux

package buildah

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// TestRootMode builds on images of a registry, whose layers say of the root directory
// nothing, or which mode it has.
func TestRootMode(t *testing.T) {
	for name, c := range map[string]struct {
		lower, upper int64 // the modes in the image's two layers; 0 for none
	}{
		"nothing":         {},
		"said below":      {lower: 0o711},
		"said above":      {upper: 0o711},
		"read-only below": {lower: 0o555},
		"read-only above": {upper: 0o555},
	} {
		t.Run(name, func(t *testing.T) {
			e := patient(t)
			base := pulledBase(t, e, c.lower, c.upper)
			stat := []string{"/bin/busybox", "stat", "-c", "%a", "/"}
			s, out := do(t, e, execOp(nil, stat...), runner.Input{Snapshot: base})
			if out := strings.TrimSpace(out); out != "755" {
				t.Errorf("in a RUN it is %s", out)
			}
			s, _ = do(t, e, execOp(nil, "/bin/busybox", "chmod", "700", "/"), runner.Input{Snapshot: s})
			if _, out = do(t, e, execOp(nil, stat...), runner.Input{Snapshot: s}); strings.TrimSpace(out) != "755" {
				t.Errorf("after one that changed it it is %s", out)
			}
			mount := &pb.Mount{Input: 0, Dest: "/m", Output: -1, Readonly: true}
			if _, out = do(t, e, execOp([]*pb.Mount{mount}, "/bin/busybox", "stat", "-c", "%a", "/m"), runner.Input{Snapshot: base}); strings.TrimSpace(out) != "755" {
				t.Errorf("where it is mounted it is %s", out)
			}
		})
	}
}

// pulledBase is an image of two layers that came from a registry, with busybox in it.
func pulledBase(t *testing.T, e *Engine, lower, upper int64) runner.Snapshot {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(busybox(t).Dir, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	p := platforms.DefaultSpec()
	img := &pack.Image{Platform: p, Layers: []pack.Layer{
		tarLayer(t, lower, map[string][]byte{"bin/busybox": program}), tarLayer(t, upper, map[string][]byte{"above": nil}),
	}}
	if img.Config, err = json.Marshal(ocispecs.Image{Platform: p, RootFS: ocispecs.RootFS{
		Type: "layers", DiffIDs: []digest.Digest{img.Layers[0].DiffID, img.Layers[1].DiffID},
	}}); err != nil {
		t.Fatal(err)
	}
	c := pack.NewCompressor(t.TempDir(), t.TempDir())
	t.Cleanup(func() { _ = c.Close() })
	b, err := pack.Build(t.Context(), c, []*pack.Image{img}, pack.Options{How: pack.How{Level: -1}})
	if err != nil {
		t.Fatal(err)
	}
	_, addr := newFaulty(t)
	if err := push(t.Context(), e, b, addr+"/base:v1"); err != nil {
		t.Fatal(err)
	}
	base, err := e.Resolve(t.Context(), planner.ImageRequest{Ref: addr + "/base:v1", Explicit: true, Platform: p, Pull: planner.PullAlways})
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.base(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tarLayer is a layer of files, which begins with the root directory if that has a mode.
func tarLayer(t *testing.T, root int64, files map[string][]byte) pack.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if root != 0 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: root}); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return pack.Layer{
		DiffID: digest.FromBytes(b.Bytes()), Size: int64(b.Len()),
		Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
	}
}
