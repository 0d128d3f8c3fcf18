package planner

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/config"
)

// step finds the one step whose name begins so.
func step(t *testing.T, p *Plan, prefix string) *Step {
	t.Helper()
	var found *Step
	for _, s := range p.Steps {
		if strings.HasPrefix(s.Name, prefix) {
			if found != nil {
				t.Fatalf("%q is the beginning of %q and %q", prefix, found.Name, s.Name)
			}
			found = s
		}
	}
	if found == nil {
		t.Fatalf("no step begins with %q:\n%s", prefix, dump(p))
	}
	return found
}

func imageConfig(t *testing.T, r *Result) dockerspec.DockerOCIImage {
	t.Helper()
	var img dockerspec.DockerOCIImage
	if err := json.Unmarshal(r.Config, &img); err != nil {
		t.Fatal(err)
	}
	return img
}

// Everything that the language has and that leaves a trace in a plan, as one
// golden: a new version of the frontend shows what it changes.
func TestLanguage(t *testing.T) {
	w := newWorld(t, `
-- Dockerfile --
# syntax=docker/dockerfile:1.7-labs
ARG VERSION=3
FROM alpine:${VERSION} AS base
ENV GREETING=hello
RUN <<EOF
set -eu
echo $GREETING
EOF
RUN <<EOF
#!/usr/bin/env python
print("x")
EOF
COPY <<one.txt <<two.txt /etc/
first
one.txt
second
two.txt

FROM base AS mounts
RUN --mount=type=cache,target=/cache,id=pkg,sharing=locked,uid=7 \
    --mount=type=bind,source=src,target=/src,rw \
    --mount=type=bind,from=golang:1.26,source=/usr/local/go,target=/go \
    --mount=type=tmpfs,target=/tmp \
    --mount=type=secret,id=token,required=true \
    --mount=type=secret,id=key,env=KEY \
    --network=none \
    make   all

FROM base AS final
WORKDIR /srv
COPY --from=mounts --chown=1000:1000 --chmod=755 --link /out/ ./
COPY --parents --exclude=*.md docs/*/a.txt /doc/
COPY --from=golang:1.26 /usr/local/go/LICENSE /
ADD archive.tar.gz /
ADD --unpack=false other.tar.gz /
SHELL ["/bin/ash", "-c"]
USER 1000
VOLUME /data
EXPOSE 80/tcp
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
ONBUILD RUN echo later
LABEL a=b
CMD ["serve"]
`)
	w.target("app", func(t *config.Target) {
		t.Labels = map[string]string{"from": "config"}
		t.Secrets = map[string]config.Secret{"token": {ID: "token", Env: "TOKEN"}, "unused": {ID: "unused", Env: "X"}}
		t.Retries, t.RetryDelay = 2, 3*time.Second
		t.ShmSize = "64m"
		t.Ulimits = []string{"nofile=1024:2048"}
		t.ExtraHosts = map[string]string{"b.local": "10.0.0.2", "a.local": "10.0.0.1"}
	})
	golden(t, "language.golden", dump(w.plan()))
}

func TestLocalsAreShared(t *testing.T) {
	w := newWorld(t, `
-- a/Dockerfile --
FROM alpine:3 AS base
COPY shared /shared
RUN make shared
FROM base
COPY a /a
-- b/Dockerfile --
FROM alpine:3 AS base
COPY shared /shared
RUN make shared
FROM base
COPY b /b
-- .dockerignore --
secret
`)
	for _, name := range []string{"a", "b"} {
		w.target(name, func(t *config.Target) { t.Dockerfile = root + "/" + name + "/Dockerfile" })
	}
	p := w.plan()
	if got := names(p, "RUN"); len(got) != 1 {
		t.Errorf("RUN stands %d times: what one target copies changes another", len(got))
	}
	l := step(t, p, "load").Local
	if diff := cmp.Diff(&Local{Dir: root, Exclude: []string{"secret"}, Follow: []string{"a", "b", "shared"}}, l); diff != "" {
		t.Error(diff)
	}
}

