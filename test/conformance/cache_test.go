package conformance_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/tools/txtar"
)

// visitors is a web server that steps visit, so that it is known which of them ran,
// whatever a program says.
type visitors struct {
	*httptest.Server
	mu    sync.Mutex
	names []string
}

func newVisitors(t *testing.T) *visitors {
	t.Helper()
	v := &visitors{}
	v.Server = httptest.NewServer(v)
	t.Cleanup(v.Close)
	return v
}

// ServeHTTP is for http.Handler.
func (v *visitors) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.names = append(v.names, strings.TrimPrefix(r.URL.Path, "/"))
	fmt.Fprintln(w, "seen", r.URL.Path)
}

// since are the steps that ran since it was asked the last time.
func (v *visitors) since() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := v.names
	v.names = nil
	slices.Sort(out)
	return out
}

// cacheProject has stages that copy from one another, and in two targets the same.
const cacheProject = `
-- zbuild.hcl --
variable "BY" { default = "" }
variable "TO" { default = "" }
variable "FROM" { default = "" }
target "default" {
  cache-to   = TO == "" ? [] : [replace(TO, "BY", BY)]
  cache-from = FROM == "" ? [] : [replace(FROM, "BY", BY)]
}
target "argument" {
  inherits = ["default"]
  args     = { BUILDKIT_INLINE_CACHE = "1" }
}
target "two" {
  inherits   = ["default"]
  dockerfile = "two.Dockerfile"
  platforms  = ["linux/amd64", "linux/arm64"]
}
-- Dockerfile --
FROM busybox AS base
RUN wget -qO /base http://VISITORS/base
FROM base AS tools
COPY tools.txt /
RUN wget -qO /tools http://VISITORS/tools
FROM base AS build
COPY src.txt /
RUN wget -qO /build http://VISITORS/build
COPY --from=tools /tools /usr/
RUN wget -qO /late http://VISITORS/late
FROM busybox AS final
COPY --from=build /build /late /
RUN --mount=from=tools,source=/tools,target=/m wget -qO /final http://VISITORS/final
COPY last.txt /
-- two.Dockerfile --
FROM --platform=$BUILDPLATFORM busybox AS build
RUN wget -qO /common http://VISITORS/common
COPY src.txt /
ARG TARGETARCH
RUN wget -qO /program http://VISITORS/program-$TARGETARCH
FROM scratch
COPY --from=build /program /
COPY last.txt /
-- src.txt --
src
-- tools.txt --
tools
-- last.txt --
last
`

// cacheWorld is a project that both build, with as many fresh stores as are wanted.
type cacheWorld struct {
	*suite
	visitors *visitors
	dir      string
}

func newCacheWorld(t *testing.T, s *suite, v *visitors, project string) *cacheWorld {
	t.Helper()
	w := &cacheWorld{suite: s, visitors: v, dir: filepath.Join(t.TempDir(), "project")}
	check(t, os.Mkdir(w.dir, 0o755))
	places := strings.NewReplacer("REGISTRY", s.registry.Addr(), "VISITORS", v.Listener.Addr().String())
	c := &testCase{archive: txtar.Parse([]byte(project))}
	check(t, c.unpack(t.Context(), w.dir, places))
	return w
}

// fresh has one of the programs build in a store that has nothing, and gives the steps
// that ran.
func (w *cacheWorld) fresh(t *testing.T, program, target string, env ...string) (ran []string, o outcome) {
	t.Helper()
	var more []string
	if program == "buildkit" {
		prune, err := w.daemon.Buildx(t.Context(), "prune", "--all", "--force")
		check(t, err)
		if out, err := prune.CombinedOutput(); err != nil {
			t.Fatalf("prune: %v\n%s", err, out)
		}
	} else {
		// Not t.TempDir, which does not go away with what is owned by others.
		store, err := os.MkdirTemp("", "conf-") //nolint:usetesting // see above
		check(t, err)
		defer os.RemoveAll(store)
		more = []string{"--root", filepath.Join(store, "root"), "--runroot", filepath.Join(store, "run")}
	}
	return w.again(t, program, target, more, env...)
}

// again is fresh in a store that may have something.
func (w *cacheWorld) again(t *testing.T, program, target string, more []string, env ...string) (ran []string, o outcome) {
	t.Helper()
	for i, e := range env {
		env[i] = strings.ReplaceAll(e, "REGISTRY", w.registry.Addr())
	}
	c := &testCase{name: "cached", targets: []string{target}, env: append(slices.Clip(env), "BY="+program)}
	w.visitors.since()
	o = w.build(t.Context(), t, c, w.dir, program, more...)
	return w.visitors.since(), o
}

