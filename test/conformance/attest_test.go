package conformance_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/test/registry"
)

// scanner is an SBOM's generator as BuildKit's protocol has it: it lists the files
// that it is shown, and how it was called.
const scanner = `set -eu
statement() {
	printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","subject":%s,' "$3"
	printf '"predicate":{"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT","name":"%s",' "$2"
	printf '"documentNamespace":"https://example.org/%s","creationInfo":{"created":"2024-01-02T03:04:05Z","creators":["Tool: scanner-%s"]},"files":[' \
		"$2" "$(env | grep ^BUILDKIT_SCAN_ | grep -v _type= | sort | tr '\n' ' ')"
	comma=
	find "$1" -type f | sort | while read -r f; do
		printf '%s{"fileName":"%s","SPDXID":"SPDXRef-%s","checksums":[{"algorithm":"SHA1","checksumValue":"%s"}],"licenseConcluded":"NOASSERTION","copyrightText":""}' \
			"$comma" "${f#$1}" "$(printf %s "$f" | md5sum | cut -c1-16)" "$(sha1sum < "$f" | cut -d' ' -f1)"
		comma=,
	done
	printf ']}}'
}
touch /left-behind
statement "$BUILDKIT_SCAN_SOURCE" sbom '[]' > "$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json"
if [ -n "${BUILDKIT_SCAN_SOURCE_EXTRAS:-}" ]; then
	for d in "$BUILDKIT_SCAN_SOURCE_EXTRAS"/*; do
		name=$(basename "$d")
		statement "$d" "$name" '[{"name":"raw","digest":{"sha256":"'$(printf %s "$name" | sha256sum | cut -c1-64)'"}}]' > "$BUILDKIT_SCAN_DESTINATION/$name.spdx.json"
	done
fi
`

func (s *suite) pushScanner(ctx context.Context) error {
	busybox, err := registry.Busybox(ctx)
	if err != nil {
		return err
	}
	layers, err := busybox.Layers()
	if err != nil {
		return err
	}
	script, err := registry.Layer([]registry.File{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "scan", Mode: 0o755}, Content: []byte(scanner)}})
	if err != nil {
		return err
	}
	img, err := registry.Image(v1.Config{
		Env: []string{"PATH=/bin", "BUILDKIT_SCAN_own=1"}, Entrypoint: []string{"sh"}, Cmd: []string{"/scan"}, WorkingDir: "/tmp",
	}, append(slices.Clip(layers), script)...)
	if err != nil {
		return err
	}
	return s.registry.Push(ctx, "tools/scanner:latest", img)
}

