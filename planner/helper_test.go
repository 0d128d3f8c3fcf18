package planner

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/beneath"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// root is where the test projects lie. It does not exist: plans are made of the
// files that the tests hand in.
const root = "/project"

// world is a project with its files and images.
type world struct {
	t       testing.TB
	files   fstest.MapFS
	project *config.Project
	images  table
	opt     Options
}

// newWorld makes a world of the files of a txtar archive.
func newWorld(t testing.TB, archive string) *world {
	t.Helper()
	w := &world{t: t, files: fstest.MapFS{}, images: table{}, project: &config.Project{
		Dir: root, Targets: map[string]*config.Target{}, Sources: map[string][]byte{"zbuild.hcl": nil},
	}}
	for _, f := range txtar.Parse([]byte(archive)).Files {
		w.files[f.Name] = &fstest.MapFile{Data: f.Data, Mode: 0o644}
	}
	for _, ref := range []string{"docker.io/library/alpine:3", "docker.io/library/golang:1.26"} {
		w.images.add(ref, nil)
	}
	w.opt = Options{
		Images: w.images, Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"},
		ReadFile: func(path string) ([]byte, error) {
			data, err := fs.ReadFile(w.files, rel(path))
			if err != nil {
				if info, err2 := w.stat(path); err2 == nil && info.IsDir() {
					err = &fs.PathError{Op: "read", Path: path, Err: beneath.ErrDirectory}
				}
			}
			return data, err
		},
		Stat: w.stat,
	}
	return w
}

func rel(path string) string {
	if path == root {
		return "."
	}
	return filepath.ToSlash(strings.TrimPrefix(path, root+"/"))
}

func (w *world) stat(path string) (fs.FileInfo, error) { return fs.Stat(w.files, rel(path)) }

// target adds a requested target with the defaults that config gives it.
func (w *world) target(name string, change ...func(*config.Target)) {
	line := 10 * (len(w.project.Targets) + 1)
	at := func(n int) hcl.Range {
		return hcl.Range{Filename: "zbuild.hcl", Start: hcl.Pos{Line: line + n, Column: 1, Byte: 100*line + n}, End: hcl.Pos{Line: line + n, Column: 2, Byte: 100*line + n + 1}}
	}
	t := &config.Target{
		Name: name, Requested: true, Context: dir("."), Dockerfile: filepath.Join(root, "Dockerfile"), Pull: config.PullMissing,
		Range: at(0), Ranges: map[string]hcl.Range{
			"context": at(1), "contexts": at(2), "dockerfile": at(3), "target": at(4), "args": at(5), "platforms": at(6),
		},
	}
	for _, f := range change {
		f(t)
	}
	w.project.Targets[name] = t
}

func dir(path string) config.Context {
	return config.Context{Kind: config.ContextDir, Value: filepath.Join(root, path), Raw: path}
}

func stage(name string) func(*config.Target) { return func(t *config.Target) { t.Stage = name } }

func args(kv ...string) func(*config.Target) {
	return func(t *config.Target) {
		t.Args = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			t.Args[kv[i]] = kv[i+1]
		}
	}
}

func platformsOf(names ...string) func(*config.Target) {
	return func(t *config.Target) { t.Platforms = names }
}

func withContext(name string, c config.Context) func(*config.Target) {
	return func(t *config.Target) {
		if t.Contexts == nil {
			t.Contexts = map[string]config.Context{}
		}
		t.Contexts[name] = c
	}
}

func linkTo(name string) config.Context {
	return config.Context{Kind: config.ContextTarget, Value: name, Raw: "target:" + name}
}

func (w *world) build() (*Plan, hcl.Diagnostics) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return Build(ctx, w.project, w.opt)
}

// plan plans what has no mistakes.
func (w *world) plan() *Plan {
	w.t.Helper()
	p, diags := w.build()
	if diags.HasErrors() {
		w.t.Fatalf("planning:\n%s", text(diags))
	}
	checkPlan(w.t, p)
	return p
}