// built is fresh for what has to succeed.
func (w *cacheWorld) built(t *testing.T, program, target string, env ...string) ([]string, string) {
	t.Helper()
	ran, o := w.fresh(t, program, target, env...)
	if o.err != nil {
		t.Fatalf("%s: %v\n%s", program, o.err, o.output)
	}
	return ran, o.output
}

func programs() []string { return []string{"zbuild", "buildkit"} }

// TestCachedSteps has both export a cache, and compares which steps run on a machine that
// has nothing but that, after edits of several kinds.
func TestCachedSteps(t *testing.T) {
	s, v := newSuite(t), newVisitors(t)
	edits := map[string]map[string]string{
		"nothing":                            {},
		"what is copied at the end":          {"last.txt": "changed\n"},
		"the source":                         {"src.txt": "changed\n"},
		"a stage that leaves the same files": {"tools.txt": "changed\n"},
		"an instruction at the end":          {"Dockerfile": "+RUN wget -qO /more http://VISITORS/more\n", "two.Dockerfile": "+ENV a=b\n"},
	}
	// What zbuild runs where it differs. With mode=min its caches know of no step whose
	// result they lack: what copies from a stage that copies from another one cannot be
	// found by what that one left. BuildKit finds of an inline cache of several platforms
	// only one.
	otherwise := map[string][]string{
		"registry min: a stage that leaves the same files": {"base", "build", "late", "tools"},
		"inline: a stage that leaves the same files":       {"base", "build", "late", "tools"},
		"platforms inline: nothing":                        nil,
	}
	few := []string{"nothing", "the source"} // where another kind of cache has shown the rest
	for name, c := range map[string]struct {
		to, from, target string
		edits            []string
	}{
		"registry max":     {"type=registry,ref=REGISTRY/cached/BY:max,mode=max", "type=registry,ref=REGISTRY/cached/BY:max", "default", nil},
		"registry min":     {"type=registry,ref=REGISTRY/cached/BY:min", "REGISTRY/cached/BY:min", "default", nil},
		"local max":        {"type=local,dest=cache-BY-max,mode=max,compression=zstd", "type=local,src=cache-BY-max", "default", few},
		"local min":        {"type=local,dest=cache-BY-min,tag=t,mode=min", "type=local,src=cache-BY-min,tag=t", "default", few},
		"inline":           {"type=inline", "REGISTRY/made-by-BY/cached:default", "default", nil},
		"platforms max":    {"type=registry,ref=REGISTRY/cached/BY:two,mode=max", "REGISTRY/cached/BY:two", "two", nil},
		"platforms min":    {"type=registry,ref=REGISTRY/cached/BY:twomin,mode=min", "REGISTRY/cached/BY:twomin", "two", few},
		"inline argument":  {"", "REGISTRY/made-by-BY/cached:argument", "argument", few},
		"platforms inline": {"type=inline", "REGISTRY/made-by-BY/cached:two", "two", few},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCacheWorld(t, s, v, cacheProject)
			var all [2][]string
			for i, program := range programs() {
				all[i], _ = w.built(t, program, c.target, "TO="+c.to)
			}
			if d := cmp.Diff(all[1], all[0]); d != "" || len(all[0]) == 0 {
				t.Fatalf("without a cache there ran (-buildkit +zbuild):\n%s", d)
			}
			// An inline cache is that of the image, which a build with another one replaces.
			from := strings.Replace(c.from, "made-by-BY/cached", "kept/BY", 1)
			if from != c.from {
				for _, program := range programs() {
					w.keep(t, "made-by-"+program+"/cached", "kept/"+program, c.target)
				}
			}
			for what, files := range edits {
				if c.edits != nil && !slices.Contains(c.edits, what) {
					continue
				}
				before := w.edit(t, files)
				var ran [2][]string
				for i, program := range programs() {
					ran[i], _ = w.built(t, program, c.target, "FROM="+from)
				}
				if d := cmp.Diff(ran[1], ran[0]); d != "" && !slices.Equal(ran[0], otherwise[name+": "+what]) {
					t.Errorf("%s changed: there ran (-buildkit +zbuild):\n%s", what, d)
				}
				w.edit(t, before)
			}
		})
	}
}

// edit puts files in place of others, or at their end, and gives the others.
func (w *cacheWorld) edit(t *testing.T, files map[string]string) map[string]string {
	t.Helper()
	before := make(map[string]string)
	for name, text := range files {
		file := filepath.Join(w.dir, name)
		old, err := os.ReadFile(file)
		check(t, err)
		before[name] = string(old)
		if more, ok := strings.CutPrefix(text, "+"); ok {
			text = string(old) + strings.ReplaceAll(more, "VISITORS", w.visitors.Listener.Addr().String())
		}
		check(t, os.WriteFile(file, []byte(text), 0o644))
	}
	return before
}

