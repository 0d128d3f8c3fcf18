package conformance_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// The files are others in each case: what buildkit has compressed once it does not
// compress in another way, unless it is forced to.
const outputsDockerfile = `FROM busybox
COPY a.txt /a
RUN cat /a > /b
ENV C=c
`

const treeDockerfile = `FROM busybox AS made
RUN mkdir -p -m 700 /t/private && mkdir -m 1777 /t/sticky && echo x > /t/private/x && ln /t/private/x /t/hard && ln -s private/x /t/link && ln -s /nowhere /t/dangling
RUN chown -R 12:34 /t/private && chmod 4755 /t/private/x && mkfifo /t/fifo && mkdir /links && ln -s t /links/to-t && touch -h -d "2001-02-03 04:05:06" /t/private/x /t/link && touch -d "2001-02-03 04:05:06" /t/private /t
FROM scratch
COPY a.txt /a
COPY --from=made /t /t/
COPY --from=made /t/hard /t/link /
COPY --from=made /links/ /
`

// TestOutputs compares what leaves with the attributes that outputs have: media
// types, compressions, annotations and lists, and what both say of it in the
// metadata file.
func TestOutputs(t *testing.T) {
	s := newSuite(t)
	cases := outputCases()
	maps.Copy(cases, fileOutputCases())
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), strings.ReplaceAll(name, " ", "-"))
			files := map[string]string{"zbuild.hcl": "target \"default\" {\n" + c.target + "\n}\n", "Dockerfile": outputsDockerfile, "a.txt": name + "\n", "scratch.Dockerfile": "FROM scratch\nCOPY a.txt /\nCOPY a.txt /d/\n", "tree.Dockerfile": treeDockerfile, "per.Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY a.txt /$TARGETARCH\n"}
			check(t, os.MkdirAll(dir, 0o755))
			for file, content := range files {
				check(t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644))
			}
			check(t, age(dir))
			var left, said [2]any
			for i, program := range []string{"zbuild", "buildkit"} {
				if c.stale {
					makeStale(t, filepath.Join(dir, "out"))
				}
				tc := &testCase{name: filepath.Base(dir), targets: []string{"default"}, env: c.env}
				o := s.build(t.Context(), t, tc, dir, program, "--metadata-file", program+".json")
				if c.fails != (o.err != nil) {
					t.Fatalf("%s: %v\n%s", program, o.err, o.output)
				}
				if c.fails {
					continue
				}
				said[i] = metadata(t, filepath.Join(dir, program+".json"))
				if c.leaves == nil {
					left[i] = s.shape(t, o.image, "default")
					continue
				}
				out := filepath.Join(dir, "out")
				left[i] = c.leaves(t, out)
				check(t, os.RemoveAll(out))
			}
			if d := cmp.Diff(left[1], left[0]); d != "" {
				t.Errorf("what leaves (-buildkit +zbuild):\n%s", d)
			}
			if d := cmp.Diff(said[1], said[0]); d != "" {
				t.Errorf("metadata (-buildkit +zbuild):\n%s", d)
			}
		})
	}
}

// makeStale makes files that an output finds: some in its way, and others. There are no
// two directories beside one another: buildx fails over those when it deletes.
func makeStale(t *testing.T, dir string) {
	t.Helper()
	for _, file := range []string{"a", "stale", "t/stale", "link/was-a-directory", "u", "zz/x"} {
		file = filepath.Join(dir, file)
		check(t, os.MkdirAll(filepath.Dir(file), 0o755))
		check(t, os.WriteFile(file, []byte("stale"), 0o600))
	}
	check(t, os.Symlink("stale", filepath.Join(dir, "hard")))
	check(t, age(dir))
}

type outputCase struct {
	target string // its attributes
	env    []string
	fails  bool
	stale  bool                               // there are files already where it goes
	leaves func(t *testing.T, dir string) any // reads what goes to "out" and nowhere else; nil for what is pushed
}