// TestAttestations compares what both attach to images: byte for byte, but for the
// images' own digests, the times of a build and the names of the programs.
func TestAttestations(t *testing.T) {
	s := newSuite(t)
	check(t, s.pushScanner(t.Context()))
	cases := map[string]struct {
		attest    string
		platforms string
		args      string
		artifact  string // an attribute of the output
		more      string // attributes of the target
	}{
		"sbom":        {attest: `["type=sbom,generator=tools/scanner"]`},
		"parameters":  {attest: `["type=sbom,generator=tools/scanner:latest,B=2,A=1,own=2"]`},
		"extras":      {attest: `["type=sbom,generator=tools/scanner"]`, args: `BUILDKIT_SBOM_SCAN_CONTEXT = "true", BUILDKIT_SBOM_SCAN_STAGE = "true"`},
		"one stage":   {attest: `["type=sbom,generator=tools/scanner"]`, args: `BUILDKIT_SBOM_SCAN_STAGE = "tools"`},
		"provenance":  {attest: `["type=provenance,mode=min"]`, args: `WORD = "confidential"`},
		"both":        {attest: `["type=provenance,mode=max,version=v0.2", "type=sbom,generator=tools/scanner"]`, args: `WORD = "w"`},
		"no artifact": {attest: `["type=provenance,mode=min", "type=sbom,generator=tools/scanner"]`, artifact: ",oci-artifact=false"},
		"secrets": {attest: `["type=provenance,mode=max"]`, more: `dockerfile = "secrets.Dockerfile"
			secret = ["id=given,src=a.txt", "id=unused,src=a.txt"]
			no-cache-filter = ["build"]`},
		"contexts": {attest: `["type=provenance,mode=max"]`, more: `dockerfile = "contexts.Dockerfile"
			contexts = { other = "docker-image://configured", files = "dir", unused = "docker-image://layered" }
			labels = { l = "1" }
			target = "chosen"
			shm-size = "64m"
			ulimits = ["nofile=100:200"]
			extra-hosts = { "h.example" = "10.0.0.1" }`},
		"contexts min": {attest: `["type=provenance,mode=min,version=v1"]`, more: `dockerfile = "contexts.Dockerfile"
			contexts = { other = "docker-image://configured", files = "dir" }
			network = "none"`},
		"inline": {attest: `["type=provenance,mode=max"]`, more: `dockerfile-inline = "FROM scratch\nCOPY a.txt /\n"`},
		"subdirectory": {attest: `["type=provenance,mode=max"]`, more: `context = "dir"
			dockerfile = "../inner.Dockerfile"`},
		"two platforms": {attest: `["type=provenance,mode=min", "type=sbom,generator=tools/scanner"]`, platforms: `"linux/amd64", "linux/arm64"`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), strings.ReplaceAll(name, " ", "-"))
			text := fmt.Sprintf("target \"default\" {\n  attest = %s\n  platforms = [%s]\n  args = { %s }\n  output = [\"type=registry%s\"]\n%s\n}\n", c.attest, c.platforms, c.args, c.artifact, c.more)
			files := map[string]string{"zbuild.hcl": text, "Dockerfile": attested, "a.txt": "a\n", "b.txt": "b\n", "not-taken.txt": "c\n", "dir/d.txt": "d\n"}
			maps.Copy(files, moreDockerfiles())
			for file, content := range files {
				check(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755))
				check(t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644))
			}
			check(t, age(dir))
			s.compareAttested(t, &testCase{name: filepath.Base(dir), targets: []string{"default"}}, dir)
		})
	}
}

// compareAttested has both build the project in a directory, and compares what they push
// and what they say of it.
func (s *suite) compareAttested(t *testing.T, tc *testCase, dir string) {
	t.Helper()
	var pushed [2]any
	for i, program := range []string{"zbuild", "buildkit"} {
		o := s.build(t.Context(), t, tc, dir, program, "--metadata-file", program+".json")
		if o.err != nil {
			t.Fatalf("%s: %v\n%s", program, o.err, o.output)
		}
		pushed[i] = s.everything(t, o.image, "default")
	}
	if d := cmp.Diff(pushed[1], pushed[0]); d != "" {
		t.Errorf("attestations (-buildkit +zbuild):\n%s", d)
	}
	ours, theirs := metadata(t, filepath.Join(dir, "zbuild.json")), metadata(t, filepath.Join(dir, "buildkit.json"))
	if d := cmp.Diff(theirs, ours); d != "" {
		t.Errorf("metadata (-buildkit +zbuild):\n%s", d)
	}
}

func moreDockerfiles() map[string]string {
	return map[string]string{
		"secrets.Dockerfile": `FROM busybox AS build
RUN --mount=type=secret,id=given --mount=type=secret,id=missing --mount=type=ssh --mount=type=secret,id=given,env=X echo ok > /foo
FROM scratch
COPY --from=build /foo /
`,
		"contexts.Dockerfile": `FROM layered AS unused
FROM other AS chosen
USER root
COPY --from=files d.txt /
RUN --mount=from=busybox,target=/m echo x > /x
`,
		"inner.Dockerfile": "FROM scratch\nCOPY d.txt /\n",
	}
}

const attested = `ARG BUILDKIT_SBOM_SCAN_STAGE
ARG BUILDKIT_SBOM_SCAN_CONTEXT
FROM scratch AS tools
COPY dir /tools
FROM tools AS files
ARG BUILDKIT_SBOM_SCAN_STAGE
ARG BUILDKIT_SBOM_SCAN_CONTEXT
ARG WORD
COPY a.txt /files/a.txt
FROM scratch
COPY --from=files /files /app
COPY --from=files /tools /tools
COPY b.txt /app/a.txt
COPY b.txt /app/
`