// keep gives an image another name, with all that belongs to it.
func (w *cacheWorld) keep(t *testing.T, from, to, tag string) {
	t.Helper()
	put := func(path, mediaType string, data []byte) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+w.registry.Addr()+"/v2/"+path, strings.NewReader(string(data)))
		check(t, err)
		req.Header.Set("Content-Type", mediaType)
		resp, err := http.DefaultClient.Do(req)
		check(t, err)
		check(t, resp.Body.Close())
		if resp.StatusCode/100 != 2 {
			t.Fatalf("%s: %s", path, resp.Status)
		}
	}
	// Blobs need no copy: the registry has one heap of them for all.
	raw := w.get(t, from+"/manifests/"+tag)
	var list ocispecs.Index
	check(t, json.Unmarshal(raw, &list))
	for _, m := range list.Manifests {
		put(to+"/manifests/"+m.Digest.String(), m.MediaType, w.get(t, from+"/manifests/"+m.Digest.String()))
	}
	put(to+"/manifests/"+tag, list.MediaType, raw)
}

// TestCacheForms compares what caches in registries consist of, as far as anybody but
// the program that wrote them sees it.
func TestCacheForms(t *testing.T) {
	s, v := newSuite(t), newVisitors(t)
	w := newCacheWorld(t, s, v, strings.Replace(cacheProject, "-- Dockerfile --", "-- full.Dockerfile --", 1)+"-- Dockerfile --\nFROM scratch\nCOPY src.txt /\nCOPY last.txt /\n")
	// Without force, BuildKit has the form in which the image left before.
	for name, attrs := range map[string]string{
		"plain": "", "zstd": ",compression=zstd,force-compression=true", "uncompressed": ",compression=uncompressed,force-compression=true",
		"zstd 19": ",compression=zstd,compression-level=19,force-compression=true", "estargz": ",compression=estargz", "spelled out": ",oci-mediatypes=true,image-manifest=true",
	} {
		t.Run(name, func(t *testing.T) {
			var got [2]any
			for i, program := range programs() {
				tag := strings.ReplaceAll(name, " ", "-")
				w.built(t, program, "default", "TO=type=registry,ref=REGISTRY/forms/BY:"+tag+",mode=max"+attrs)
				var m ocispecs.Manifest
				check(t, json.Unmarshal(s.get(t, "forms/"+program+"/manifests/"+tag), &m))
				types := []string{m.MediaType}
				for _, l := range m.Layers {
					types = append(types, l.MediaType)
				}
				got[i] = types
			}
			if d := cmp.Diff(got[1], got[0]); d != "" {
				t.Errorf("media types (-buildkit +zbuild):\n%s", d)
			}
		})
	}
	for name, attrs := range map[string]string{
		"compression unknown": ",compression=lzma", "level": ",compression-level=high", "conflict": ",image-manifest=true,oci-mediatypes=false",
		"no boolean": ",oci-mediatypes=perhaps", "no boolean 2": ",image-manifest=perhaps", "no boolean 3": ",force-compression=perhaps",
	} {
		t.Run(name, func(t *testing.T) {
			for _, program := range programs() {
				if _, o := w.fresh(t, program, "default", "TO=type=registry,ref=REGISTRY/forms/BY:no"+attrs); o.err == nil {
					t.Errorf("%s takes it", program)
				}
			}
		})
	}
}

