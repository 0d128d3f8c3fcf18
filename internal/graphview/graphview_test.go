package graphview

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/planner"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const root = "/project"

// anyImage has every image.
type anyImage struct{}

func (anyImage) Resolve(_ context.Context, req planner.ImageRequest) (*planner.BaseImage, error) {
	cfg, err := json.Marshal(ocispecs.Image{
		Platform: req.Platform, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString(req.Ref)}},
	})
	return &planner.BaseImage{Ref: req.Ref, Digest: digest.FromString(req.Ref), Config: cfg, Platform: req.Platform}, err
}

func plan(t *testing.T, files map[string]string, targets ...*config.Target) *planner.Plan {
	t.Helper()
	tree := fstest.MapFS{}
	for name, text := range files {
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	name := func(path string) string {
		return strings.TrimPrefix(strings.TrimPrefix(filepath.ToSlash(path)+"/", root+"/")+".", "/.")
	}
	project := &config.Project{Dir: root, Targets: map[string]*config.Target{}}
	for _, target := range targets {
		target.Context = config.Context{Kind: config.ContextDir, Value: root}
		if target.Dockerfile == "" {
			target.Dockerfile = root + "/Dockerfile"
		}
		project.Targets[target.Name] = target
	}
	p, diags := planner.Build(context.Background(), project, planner.Options{
		Images: anyImage{}, Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"},
		ReadFile: func(path string) ([]byte, error) { return fs.ReadFile(tree, strings.TrimSuffix(name(path), "/.")) },
		Stat:     func(string) (fs.FileInfo, error) { return fs.Stat(tree, ".") },
	})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return p
}

func link(name string) map[string]config.Context {
	return map[string]config.Context{name: {Kind: config.ContextTarget, Value: name}}
}

func monorepo(t *testing.T) *planner.Plan {
	both := []string{"linux/amd64", "linux/arm64"}
	service := func(name string) *config.Target {
		return &config.Target{
			Name: name, Requested: true, Contexts: link("toolchain"), Stage: "service",
			Args: map[string]string{"SERVICE": name}, Platforms: both,
		}
	}
	return plan(t, map[string]string{
		"toolchain/Dockerfile": "FROM golang:1.26\nRUN go env\n",
		"Dockerfile": `FROM --platform=$BUILDPLATFORM toolchain AS source
COPY . /src

FROM source AS check
RUN echo "a [b] {c} <d> \"e\"" && go test ./...

FROM source AS build
ARG TARGETARCH SERVICE
RUN GOARCH=$TARGETARCH go build -o /service ./$SERVICE

FROM gcr.io/distroless/static AS service
COPY --from=build /service /service
COPY --from=busybox:1.36 /bin/busybox /bin/
`,
	},
		&config.Target{Name: "toolchain", Dockerfile: root + "/toolchain/Dockerfile"},
		&config.Target{Name: "check", Requested: true, Contexts: link("toolchain"), Stage: "check", DependsOn: []string{"catalog"}},
		service("catalog"), service("orders"),
	)
}

// twenty targets share a base, and differ in what they copy.
func twenty(t *testing.T) *planner.Plan {
	var targets []*config.Target
	for i := range 20 {
		name := fmt.Sprintf("app%02d", i)
		targets = append(targets, &config.Target{Name: name, Requested: true, Args: map[string]string{"APP": name}})
	}
	return plan(t, map[string]string{
		"Dockerfile": "FROM alpine:3 AS base\nRUN install\nFROM base AS app\nARG APP\nCOPY $APP /src\nRUN build $APP\nFROM scratch\nCOPY --from=app /src /bin\n",
	}, targets...)
}

func TestGolden(t *testing.T) {
	plans := map[string]func(*testing.T) *planner.Plan{
		"monorepo": monorepo,
		"twenty":   twenty,
		"empty":    func(*testing.T) *planner.Plan { return &planner.Plan{} },
	}
	formats := []struct {
		name string
		draw func(io.Writer, *planner.Plan) error
	}{
		{"tree", View{}.Tree},
		{"mermaid", View{}.Mermaid},
		{"dot", View{}.DOT},
		{"steps.tree", View{Steps: true}.Tree},
		{"steps.mermaid", View{Steps: true}.Mermaid},
		{"steps.dot", View{Steps: true}.DOT},
	}
	for name, plan := range plans {
		for _, f := range formats {
			t.Run(name+"."+f.name, func(t *testing.T) {
				var b bytes.Buffer
				if err := f.draw(&b, plan(t)); err != nil {
					t.Fatal(err)
				}
				golden(t, name+"."+f.name, b.String())
			})
		}
	}
}

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

// What does not get out is an error.
func TestWriteError(t *testing.T) {
	p := monorepo(t)
	for name, draw := range map[string]func(io.Writer, *planner.Plan) error{"tree": View{}.Tree, "mermaid": View{}.Mermaid, "dot": View{}.DOT} {
		if err := draw(full{}, p); !errors.Is(err, errFull) {
			t.Errorf("%s: %v, want %v", name, err, errFull)
		}
	}
}

var errFull = errors.New("no space left")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