func outputCases() map[string]outputCase {
	out := func(attrs string) string { return fmt.Sprintf("output = [%q]", "type=registry"+attrs) }
	const both = "platforms = [\"linux/amd64\", \"linux/arm64\"]\ndockerfile = \"scratch.Dockerfile\"\n"
	return map[string]outputCase{
		"plain":              {target: out("")},
		"image":              {target: `output = ["type=image,push=true"]`},
		"gzip 1":             {target: out(",compression=gzip,compression-level=1")},
		"gzip 9 forced":      {target: out(",compression=gzip,compression-level=9,force-compression=true")},
		"zstd":               {target: out(",compression=zstd")},
		"zstd forced":        {target: out(",compression=zstd,compression-level=19,force-compression=true")},
		"uncompressed":       {target: out(",compression=uncompressed,force-compression=true")},
		"estargz":            {target: out(",compression=estargz")},
		"estargz forced":     {target: out(",compression=estargz,compression-level=9,force-compression=true")},
		"estargz docker":     {target: out(",compression=estargz,oci-mediatypes=false"), fails: true},
		"estargz of two":     {target: both + out(",compression=estargz")},
		"list of one":        {target: "args = { BUILDKIT_MULTI_PLATFORM = \"1\" }\n" + out("")},
		"list of one named":  {target: "args = { BUILDKIT_MULTI_PLATFORM = \"true\" }\nplatforms = [\"linux/arm64\"]\ndockerfile = \"scratch.Dockerfile\"\n" + out(",annotation-index.a=b")},
		"no list of one":     {target: "args = { BUILDKIT_MULTI_PLATFORM = \"0\" }\n" + out("")},
		"no list of two":     {target: "args = { BUILDKIT_MULTI_PLATFORM = \"0\" }\n" + both + out(""), fails: true},
		"list unknown":       {target: "args = { BUILDKIT_MULTI_PLATFORM = \"perhaps\" }\n" + out(""), fails: true},
		"oci":                {target: out(",oci-mediatypes=true")},
		"docker":             {target: out(",oci-mediatypes=false")},
		"docker zstd":        {target: out(",oci-mediatypes=false,compression=zstd")},
		"docker zstd forced": {target: out(",oci-mediatypes=false,compression=zstd,force-compression=true")},
		"docker forced":      {target: out(",oci-mediatypes=false,compression=gzip,force-compression=true")},
		"docker list":        {target: both + out(",oci-mediatypes=false")},
		"annotations":        {target: out("") + "\n" + `annotations = ["a=1", "manifest:b=2", "manifest-descriptor:c=3"]`},
		"annotations list": {target: both + out("") + "\n" + `annotations = [
			"a=1", "manifest:b=2", "manifest-descriptor:c=3", "index:d=4", "index-descriptor:e=5", "index,manifest:f=6",
			"manifest[linux/arm64]:g=7", "manifest-descriptor[linux/amd64]:h=8", "manifest[linux/amd64]:b=own"]`},
		"annotations index of one": {target: out("") + "\n" + `annotations = ["index:d=4"]`, fails: true},
		"annotations attested": {target: out("") + "\n" + `attest = ["type=provenance,mode=min"]
			annotations = ["a=1", "index:d=4", "index-descriptor:e=5", "manifest-descriptor:c=3"]`},
		"annotations docker":             {target: out(",oci-mediatypes=false") + "\n" + `annotations = ["manifest-descriptor:d=4"]`, fails: true},
		"annotations elsewhere":          {target: both + out("") + "\n" + `annotations = ["manifest[linux/s390x]:d=4"]`, fails: true},
		"annotations elsewhere of one":   {target: out("") + "\n" + `annotations = ["manifest[linux/s390x]:d=4", "c=3"]`},
		"annotations elsewhere attested": {target: out("") + "\n" + `attest = ["type=provenance,mode=min"]` + "\n" + `annotations = ["manifest[linux/s390x]:d=4"]`},
		"annotations attributes":         {target: out(",annotation.x=1,annotation-manifest-descriptor.y=2")},
		"one platform":                   {target: "platforms = [\"linux/arm64\"]\ndockerfile = \"scratch.Dockerfile\"\n" + out("")},
		"epoch":                          {target: out(",rewrite-timestamp=true"), env: []string{"SOURCE_DATE_EPOCH=1500000000"}},
		"two outputs":                    {target: `output = ["type=registry", "type=oci,dest=out", "type=tar,dest=tree.tar"]`},
	}
}

// shape is what an image consists of: lists, manifests and configurations as JSON,
// and of layers how they are compressed. Digests stand under other names.
func (s *suite) shape(t *testing.T, repository, tag string) any {
	t.Helper()
	raw := s.get(t, repository+"/manifests/"+tag)
	var list ocispecs.Index
	check(t, json.Unmarshal(raw, &list))
	out := []any{s.plain(t, raw)}
	for _, m := range list.Manifests {
		if m.Platform == nil || m.Platform.OS != "unknown" {
			out = append(out, s.plain(t, s.get(t, repository+"/manifests/"+m.Digest.String())))
		}
	}
	return out
}

// hashes are digests, also as names of files; madeBy is what tells names apart.
var (
	hashes = regexp.MustCompile(`(sha256[:/])[0-9a-f]{64}`)
	madeBy = regexp.MustCompile(`made-by-(zbuild|buildkit)`)
)

func (s *suite) plain(t *testing.T, raw []byte) any {
	t.Helper()
	var v any
	check(t, json.Unmarshal(raw, &v))
	return withoutDigests(v)
}

// withoutDigests is JSON without what two builds cannot have the same.
func withoutDigests(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = withoutDigests(v[i])
		}
	case map[string]any:
		for key, value := range v {
			switch key {
			case "buildkit/rewritten-timestamp": // a note of its own
				delete(v, key)
				continue
			case "org.opencontainers.image.created":
				_, err := time.Parse(time.RFC3339, fmt.Sprint(value))
				v[key] = err
			case "layers":
				if value == nil { // which the specification does not allow
					v[key] = []any{}
				}
				v[key] = withoutDigests(v[key])
			case "digest", "size", "vnd.docker.reference.digest", "containerd.io/snapshot/stargz/toc.digest":
				v[key] = fmt.Sprintf("%T", value)
			default:
				if v[key] = withoutDigests(value); key == "annotations" && len(value.(map[string]any)) == 0 {
					delete(v, key)
				}
			}
		}
	}
	return v
}