// TestCachesThatFail compares what both make of caches that are not there, that are the
// other's, and that cannot be written.
func TestCachesThatFail(t *testing.T) {
	s, v := newSuite(t), newVisitors(t)
	w := newCacheWorld(t, s, v, cacheProject)
	for _, program := range programs() {
		for i, attrs := range []string{"mode=max", "mode=max,image-manifest=false"} {
			w.built(t, program, "default", fmt.Sprintf("TO=type=registry,ref=REGISTRY/whose/BY:%d,%s", i, attrs))
		}
		w.built(t, program, "default", "TO=type=local,dest=whose-BY,mode=max")
		w.built(t, program, "two", "TO=type=inline")
		w.keep(t, "made-by-"+program+"/cached", "whose/"+program, "two")
	}
	const full = 5
	for name, c := range map[string]struct{ from, says string }{
		"no such name":      {"type=registry,ref=REGISTRY/cached/nowhere:no", ""},
		"no such registry":  {"type=registry,ref=127.0.0.1:9/nowhere", ""},
		"no such directory": {"type=local,src=nowhere", ""},
		"no such tag":       {"type=local,src=whose-BY,tag=nope", ""},
		"no such digest":    {"type=local,src=whose-BY,digest=sha256:0000000000000000000000000000000000000000000000000000000000000000", ""},
		"of the other":      {"type=registry,ref=REGISTRY/whose/OTHER:0", "BuildKit wrote it"},
		"of the other, old": {"type=registry,ref=REGISTRY/whose/OTHER:1", "BuildKit wrote it"},
		"inline":            {"type=registry,ref=REGISTRY/whose/OTHER:two", "BuildKit wrote it"},
		"directory":         {"type=local,src=whose-OTHER", "BuildKit wrote it"},
		"no cache":          {"type=registry,ref=REGISTRY/library/busybox:latest", "neither a cache"},
	} {
		t.Run(name, func(t *testing.T) {
			for i, program := range programs() {
				ran, output := w.built(t, program, "default", "FROM="+strings.ReplaceAll(c.from, "OTHER", programs()[1-i]))
				if len(ran) != full {
					t.Errorf("%s: there ran %q", program, ran)
				}
				if program == "zbuild" && (!strings.Contains(output, "cannot be used") || !strings.Contains(output, c.says)) {
					t.Errorf("zbuild does not say what is wrong:\n%s", output)
				}
			}
		})
	}
	for name, c := range map[string]struct {
		to    string
		fails bool
	}{
		"cannot be written":   {"type=registry,ref=127.0.0.1:9/nowhere", true},
		"need not be written": {"type=registry,ref=127.0.0.1:9/nowhere,ignore-error=true", false},
		"directory is a file": {"type=local,dest=src.txt", true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, program := range programs() {
				if _, o := w.fresh(t, program, "default", "TO="+c.to); c.fails != (o.err != nil) {
					t.Errorf("%s: %v\n%s", program, o.err, o.output)
				}
			}
		})
	}
}

// TestCacheDirectories compares what is in the directories of local caches that several
// builds have written to: each tag stands for the last one, by its digest the one before
// can be had, and reset takes away what no tag stands for.
func TestCacheDirectories(t *testing.T) {
	s, v := newSuite(t), newVisitors(t)
	w := newCacheWorld(t, s, v, cacheProject)
	index := func(program string) (tags []string, digests map[string]string) {
		raw, err := os.ReadFile(filepath.Join(w.dir, "dir-"+program, "index.json"))
		check(t, err)
		var idx ocispecs.Index
		check(t, json.Unmarshal(raw, &idx))
		digests = make(map[string]string)
		for _, m := range idx.Manifests {
			tag := m.Annotations[ocispecs.AnnotationRefName]
			tags, digests[tag] = append(tags, tag), m.Digest.String()
		}
		slices.Sort(tags)
		return tags, digests
	}
	stale := func(program string) int {
		n := 0
		raw, err := os.ReadDir(filepath.Join(w.dir, "dir-"+program, "blobs", "sha256"))
		check(t, err)
		for _, e := range raw {
			data, err := os.ReadFile(filepath.Join(w.dir, "dir-"+program, "blobs", "sha256", e.Name()))
			check(t, err)
			var m ocispecs.Manifest
			if json.Unmarshal(data, &m) == nil && m.Config.Digest != "" {
				n++
			}
		}
		return n
	}
	var got [2][]any
	for i, program := range programs() {
		note := func(what ...any) { got[i] = append(got[i], what...) }
		w.built(t, program, "default", "TO=type=local,dest=dir-BY,mode=max")
		_, digests := index(program)
		old := digests["latest"]
		before := w.edit(t, map[string]string{"src.txt": "other\n"})
		w.built(t, program, "default", "TO=type=local,dest=dir-BY,mode=max")
		w.built(t, program, "default", "TO=type=local,dest=dir-BY,mode=max,tag=other")
		tags, _ := index(program)
		note("tags", tags, "manifests", stale(program))
		w.edit(t, before)
		ran, _ := w.built(t, program, "default", "FROM=type=local,src=dir-BY")
		note("of the last", ran)
		ran, _ = w.built(t, program, "default", "FROM=type=local,src=dir-BY,digest="+old)
		note("by its digest", ran)
		w.built(t, program, "default", "TO=type=local,dest=dir-BY,mode=max,reset=true")
		tags, _ = index(program)
		note("tags after a reset", tags, "manifests", stale(program))
		ran, _ = w.built(t, program, "default", "FROM=type=local,src=dir-BY")
		note("after a reset", ran)
	}
	if d := cmp.Diff(got[1], got[0]); d != "" {
		t.Errorf("(-buildkit +zbuild):\n%s", d)
	}
}
