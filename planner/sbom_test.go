package planner

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/config"
)

const sbomProject = `
-- Dockerfile --
ARG BUILDKIT_SBOM_SCAN_STAGE=true
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
FROM alpine:3 AS build
COPY a.txt /a
RUN make
FROM scratch
COPY --from=build /a /a
-- a.txt --
-- b.txt --
`

func withSBOM(attrs map[string]string, outputs ...string) func(*config.Target) {
	return func(t *config.Target) {
		t.Attest = []config.Attest{{Type: "sbom", Attrs: attrs}}
		for _, kind := range outputs {
			t.Outputs = append(t.Outputs, config.Output{Type: kind})
		}
	}
}

func sbomWorld(t *testing.T) *world {
	w := newWorld(t, sbomProject)
	w.images.add("docker.io/tools/scanner:latest", func(img *ocispecs.Image) { img.Config.Entrypoint = []string{"/scan"} })
	return w
}

// TestSBOM looks at the step that makes an SBOM: it is the same in every plan, has
// what the Dockerfile wants looked at, and leaves what it found alone.
func TestSBOM(t *testing.T) {
	attrs := map[string]string{"generator": "tools/scanner"}
	for i := range 8 {
		attrs[fmt.Sprint("P", i)] = "x,y"
	}
	var first string
	for range 10 {
		w := sbomWorld(t)
		w.target("app", withSBOM(attrs, "registry"), func(t *config.Target) {
			t.CacheMounts = []config.CacheMount{{Target: "/cache"}}
		})
		p := w.plan()
		scan := p.Target("app").Results[0].SBOM
		if scan.Step == nil || scan.Index != 0 {
			t.Fatalf("no SBOM, or another output: %+v", scan)
		}
		if d := dump(p); first == "" {
			first = d
		} else if d != first {
			t.Fatal("the plan is another one")
		}
		exec := scan.Step.Op.GetExec()
		var dests []string
		for _, m := range exec.Mounts {
			dests = append(dests, m.Dest)
			if kept := m.Output >= 0; kept != (strings.TrimSuffix(m.Dest, "/") == "/run/out") {
				t.Errorf("what is left in %s is kept: %v", m.Dest, kept)
			}
		}
		slices.Sort(dests)
		if want := []string{"/", "/run/out/", "/run/src/core/sbom", "/run/src/extras/sbom-build", "/run/src/extras/sbom-context", "/tmp"}; !slices.Equal(dests, want) {
			t.Errorf("mounts %q, not %q", dests, want)
		}
		if !slices.Contains(exec.Meta.Env, "BUILDKIT_SCAN_P3=x,y") {
			t.Errorf("environment %q", exec.Meta.Env)
		}
		if s := p.Target("app").Results[0].SBOMStage; s == nil || s.Name != "sbom" || len(s.Needs) != 2 {
			t.Errorf("the stage is %+v", s)
		}
	}
}

// TestNoSBOM makes none that nothing would be done with.
func TestNoSBOM(t *testing.T) {
	for name, change := range map[string]func(*config.Target){
		"the store":     withSBOM(map[string]string{"generator": "nobody"}, "image"),
		"no output":     withSBOM(map[string]string{"generator": "nobody"}),
		"not requested": func(t *config.Target) { withSBOM(nil, "registry")(t); t.Requested = false },
	} {
		w := sbomWorld(t)
		w.target("app", change)
		if r := w.plan().Target("app").Results[0]; r.SBOM.Step != nil {
			t.Errorf("%s: %s", name, r.SBOM.Step.Name)
		}
	}
}

// TestGenerator looks for the generator as for the image of a FROM.
func TestGenerator(t *testing.T) {
	w := sbomWorld(t)
	w.target("app", withSBOM(nil, "registry"), func(t *config.Target) { t.Ranges["attest"] = t.Range })
	_, diags := w.build()
	const want = "zbuild.hcl:10:1-10:2 error(image): Cannot get the SBOM's generator: docker.io/docker/buildkit-syft-scanner:stable-1: not in the store"
	if !strings.HasPrefix(text(diags), want) {
		t.Errorf("%s", text(diags))
	}
	w = sbomWorld(t)
	w.images.add("docker.io/tools/mute:latest", nil)
	w.target("app", withSBOM(map[string]string{"generator": "tools/mute"}, "registry"))
	if _, diags = w.build(); !strings.Contains(text(diags), "does not have cmd") {
		t.Errorf("%s", text(diags))
	}
}
