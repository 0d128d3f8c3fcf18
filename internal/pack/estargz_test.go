package pack

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestEstargz opens a layer as a lazy snapshotter does, and reads a file of it by its
// table of contents. The image's configuration has the digest of the tar that it is now.
func TestEstargz(t *testing.T) {
	dir := t.TempDir()
	var digests []digest.Digest
	for range 2 { // the second time from what was noted of the first
		b, err := Build(t.Context(), newCompressor(t, dir), []*Image{testImage(t, "amd64")}, Options{How: How{Compression: Estargz, Level: -1}})
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, b.Root.Descriptor.Digest)
		var m ocispecs.Manifest
		if err := json.Unmarshal(b.Root.Data, &m); err != nil {
			t.Fatal(err)
		}
		raw := readBlob(t, b, m.Layers[0].Digest)
		r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(raw), 0, int64(len(raw))))
		if err != nil {
			t.Fatal(err)
		}
		toc := m.Layers[0].Annotations[estargz.TOCJSONDigestAnnotation]
		if _, err := r.VerifyTOC(digest.Digest(toc)); err != nil {
			t.Errorf("the table of contents is not the one that the manifest names: %v", err)
		}
		file, err := r.OpenFile("file")
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(file); err != nil || string(text) != "amd64" {
			t.Errorf("the file has %q, %v", text, err)
		}
		sum, n, err := measure(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		var config ocispecs.Image
		if err := json.Unmarshal(readBlob(t, b, m.Config.Digest), &config); err != nil {
			t.Fatal(err)
		}
		if got := config.RootFS.DiffIDs[0]; got != sum || config.Architecture != "amd64" {
			t.Errorf("the configuration has the layer %s, and it is %s of %d bytes", got, sum, n)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("two builds give %v", digests)
	}
}

func readBlob(t *testing.T, b *Bundle, d digest.Digest) []byte {
	t.Helper()
	blob, ok := b.find(d)
	if !ok {
		t.Fatalf("there is no blob %s", d)
	}
	in, err := blob.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	raw, err := io.ReadAll(in)
	if err != nil || digest.FromBytes(raw) != d {
		t.Fatalf("blob %s reads as %s, %v", d, digest.FromBytes(raw), err)
	}
	return raw
}

// TestEstargzKeepsLayers leaves layers alone that are not compressed so.
func TestEstargzKeepsLayers(t *testing.T) {
	img := testImage(t, "amd64")
	second := layerOf(tarOf(t, "second", "x", time.Unix(5, 0)))
	config, err := withDiffIDs(img.Config, []digest.Digest{""})
	if err != nil {
		t.Fatal(err)
	}
	var a, b ocispecs.Image
	if err := json.Unmarshal(img.Config, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(config, &b); err != nil {
		t.Fatal(err)
	}
	if a.RootFS.DiffIDs[0] != b.RootFS.DiffIDs[0] {
		t.Errorf("%s became %s", a.RootFS.DiffIDs[0], b.RootFS.DiffIDs[0])
	}
	if _, err := withDiffIDs(img.Config, []digest.Digest{"", second.DiffID}); err == nil {
		t.Error("a configuration of one layer takes two")
	}
}