func TestIgnoreFiles(t *testing.T) {
	w := newWorld(t, `
-- Dockerfile --
FROM alpine:3
COPY . /
-- Dockerfile.dockerignore --
# only here
own
!own/not
-- .dockerignore --
general
-- other/Dockerfile --
FROM alpine:3
COPY . /
COPY --from=lib . /lib
-- lib/.dockerignore --
*.o
-- lib/x.c --
`)
	w.target("own")
	w.target("general", func(t *config.Target) { t.Dockerfile = root + "/other/Dockerfile" }, withContext("lib", dir("lib")))
	p := w.plan()
	var got []Local
	for _, s := range p.Steps {
		if s.Local != nil {
			got = append(got, *s.Local)
		}
	}
	want := []Local{
		{Dir: root, Exclude: []string{"general"}},
		{Dir: root + "/lib", Exclude: []string{"*.o"}},
		{Dir: root, Exclude: []string{"own", "!own/not"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	wantFiles := []string{
		root + "/.dockerignore", root + "/Dockerfile", root + "/Dockerfile.dockerignore",
		root + "/lib/.dockerignore", root + "/other/Dockerfile", root + "/other/Dockerfile.dockerignore",
	}
	if diff := cmp.Diff(wantFiles, p.Files); diff != "" {
		t.Errorf("files: %s", diff)
	}
}

func TestInline(t *testing.T) {
	w := newWorld(t, ``)
	inline := "FROM alpine:3\nRUN true\n"
	w.target("app", func(t *config.Target) { t.DockerfileInline = &inline })
	p := w.plan()
	s := step(t, p, "RUN true")
	if s.Location.Filename != "zbuild.hcl target app (inline)" || s.Location.Start.Line != 2 {
		t.Errorf("location: %v", s.Location)
	}
	if got := string(s.Location.SliceBytes(p.Sources[s.Location.Filename])); got != "RUN true" {
		t.Errorf("the location is %q", got)
	}
}

func TestLowerCaseDockerfile(t *testing.T) {
	w := newWorld(t, "-- dockerfile --\nFROM alpine:3\nRUN true\n")
	w.target("app")
	p := w.plan()
	if got := step(t, p, "RUN").Location.Filename; got != "Dockerfile" {
		t.Errorf("filename %q", got)
	}
}

func TestNamedContexts(t *testing.T) {
	w := newWorld(t, `
-- Dockerfile --
FROM alpine:3 AS tools
RUN never
FROM alpine:3
COPY --from=tools /bin/tool /bin/
COPY --from=src main.c /
RUN --mount=from=src,target=/src cc /src/main.c
COPY --from=nothing / /
-- src/main.c --
`)
	w.target("app",
		withContext("tools", config.Context{Kind: config.ContextImage, Value: "docker-image://golang:1.26", Raw: "docker-image://golang:1.26"}),
		withContext("src", dir("src")),
		withContext("nothing", config.Context{Kind: config.ContextImage, Value: "docker-image://scratch"}))
	p := w.plan()
	if got := names(p, "RUN never"); len(got) > 0 {
		t.Error("a stage is run that a context stands in for")
	}
	if got := step(t, p, "FROM docker.io/library/golang").Image.Ref; got != "docker.io/library/golang:1.26" {
		t.Errorf("the context is %s", got)
	}
	if got := step(t, p, "load").Local.Dir; got != root+"/src" {
		t.Errorf("directory %s", got)
	}
}

// A directory can be what a stage starts from. It must be a layer then.
func TestFromDirectory(t *testing.T) {
	w := newWorld(t, "-- Dockerfile --\nFROM rootfs AS base\nFROM base AS app\nRUN true\n-- rootfs/bin/sh --\n")
	w.target("app", withContext("rootfs", dir("rootfs")))
	w.target("base", withContext("rootfs", dir("rootfs")), stage("base"))
	p := w.plan()
	for name, want := range map[string]int{"app": 2, "base": 1} {
		r := p.Target(name).Results[0]
		if len(r.Layers) != want || r.Layers[0].Step.Op.GetFile() == nil {
			t.Errorf("%s: layers %v", name, r.Layers)
		}
	}
	if got := names(p, "COPY rootfs"); len(got) != 1 {
		t.Errorf("the directory is copied %d times", len(got))
	}
}

func TestDefaultRegistry(t *testing.T) {
	w := newWorld(t, `
-- Dockerfile --
ARG BASE=alpine
FROM $BASE:3 AS one
FROM docker.io/library/golang:1.26 AS two
FROM one
COPY --from=two / /
COPY --from=org/tool / /
RUN --mount=from=registry.test:5000/x,target=/x true
`)
	w.images.add("reg.test/base/alpine:3", nil)
	w.images.add("reg.test/base/org/tool:latest", nil)
	w.images.add("registry.test:5000/x:latest", nil)
	w.target("app", func(t *config.Target) { t.DefaultRegistry = "reg.test/base" })
	p := w.plan()
	var got []string
	for _, s := range p.Steps {
		if s.Image != nil {
			got = append(got, s.Image.Ref)
		}
	}
	want := []string{"reg.test/base/alpine:3", "docker.io/library/golang:1.26", "reg.test/base/org/tool:latest", "registry.test:5000/x:latest"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// An image without layers has a configuration to start from and nothing else.
func TestEmptyImage(t *testing.T) {
	w := newWorld(t, "-- Dockerfile --\nFROM empty\nCOPY a /\n")
	w.images.add("docker.io/library/empty:latest", func(img *ocispecs.Image) {
		img.RootFS.DiffIDs, img.History = nil, nil
		img.Config.User = "7"
	})
	w.target("app")
	r := w.plan().Target("app").Results[0]
	if r.Base != nil || len(r.Layers) != 1 || imageConfig(t, r).Config.User != "7" {
		t.Errorf("base %v, %d layers, config %s", r.Base, len(r.Layers), r.Config)
	}
}

func TestTagsOfOneImage(t *testing.T) {
	w := newWorld(t, "-- Dockerfile --\nARG TAG\nFROM alpine:$TAG\nRUN true\n")
	w.images["docker.io/library/alpine:latest"] = w.images["docker.io/library/alpine:3"]
	w.target("a", args("TAG", "3"))
	w.target("b", args("TAG", "latest"))
	if got := names(w.plan(), "RUN"); len(got) != 1 {
		t.Errorf("RUN stands %d times: a tag is not an image", len(got))
	}
}

// A cache mount of the target's is the same as one that the RUN has itself.
func TestCacheMounts(t *testing.T) {
	w := newWorld(t, `
-- without/Dockerfile --
FROM alpine:3
RUN --mount=type=secret,id=s --mount=type=bind,source=x,target=/z true
-- with/Dockerfile --
FROM alpine:3
RUN --mount=type=secret,id=s --mount=type=bind,source=x,target=/z --mount=type=cache,id=/a,target=/a --mount=type=cache,target=/m,id=named,sharing=locked,uid=5,gid=6,mode=0700 true
`)
	w.target("without", func(t *config.Target) {
		t.Dockerfile = root + "/without/Dockerfile"
		t.CacheMounts = []config.CacheMount{
			{Target: "/m", ID: "named", Sharing: "locked", UID: 5, GID: 6, Mode: 0o700},
			{Target: "/a", Mode: 0o755},
			{Name: "taken", Target: "/z"},
		}
	})
	w.target("with", func(t *config.Target) { t.Dockerfile = root + "/with/Dockerfile" })
	p := w.plan()
	if got := names(p, "RUN"); len(got) != 1 {
		t.Fatalf("RUN stands %d times:\n%s", len(got), dump(p))
	}
	var dests []string
	for _, m := range step(t, p, "RUN").Op.GetExec().Mounts {
		dests = append(dests, m.Dest)
	}
	if want := []string{"/", "/a", "/m", "/z", "/run/secrets/s"}; !slices.Equal(dests, want) {
		t.Errorf("mounts %q", dests)
	}
}

func TestMergedSettings(t *testing.T) {
	w := newWorld(t, "-- Dockerfile --\nFROM alpine:3 AS base\nRUN --mount=type=secret,id=s one\nFROM base AS top\nRUN two\n")
	w.target("a", stage("base"), func(t *config.Target) { t.Retries, t.RetryDelay = 1, time.Minute })
	w.target("b", stage("top"), func(t *config.Target) {
		t.Retries, t.RetryDelay = 3, time.Second
		t.NoCacheFilter = []string{"top"}
		t.Secrets = map[string]config.Secret{"s": {ID: "s", Env: "B"}}
	})
	w.target("c", stage("base"), func(t *config.Target) { t.Secrets = map[string]config.Secret{"s": {ID: "s", Env: "C"}} })
	p := w.plan()
	one, two := step(t, p, "RUN --mount"), step(t, p, "RUN two")
	if one.Retries != 3 || one.RetryDelay != time.Second || one.Secrets["s"].Env != "B" || one.NoCache {
		t.Errorf("one: %+v", one)
	}
	if !two.NoCache || two.Secrets != nil {
		t.Errorf("two: %+v", two)
	}
	w.target("d", stage("base"), func(t *config.Target) { t.NoCache = true })
	if p := w.plan(); !step(t, p, "RUN --mount").NoCache {
		t.Error("no-cache of one target is overruled by another")
	}
}

func TestPlatforms(t *testing.T) {
	w := newWorld(t, `
-- Dockerfile --
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
COPY src /src
RUN compile everything
FROM build AS cross
ARG TARGETARCH
RUN link for $TARGETARCH
FROM alpine:3
COPY --from=cross /out /out
`)
	w.target("app", platformsOf("linux/amd64", "linux/arm64/v8", "linux/arm64", "linux/arm/v7"))
	p := w.plan()
	var got []string
	for _, r := range p.Target("app").Results {
		got = append(got, r.Platform.Architecture+r.Platform.Variant+" "+r.Base.Platform.Architecture)
	}
	if want := []string{"amd64 amd64", "arm64 arm64", "armv7 arm"}; !slices.Equal(got, want) {
		t.Errorf("results %q, want %q", got, want)
	}
	if got := names(p, "RUN"); len(got) != 1+3 {
		t.Errorf("RUN steps %q", got)
	}
	if got := names(p, "FROM docker.io/library/alpine"); len(got) != 3 {
		t.Errorf("alpine stands %d times", len(got))
	}
	if got := step(t, p, "RUN link for arm64").Op.Platform.Architecture; got != "amd64" {
		t.Errorf("linking runs on %s", got)
	}
}

func TestLinks(t *testing.T) {
	w := newWorld(t, `
-- base/Dockerfile --
FROM alpine:3
ENV FROM_BASE=1
ARG TARGETARCH
RUN base for $TARGETARCH
-- app/Dockerfile --
FROM base
RUN app
-- top/Dockerfile --
FROM scratch
COPY --from=app /a /
COPY --from=base /b /
`)
	at := func(name string) func(*config.Target) {
		return func(t *config.Target) { t.Dockerfile = root + "/" + name + "/Dockerfile" }
	}
	both := platformsOf("linux/amd64", "linux/arm64")
	w.target("base", at("base"), both)
	w.target("app", at("app"), withContext("base", linkTo("base")), both, func(t *config.Target) {
		t.CacheMounts = []config.CacheMount{{Name: "c", Target: "/c"}}
	})
	w.target("top", at("top"), withContext("base", linkTo("base")), withContext("app", linkTo("app")))
	p := w.plan()
	if got, want := names(p, "RUN"), []string{"RUN base for amd64", "RUN app", "RUN base for arm64", "RUN app"}; !slices.Equal(got, want) {
		t.Errorf("RUN steps %q, want %q", got, want)
	}
	for _, s := range p.Steps {
		if strings.HasPrefix(s.Name, "RUN base") && len(s.Op.GetExec().Mounts) != 1 {
			t.Errorf("%s has the cache mounts of another target", s.Name)
		}
	}
	r := p.Target("app").Results[1]
	if env := imageConfig(t, r).Config.Env; !slices.Contains(env, "FROM_BASE=1") {
		t.Errorf("environment %q", env)
	}
	if r.Base == nil || r.Base.Platform.Architecture != "arm64" || len(r.Layers) != 2 {
		t.Errorf("arm64: on %v, %d layers", r.Base, len(r.Layers))
	}
	if got, want := p.Target("top").Needs, []string{"app", "base"}; !slices.Equal(got, want) {
		t.Errorf("needs %q, want %q", got, want)
	}
	var stages []string
	for _, s := range p.Target("top").Results[0].Stage.Needs {
		stages = append(stages, s.Dockerfile)
	}
	if want := []string{"base/Dockerfile", "app/Dockerfile"}; !slices.Equal(stages, want) {
		t.Errorf("stages %q, want %q", stages, want)
	}
}

func TestEpoch(t *testing.T) {
	w := newWorld(t, "-- Dockerfile --\nFROM alpine:3\nWORKDIR /x\n")
	w.target("app", args("SOURCE_DATE_EPOCH", "1700000000"))
	r := w.plan().Target("app").Results[0]
	if r.Epoch == nil || r.Epoch.Unix() != 1700000000 {
		t.Errorf("epoch %v", r.Epoch)
	}
	// A directory has no time of its own, as a commit or an archive has.
	w = newWorld(t, "-- Dockerfile --\nFROM alpine:3\nWORKDIR /x\n")
	w.target("app", args("SOURCE_DATE_EPOCH", "context"))
	if r := w.plan().Target("app").Results[0]; r.Epoch != nil {
		t.Errorf("epoch %v of a directory", r.Epoch)
	}
}

func TestOnbuild(t *testing.T) {
	w := newWorld(t, "-- Dockerfile --\nFROM onbuild AS app\nRUN mine\n")
	w.images["docker.io/library/onbuild:latest"] = withOnbuild(w.images["docker.io/library/alpine:3"], "RUN triggered")
	w.target("app")
	p := w.plan()
	s := step(t, p, "ONBUILD RUN triggered")
	if s.Location.Start.Line != 1 || s.Stage.Name != "app" {
		t.Errorf("%v in stage %s", s.Location, s.Stage.Name)
	}
}

// withOnbuild is an image with a trigger, which OCI's configuration has no place for.
func withOnbuild(img *BaseImage, trigger string) *BaseImage {
	out := *img
	out.Ref = "docker.io/library/onbuild:latest"
	var cfg dockerspec.DockerOCIImage
	if err := json.Unmarshal(img.Config, &cfg); err != nil {
		panic(err)
	}
	cfg.Config.OnBuild = []string{trigger}
	out.Config, _ = json.Marshal(cfg)
	return &out
}

// A stage that only changes the configuration has no steps, and is one all the
// same.
func TestStagesWithoutSteps(t *testing.T) {
	w := newWorld(t, "-- Dockerfile --\nFROM alpine:3 AS base\nRUN x\nFROM base AS mid\nENV A=1\nFROM mid AS web\nCMD web\nFROM scratch AS void\n")
	w.target("web", stage("web"))
	w.target("void", stage("void"))
	p := w.plan()
	var got []string
	for _, s := range p.Stages {
		got = append(got, s.Name)
	}
	if want := []string{"void", "base", "mid", "web"}; !slices.Equal(got, want) {
		t.Errorf("stages %q, want %q", got, want)
	}
	if r := p.Target("void").Results[0]; r.Root.Step != nil || len(r.Layers) != 0 {
		t.Errorf("void: root %v", r.Root.Step)
	}
	if r := p.Target("web").Results[0]; r.Root.Step.Name != "RUN x" || r.Stage.Name != "web" {
		t.Errorf("web: %s of %s", r.Root.Step.Name, r.Stage.Name)
	}
}