// text has one line per diagnostic.
func text(diags hcl.Diagnostics) string {
	var b strings.Builder
	for _, d := range diags {
		kind := "error"
		if d.Severity == hcl.DiagWarning {
			kind = "warning"
		}
		if c := CauseOf(d); c != "" {
			kind += "(" + string(c) + ")"
		}
		at := "-"
		if d.Subject != nil {
			at = fmt.Sprintf("%s:%d:%d-%d:%d", d.Subject.Filename, d.Subject.Start.Line, d.Subject.Start.Column, d.Subject.End.Line, d.Subject.End.Column)
		}
		fmt.Fprintf(&b, "%s %s: %s: %s\n", at, kind, d.Summary, d.Detail)
	}
	return b.String()
}

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// checkPlan checks what is true of every plan.
func checkPlan(t testing.TB, p *Plan) {
	t.Helper()
	seen := map[*Step]bool{}
	ids := map[digest.Digest]bool{}
	for _, s := range p.Steps {
		if ids[s.ID] {
			t.Errorf("step %s stands twice", s.ID)
		}
		ids[s.ID] = true
		if len(s.Inputs) != len(s.Op.Inputs) {
			t.Errorf("step %q: %d inputs, but %d of the operation", s.Name, len(s.Inputs), len(s.Op.Inputs))
		}
		for i, in := range s.Inputs {
			if !seen[in.Step] {
				t.Errorf("step %q comes before its input %q", s.Name, in.Step.Name)
			}
			if string(in.Step.ID) != s.Op.Inputs[i].Digest {
				t.Errorf("step %q: input %d is not the operation's", s.Name, i)
			}
		}
		seen[s] = true
		if s.Name == "" {
			t.Errorf("step %s has no name", s.ID)
		}
		if (s.Stage == nil) != (s.Local != nil) {
			t.Errorf("step %q: stage %v, local %v", s.Name, s.Stage, s.Local)
		}
		if s.Location != nil && p.Sources[s.Location.Filename] == nil {
			t.Errorf("step %q is in %s, which is no source", s.Name, s.Location.Filename)
		}
	}
	at := map[*Stage]int{}
	for i, s := range p.Stages {
		at[s] = i
		if len(s.Targets) == 0 || !slices.IsSorted(s.Targets) {
			t.Errorf("stage %s is for the targets %q", s.Name, s.Targets)
		}
	}
	for _, s := range p.Stages {
		for _, n := range s.Needs {
			if i, ok := at[n]; !ok || i >= at[s] {
				t.Errorf("stage %s needs %s, which does not come before it", s.Name, n.Name)
			}
		}
	}
	for _, tg := range p.Targets {
		if p.Target(tg.Name) != tg {
			t.Errorf("target %s is not found", tg.Name)
		}
		for _, r := range tg.Results {
			if r.Stage == nil {
				t.Errorf("target %s has no stage", tg.Name)
			}
			if n := len(r.Layers); n > 0 && r.Layers[n-1] != r.Root {
				t.Errorf("target %s: the last layer is not the root", tg.Name)
			}
		}
	}
}

// names are the names of the steps that a filter lets pass.
func names(p *Plan, prefix string) []string {
	var out []string
	for _, s := range p.Steps {
		if strings.HasPrefix(s.Name, prefix) {
			out = append(out, s.Name)
		}
	}
	return out
}

// table is a store of images.
type table map[string]*BaseImage

func (tb table) add(ref string, change func(*ocispecs.Image)) {
	img := ocispecs.Image{
		Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"},
		Config:   ocispecs.ImageConfig{Env: []string{"PATH=/usr/bin:/bin"}},
		RootFS:   ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString(ref)}},
		History:  []ocispecs.History{{CreatedBy: ref}},
	}
	if change != nil {
		change(&img)
	}
	cfg, err := json.Marshal(img)
	if err != nil {
		panic(err)
	}
	tb[ref] = &BaseImage{Ref: ref, Digest: digest.FromString("manifest of " + ref), ConfigDigest: digest.FromBytes(cfg), Config: cfg, DiffIDs: img.RootFS.DiffIDs}
}

func (tb table) Resolve(_ context.Context, req ImageRequest) (*BaseImage, error) {
	ref := req.Ref
	if !req.Explicit && req.DefaultRegistry != "" {
		ref = req.DefaultRegistry + "/" + strings.TrimPrefix(strings.TrimPrefix(ref, "docker.io/"), "library/")
	}
	img, ok := tb[ref]
	if !ok {
		return nil, errors.New("not in the store, and no registry has it")
	}
	out := *img
	var cfg dockerspec.DockerOCIImage
	if err := json.Unmarshal(img.Config, &cfg); err != nil {
		return nil, err
	}
	cfg.Platform = req.Platform
	out.Platform = req.Platform
	out.Config, _ = json.Marshal(cfg)
	return &out, nil
}
