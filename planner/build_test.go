package planner

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zbuild/zbuild/config"
)

func TestSharedBase(t *testing.T) {
	w := newWorld(t, `
-- Dockerfile --
FROM alpine:3 AS base
RUN install toolchain
COPY common /common
RUN build common

FROM base AS unused
RUN never

FROM base AS app
ARG APP
COPY apps/$APP /src
RUN build $APP

FROM scratch
COPY --from=app /src /bin
`)
	for i := range 20 {
		name := fmt.Sprintf("app%02d", i)
		w.target(name, args("APP", name))
	}
	p := w.plan()
	if got, want := names(p, "RUN"), 2+20; len(got) != want {
		t.Errorf("%d RUN steps, want %d: %q", len(got), want, got)
	}
	if got := names(p, "load"); len(got) != 1 {
		t.Errorf("the context stands %d times", len(got))
	}
	if got := names(p, "RUN never"); len(got) > 0 {
		t.Errorf("an unreachable stage is planned: %q", got)
	}
	if got := names(p, "RUN build app07"); !slices.Equal(got, []string{"RUN build app07"}) {
		t.Errorf("arguments are not expanded: %q", got)
	}
	if got, want := len(p.Stages), 1+20*2; got != want {
		t.Errorf("%d stages, want %d", got, want)
	}
	base := p.Stages[0]
	if base.Name != "base" || len(base.Targets) != 20 || len(base.Steps) != 4 {
		t.Errorf("the first stage is %s of %d targets with %d steps", base.Name, len(base.Targets), len(base.Steps))
	}
	for _, tg := range p.Targets {
		r := tg.Results[0]
		if len(r.Layers) != 1 || r.Base != nil {
			t.Errorf("%s: %d layers on %v", tg.Name, len(r.Layers), r.Base)
		}
		if got := r.Stage.Name; got != "stage-3" {
			t.Errorf("%s: stage %s", tg.Name, got)
		}
	}
}

func TestDeterministic(t *testing.T) {
	plan := func(jobs int) string {
		w := newWorld(t, monorepo)
		monorepoTargets(w)
		w.opt.Jobs = jobs
		return dump(w.plan())
	}
	want := plan(1)
	for range 5 {
		for _, jobs := range []int{1, 3, 16} {
			if diff := cmp.Diff(want, plan(jobs)); diff != "" {
				t.Fatalf("with %d jobs (-want +got):\n%s", jobs, diff)
			}
		}
	}
}

const monorepo = `
-- toolchain/Dockerfile --
FROM golang:1.26
RUN go env
-- .dockerignore --
*.md
-- Dockerfile --
FROM --platform=$BUILDPLATFORM toolchain AS source
WORKDIR /src
COPY go.mod ./
COPY services services

FROM source AS check
RUN go test ./...

FROM source AS build
ARG TARGETOS TARGETARCH
ARG SERVICE
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o /service ./services/$SERVICE

FROM scratch AS service
COPY --from=build /service /service
USER 65532
ENTRYPOINT ["/service"]
`

func monorepoTargets(w *world) {
	w.target("toolchain", func(t *config.Target) {
		t.Requested = false
		t.Context = dir("toolchain")
		t.Dockerfile = root + "/toolchain/Dockerfile"
	})
	link := withContext("toolchain", linkTo("toolchain"))
	cache := func(t *config.Target) {
		t.CacheMounts = []config.CacheMount{{Name: "go-build", Target: "/root/.cache/go-build", Mode: 0o755}}
	}
	w.target("check", link, cache, stage("check"))
	for _, s := range []string{"catalog", "orders"} {
		w.target(s, link, cache, stage("service"), args("SERVICE", s), platformsOf("linux/amd64", "linux/arm64"))
	}
}

func TestMonorepo(t *testing.T) {
	w := newWorld(t, monorepo)
	monorepoTargets(w)
	p := w.plan()
	golden(t, "monorepo.golden", dump(p))
	if got := names(p, "RUN GOOS"); len(got) != 4 {
		t.Errorf("%d builds, want one per service and platform: %q", len(got), got)
	}
	// Everything up to the build is the same for all of them.
	if got := names(p, "COPY services"); len(got) != 1 {
		t.Errorf("the source is copied %d times", len(got))
	}
	if got := strings.Join(names(p, "RUN go env"), ""); got != "RUN go env" {
		t.Errorf("toolchain: %q", got)
	}
	if got := p.Target("orders").Needs; !slices.Equal(got, []string{"toolchain"}) {
		t.Errorf("orders needs %q", got)
	}
}