// everything is all that an image consists of, as JSON: its index, the manifests
// in it and what they state. Digests of images stand under other names.
func (s *suite) everything(t *testing.T, repository, tag string) any {
	t.Helper()
	index := s.get(t, repository+"/manifests/"+tag)
	var list ocispecs.Index
	check(t, json.Unmarshal(index, &list))
	names := make(map[string]string)
	docs := []json.RawMessage{nil}
	for i, m := range list.Manifests {
		raw := s.get(t, repository+"/manifests/"+m.Digest.String())
		names[m.Digest.String()] = fmt.Sprintf("manifest %d", i)
		var manifest ocispecs.Manifest
		check(t, json.Unmarshal(raw, &manifest))
		for j, l := range manifest.Layers {
			names[l.Digest.String()] = fmt.Sprintf("layer %d of manifest %d", j, i)
			if strings.HasSuffix(l.MediaType, "in-toto+json") {
				docs = append(docs, s.get(t, repository+"/blobs/"+l.Digest.String()))
			}
		}
		names[manifest.Config.Digest.String()] = fmt.Sprintf("configuration of manifest %d", i)
		if m.Platform.OS == "unknown" {
			docs = append(docs, raw, s.get(t, repository+"/blobs/"+manifest.Config.Digest.String()))
		}
	}
	docs[0] = index
	var out []any
	for _, doc := range docs {
		for hash, name := range names {
			_, hex, _ := strings.Cut(hash, ":")
			doc = bytes.ReplaceAll(doc, []byte(hex), []byte(name))
		}
		for _, program := range []string{"made-by-zbuild", "made-by-buildkit"} {
			doc = bytes.ReplaceAll(doc, []byte(program), []byte("made-by"))
		}
		var v any
		check(t, json.Unmarshal(doc, &v))
		out = append(out, neutral(v))
	}
	return out
}

func (s *suite) get(t *testing.T, path string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.registry.Addr()+"/v2/"+path, nil)
	check(t, err)
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	check(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	return data
}

// neutral is JSON without what two builds, or two programs, cannot have the same.
func neutral(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = neutral(v[i])
		}
	case map[string]any:
		for key, value := range v {
			if key == "dockerfilekey" || key == "frontend.caps" || strings.HasPrefix(key, "sharedkey:") {
				delete(v, key) // how buildx and buildkitd talk to one another
				continue
			}
			switch key {
			case "invocationId", "startedOn", "finishedOn", "buildInvocationID", "buildStartedOn", "buildFinishedOn", "size",
				"buildConfig", "buildkit_metadata", "https://mobyproject.org/buildkit@v1#metadata":
				// Of the graphs, zbuild's is in canonical form.
				delete(v, key)
			case "root":
				// The request as buildx sent it, around the one that it came to: build arguments
				// are in it even where they are left out of the other.
				delete(v, key)
			case "creators":
				list := value.([]any)
				list[len(list)-1] = program(list[len(list)-1].(string))
			default:
				v[key] = neutral(value)
				if args, ok := v[key].(map[string]any); ok && key == "args" && len(args) == 0 {
					delete(v, key)
				}
			}
		}
	}
	return v
}

func program(creator string) string {
	for _, prefix := range []string{"Tool: zbuild-", "Tool: buildkit-"} {
		if strings.HasPrefix(creator, prefix) {
			return "Tool: PROGRAM"
		}
	}
	return creator
}

// metadata is a metadata file, without what identifies a build.
func metadata(t *testing.T, file string) any {
	t.Helper()
	data, err := os.ReadFile(file)
	check(t, err)
	check(t, os.Remove(file))
	var v map[string]map[string]any
	check(t, json.Unmarshal(data, &v))
	for _, target := range v {
		for key, value := range target {
			switch {
			case key == "buildx.build.ref", strings.HasSuffix(key, ".digest"):
				target[key] = fmt.Sprintf("%T", value)
			case key == "containerimage.descriptor":
				d := value.(map[string]any)
				withoutDigests(d)
			case key == "image.name":
				target[key] = strings.NewReplacer("made-by-zbuild", "made-by", "made-by-buildkit", "made-by").Replace(value.(string))
			default:
				target[key] = neutral(value)
			}
		}
	}
	return v
}
