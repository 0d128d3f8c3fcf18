package pack

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/internal/exporter"
)

// tarOf makes a layer of one file.
func tarOf(t *testing.T, name, text string, mtime time.Time) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), ModTime: mtime, Format: tar.FormatPAX}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func layerOf(data []byte) Layer {
	return Layer{DiffID: digest.FromBytes(data), Size: int64(len(data)), Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

func testImage(t *testing.T, arch string) *Image {
	l := layerOf(tarOf(t, "file", arch, time.Unix(1000, 0)))
	p := ocispecs.Platform{OS: "linux", Architecture: arch}
	raw, err := json.Marshal(ocispecs.Image{Platform: p, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.DiffID}}})
	if err != nil {
		t.Fatal(err)
	}
	return &Image{Platform: p, Config: raw, Layers: []Layer{l}}
}

func newCompressor(t *testing.T, dir string) *Compressor {
	c := NewCompressor(dir, filepath.Join(dir, "notes"))
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestBuildIsDeterministic(t *testing.T) {
	for _, how := range []How{{Level: -1}, {Compression: Gzip, Level: 9}, {Compression: Zstd, Level: -1}, {Compression: Zstd, Level: 19}, {Compression: Estargz, Level: -1}, {Compression: Uncompressed, Level: -1}} {
		var digests []digest.Digest
		for range 2 {
			b, err := Build(t.Context(), newCompressor(t, t.TempDir()), []*Image{testImage(t, "amd64")}, Options{How: how})
			if err != nil {
				t.Fatal(err)
			}
			digests = append(digests, b.Root.Descriptor.Digest)
			for _, blob := range b.Blobs {
				in, err := blob.Open(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if d, err := digest.FromReader(in); err != nil || d != blob.Digest {
					t.Errorf("%v: blob %s reads as %s, %v", how, blob.Digest, d, err)
				}
			}
		}
		if digests[0] != digests[1] {
			t.Errorf("%v: %v", how, digests)
		}
	}
}

// TestNotes finds out whether a layer whose digest is known is left unread, and
// whether a layer that is not what it was is found out.
func TestNotes(t *testing.T) {
	dir := t.TempDir()
	data := tarOf(t, "file", "text", time.Unix(0, 0))
	l := layerOf(data)
	first, err := newCompressor(t, dir).Blob(t.Context(), l, How{Level: -1})
	if err != nil {
		t.Fatal(err)
	}
	unread := l
	unread.Open = func(context.Context) (io.ReadCloser, error) {
		t.Error("the layer is read")
		return nil, errors.New("unread")
	}
	second, err := newCompressor(t, dir).Blob(t.Context(), unread, How{Level: -1})
	if err != nil || second.Digest != first.Digest || second.Size != first.Size {
		t.Errorf("%+v, %+v, %v", first.Descriptor, second.Descriptor, err)
	}
	changed := l
	changed.Open = func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(tarOf(t, "file", "other", time.Unix(0, 0)))), nil
	}
	blob, err := newCompressor(t, dir).Blob(t.Context(), changed, How{Level: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blob.Open(t.Context()); err == nil {
		t.Error("a layer that has changed passes")
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 1 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

func TestAnnotations(t *testing.T) {
	arm := ocispecs.Platform{OS: "linux", Architecture: "arm64"}
	b, err := Build(t.Context(), newCompressor(t, t.TempDir()), []*Image{testImage(t, "amd64"), testImage(t, "arm64")}, Options{Annotations: []exporter.Annotation{
		{Type: "manifest", Key: "all", Value: "1"},
		{Type: "manifest", Key: "arm", Value: "2", Platform: &arm},
		{Type: "index", Key: "list", Value: "3"},
		{Type: "manifest-descriptor", Key: "desc", Value: "4", Platform: &arm},
		{Type: "index-descriptor", Key: "root", Value: "5"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var index ocispecs.Index
	var manifests [2]ocispecs.Manifest
	if err := json.Unmarshal(b.Root.Data, &index); err != nil {
		t.Fatal(err)
	}
	for i := range manifests {
		if err := json.Unmarshal(b.Manifests[i].Data, &manifests[i]); err != nil {
			t.Fatal(err)
		}
	}
	for name, ok := range map[string]bool{
		"all":   manifests[0].Annotations["all"] == "1" && manifests[1].Annotations["all"] == "1",
		"arm":   manifests[0].Annotations["arm"] == "" && manifests[1].Annotations["arm"] == "2",
		"index": index.Annotations["list"] == "3",
		"desc":  index.Manifests[0].Annotations["desc"] == "" && index.Manifests[1].Annotations["desc"] == "4",
		"root":  b.Root.Descriptor.Annotations["root"] == "5",
	} {
		if !ok {
			t.Errorf("%s is not where it belongs", name)
		}
	}
	_, err = Build(t.Context(), newCompressor(t, t.TempDir()), []*Image{testImage(t, "amd64")}, Options{Annotations: []exporter.Annotation{{Type: "index", Key: "k"}}})
	if err == nil {
		t.Error("a single image takes an index annotation")
	}
}

func TestClamp(t *testing.T) {
	limit := time.Unix(5000, 0)
	for _, mtime := range []time.Time{time.Unix(4000, 0), time.Unix(6000, 500)} {
		in := Clamp(io.NopCloser(bytes.NewReader(tarOf(t, "file", "text", mtime))), limit)
		r := tar.NewReader(in)
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if want := min(mtime.Unix(), limit.Unix()); h.ModTime.Unix() != want {
			t.Errorf("%v became %v", mtime, h.ModTime)
		}
		if text, err := io.ReadAll(r); err != nil || string(text) != "text" {
			t.Errorf("%q, %v", text, err)
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	}
	bad := Clamp(io.NopCloser(bytes.NewReader(bytes.Repeat([]byte("x"), 1024))), limit)
	if _, err := io.ReadAll(bad); err == nil {
		t.Error("rubbish passes for a tar")
	}
	if err := bad.Close(); err != nil {
		t.Error(err)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "m.json")
	hello := func(w io.Writer) error {
		_, err := io.WriteString(w, "hello")
		return err
	}
	for range 2 {
		if err := WriteFile(name, hello); err != nil {
			t.Fatal(err)
		}
	}
	// Where the file system can have it so, a process that dies leaves nothing.
	if f, _, err := createUnnamed(dir); err == nil {
		f.Close()
		err := WriteFile(name, func(w io.Writer) error {
			if there, err := os.ReadDir(dir); err != nil || len(there) != 1 {
				t.Errorf("while it is written there is %v, %v", there, err)
			}
			return hello(w)
		})
		if err != nil {
			t.Error(err)
		}
	}
	failed := errors.New("failed")
	if err := WriteFile(name, func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return failed }); !errors.Is(err, failed) {
		t.Errorf("error %v", err)
	}
	if text, err := os.ReadFile(name); err != nil || string(text) != "hello" {
		t.Errorf("%q, %v", text, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	if err := WriteFile("/dev/null", hello); err != nil {
		t.Error(err)
	}
	if err := WriteFile(dir, hello); err == nil {
		t.Error("wrote over a directory")
	}
}

// TestSteadyIsWhole has an error for files that whoever made a tar has left out.
func TestSteadyIsWhole(t *testing.T) {
	whole := tarOf(t, "dir/a", "a", time.Unix(1, 0))
	for missing, files := range map[string][]string{"": {"dir/a"}, "/dir/b ": {"dir/b", "dir/a", "dir/c"}} {
		tar := Steady(io.NopCloser(bytes.NewReader(whole)), files)
		_, err := io.Copy(io.Discard, tar)
		if (err == nil) != (missing == "") || err != nil && !strings.Contains(err.Error(), missing) {
			t.Errorf("%q: %v", files, err)
		}
		if err := tar.Close(); err != nil {
			t.Error(err)
		}
	}
}
