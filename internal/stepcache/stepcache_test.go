package stepcache

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func sample(t testing.TB) (ocispecs.Manifest, []byte) {
	t.Helper()
	b := NewBuilder[ocispecs.Descriptor]()
	one, two := digest.FromString("one"), digest.FromString("two")
	for _, d := range []digest.Digest{one, two, one} {
		if _, err := b.Layer(Layer{DiffID: d, Size: 3}, func() (ocispecs.Descriptor, error) {
			return ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: d, Size: 3}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	b.Add(Record{Key: digest.FromString("a"), Step: "RUN a", Created: time.Unix(1, 0).UTC(), Outputs: []int{1}, Rest: one, Taken: []digest.Digest{two}})
	b.Add(Record{Key: digest.FromString("b"), SameAs: digest.FromString("a")})
	raw, err := json.Marshal(b.Config())
	if err != nil {
		t.Fatal(err)
	}
	return ocispecs.Manifest{Config: ocispecs.Descriptor{MediaType: ConfigType}, Layers: b.Blobs}, raw
}

func TestRoundTrip(t *testing.T) {
	m, raw := sample(t)
	found, err := Parse(m, raw)
	if err != nil {
		t.Fatal(err)
	}
	one, two := digest.FromString("one"), digest.FromString("two")
	want := []Found{
		{
			Record: Record{Key: digest.FromString("a"), Step: "RUN a", Created: time.Unix(1, 0).UTC(), Outputs: []int{1}, Rest: one, Taken: []digest.Digest{two}},
			Layers: []FoundLayer{{Layer: Layer{DiffID: two, Size: 3}, Blob: m.Layers[1]}},
		},
		{Record: Record{Key: digest.FromString("b"), SameAs: digest.FromString("a")}},
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
}

func TestRefuses(t *testing.T) {
	m, raw := sample(t)
	for name, change := range map[string]func(string) string{
		"rubbish":        func(string) string { return "\x00{" },
		"a layer more":   func(s string) string { return strings.Replace(s, `"layers":[`, `"layers":[{"diffID":"sha256:x"},`, 1) },
		"no such layer":  func(s string) string { return strings.Replace(s, `"outputs":[1]`, `"outputs":[2]`, 1) },
		"negative layer": func(s string) string { return strings.Replace(s, `"outputs":[1]`, `"outputs":[-1]`, 1) },
		"negative size":  func(s string) string { return strings.Replace(s, `"size":3`, `"size":-3`, 1) },
		"no key":         func(s string) string { return strings.Replace(s, digest.FromString("a").String(), "sha256:ab", 1) },
		"path": func(s string) string {
			return strings.Replace(s, digest.FromString("one").String(), "sha256:../../etc", 1)
		},
	} {
		if _, err := Parse(m, []byte(change(string(raw)))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, change := range map[string]string{"rest": `"rest":"x"`, "taken": `"taken":["sha256:ab"]`} {
		if _, err := Parse(m, []byte(strings.Replace(string(raw), `"sameAs"`, change+`,"sameAs"`, 1))); err == nil {
			t.Errorf("an invalid %s is accepted", name)
		}
	}
	image := ocispecs.Manifest{Config: ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageConfig}}
	if _, err := Parse(image, []byte(`{"rootfs":{"type":"layers"}}`)); err == nil {
		t.Error("an image without records is accepted")
	}
}

// TestBuildKit is told what is a cache of BuildKit's: of a registry, and of an image.
func TestBuildKit(t *testing.T) {
	if err := CheckType("application/vnd.buildkit.cacheconfig.v0"); !errors.Is(err, errBuildKit) {
		t.Error(err)
	}
	if err := errors.Join(CheckType(ConfigType), CheckType(ocispecs.MediaTypeImageManifest), CheckType("")); err != nil {
		t.Error(err)
	}
	image := ocispecs.Manifest{Config: ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageConfig}}
	if _, err := Parse(image, []byte(`{"rootfs":{"type":"layers"},"moby.buildkit.cache.v0":"W10="}`)); !errors.Is(err, errBuildKit) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	m, raw := sample(f)
	f.Add(raw, true)
	f.Add([]byte(`{"rootfs":{"diff_ids":["sha256:00","x"]},"zbuild.cache.v1":{"layers":[{},{}],"records":[{"key":"k","outputs":[0]}]}}`), false)
	f.Fuzz(func(t *testing.T, config []byte, own bool) {
		m := m
		if !own {
			m.Config.MediaType = ocispecs.MediaTypeImageConfig
		}
		found, err := Parse(m, config)
		if err != nil {
			return
		}
		for _, r := range found {
			if r.Key.Validate() != nil || len(r.Layers) == 0 && r.SameAs == "" {
				t.Errorf("%+v", r)
			}
			for _, l := range r.Layers {
				if l.DiffID.Validate() != nil || l.Size < 0 || l.Blob.Digest.Validate() != nil {
					t.Errorf("%+v", l)
				}
			}
		}
	})
}
