package planner

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zbuild/zbuild/config"
)

func TestProblems(t *testing.T) {
	const simple = "FROM alpine:3\nRUN true\n"
	tests := []struct {
		name       string
		dockerfile string
		change     func(*config.Target)
		want       string
	}{{
		name:       "unknown instruction",
		dockerfile: "FROM alpine:3\n\nRUM true\n",
		want:       "Dockerfile:3:1-3:9 error: Invalid Dockerfile: unknown instruction: RUM (did you mean RUN?).\n",
	}, {
		name:       "empty",
		dockerfile: "",
		want:       "zbuild.hcl:13:1-13:2 error: Cannot plan the target: the Dockerfile cannot be empty.\n",
	}, {
		name:       "no stage",
		dockerfile: "ARG A=1\n",
		want:       "zbuild.hcl:13:1-13:2 error: Cannot plan the target: dockerfile contains no stages to build.\n",
	}, {
		name:       "instruction before FROM",
		dockerfile: "RUN true\n" + simple,
		want:       "Dockerfile:1:1-1:9 error: Invalid Dockerfile: no build stage in current context.\n",
	}, {
		name:       "bad flag",
		dockerfile: "FROM alpine:3\nCOPY --form=x a b\n",
		want:       "Dockerfile:2:1-2:18 error: Invalid Dockerfile: unknown flag: --form (did you mean from?).\n",
	}, {
		name:       "base image",
		dockerfile: "FROM alpine:3 AS build\nFROM biuld\nCOPY --from=busybox / /\nRUN --mount=from=nginx,target=/n true\n",
		want: "Dockerfile:2:1-2:11 error(image): Cannot get a base image: biuld for linux/amd64: not in the store, and no registry has it. Did you mean \"build\"?\n" +
			"Dockerfile:3:1-3:24 error(image): Cannot get a base image: busybox for linux/amd64: not in the store, and no registry has it.\n" +
			"Dockerfile:4:1-4:38 error(image): Cannot get a base image: nginx for linux/amd64: not in the store, and no registry has it.\n",
	}, {
		name:       "unknown stage",
		dockerfile: "FROM alpine:3 AS build\nFROM build AS test\n",
		change:     func(t *config.Target) { t.Stage = "tset" },
		want:       "zbuild.hcl:14:1-14:2 error: Unknown stage: Dockerfile has no stage \"tset\". Did you mean \"test\"?\n",
	}, {
		name:       "unknown stage, unlike any",
		dockerfile: "FROM alpine:3 AS build\nFROM build AS test\n",
		change:     func(t *config.Target) { t.Stage = "production" },
		want:       "zbuild.hcl:14:1-14:2 error: Unknown stage: Dockerfile has no stage \"production\". Its stages are build, test.\n",
	}, {
		name:       "unknown stage, none named",
		dockerfile: simple,
		change:     func(t *config.Target) { t.Stage = "production" },
		want:       "zbuild.hcl:14:1-14:2 error: Unknown stage: Dockerfile has no stage \"production\". None of its stages has a name.\n",
	}, {
		name:       "too long",
		dockerfile: "FROM alpine:3\n" + strings.Repeat("RUN true\n", 6000),
		want:       "zbuild.hcl:13:1-13:2 error: Dockerfile too long: Dockerfile has 6001 instructions; 5000 are the most.\n",
	}, {
		name:       "stage cycle",
		dockerfile: "FROM alpine:3 AS a\nCOPY --from=b / /\nFROM alpine:3 AS b\nCOPY --from=a / /\n",
		want:       "Dockerfile:2:1-2:18 error: Invalid Dockerfile: circular dependency detected on stage: a.\n",
	}, {
		name:   "missing",
		change: func(t *config.Target) { t.Dockerfile = root + "/x/Containerfile" }, dockerfile: simple,
		want: "zbuild.hcl:13:1-13:2 error: Dockerfile not found: There is no file x/Containerfile. The attribute dockerfile says where it is, relative to the context.\n",
	}, {
		name:   "directory",
		change: func(t *config.Target) { t.Dockerfile = root + "/sub" }, dockerfile: simple,
		want: "zbuild.hcl:13:1-13:2 error: Cannot read the Dockerfile: sub: it is a directory.\n",
	}, {
		name:   "context",
		change: func(t *config.Target) { t.Context = dir("nowhere"); withContext("f", dir("sub/file"))(t) }, dockerfile: simple,
		want: "zbuild.hcl:11:1-11:2 error: Build context not found: The directory of the context, nowhere, cannot be used: it does not exist.\n" +
			"zbuild.hcl:12:1-12:2 error: Build context is not a directory: The context \"f\" is sub/file, which is a file.\n",
	}, {
		name: "remote contexts",
		change: func(t *config.Target) {
			withContext("l", config.Context{Kind: config.ContextOCILayout, Value: "oci-layout://x", Raw: "oci-layout://x"})(t)
		},
		dockerfile: simple,
		want:       "zbuild.hcl:12:1-12:2 error: Cannot use the OCI layout: X is no OCI layout: its index.json cannot be read: it does not exist.\n",
	}, {
		name:       "ADD from a URL",
		dockerfile: "FROM alpine:3\nADD https://x.test/a.tar \\\n /\n",
		want:       "Dockerfile:2:1-3:3 error(image): Cannot fetch a remote source: https://x.test/a.tar: nothing can be fetched here.\n",
	}, {
		name:       "ADD from git",
		dockerfile: "FROM alpine:3\nADD https://x.test/a.git /\n",
		want:       "Dockerfile:2:1-2:27 error(image): Cannot fetch a remote source: https://x.test/a.git: nothing can be fetched here.\n",
	}, {
		name:       "insecure",
		dockerfile: "FROM alpine:3\nRUN --security=insecure true\n",
		want: "Dockerfile:2:1-2:29 error: RUN --security=insecure is not allowed: The target app needs entitlements = [\"security.insecure\"], and the build --allow security.insecure.\n" +
			"Dockerfile:2:1-2:29 error: RUN --security=insecure is not allowed: The target other needs entitlements = [\"security.insecure\"], and the build --allow security.insecure.\n",
	}, {
		name:       "device",
		dockerfile: "FROM alpine:3\nRUN --device=vendor.test/gpu=0,required true\n",
		want: "Dockerfile:2:1-2:45 error: RUN --device=vendor.test/gpu=0 is not allowed: The target app needs entitlements = [\"device=vendor.test/gpu=0\"], and the build --allow device=vendor.test/gpu=0.\n" +
			"Dockerfile:2:1-2:45 error: RUN --device=vendor.test/gpu=0 is not allowed: The target other needs entitlements = [\"device=vendor.test/gpu=0\"], and the build --allow device=vendor.test/gpu=0.\n",
	}, {
		name:       "syntax",
		dockerfile: "# syntax=example.test/my/frontend:1\n" + simple,
		want:       "Dockerfile:1:1-1:36 error: Other Dockerfile frontends are not available yet: example.test/my/frontend:1 is not docker/dockerfile, the only frontend there is.\n",
	}, {
		name:   "syntax argument",
		change: args("BUILDKIT_SYNTAX", "example.test/my/frontend:1"), dockerfile: simple,
		want: "zbuild.hcl:15:1-15:2 error: Other Dockerfile frontends are not available yet: example.test/my/frontend:1 is not docker/dockerfile, the only frontend there is.\n",
	}, {
		name:       "lint",
		dockerfile: "FROM alpine:3 as app\nENV a b\n",
		want: "Dockerfile:1:1-1:21 warning: 'as' and 'FROM' keywords' casing do not match: The 'as' keyword should match the case of the 'from' keyword. (FromAsCasing, https://docs.docker.com/go/dockerfile/rule/from-as-casing/)\n" +
			"Dockerfile:2:1-2:8 warning: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format: Legacy key/value format with whitespace separator should not be used. (LegacyKeyValueFormat, https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/)\n",
	}, {
		name: "nonsense",
		change: func(t *config.Target) {
			t.ShmSize, t.Ulimits, t.ExtraHosts = "much", []string{"nofile"}, map[string]string{"h": "nowhere"}
			t.Platforms, t.Network = []string{"linux/amd64", "a/b/c/d/e"}, "bridge"
			withContext("Upper Case", dir("."))(t)
		},
		dockerfile: simple,
		want: `zbuild.hcl:10:1-10:2 error: Invalid host: h=nowhere: the address must be an IP address.
zbuild.hcl:10:1-10:2 error: Invalid limit: "nofile": invalid ulimit argument: nofile. A limit is written as nofile=1024:2048.
zbuild.hcl:10:1-10:2 error: Invalid size: "much": invalid size: 'much'. A size is written as 64m or 1g.
zbuild.hcl:10:1-10:2 error: Unknown network mode: "bridge" is none of default, none and host.
zbuild.hcl:12:1-12:2 error: Invalid context name: "Upper Case" cannot be the name of a context: invalid reference format: repository name (library/Upper Case) must be lowercase.
zbuild.hcl:16:1-16:2 error: Invalid platform: "a/b/c/d/e": "d/e" is an invalid component of "a/b/c/d/e": platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument. A platform is written as linux/amd64 or linux/arm/v7.
`,
	}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, "-- Dockerfile --\n"+tt.dockerfile+"-- sub/file --\n")
			w.target("app", func(t *config.Target) {
				if tt.change != nil {
					tt.change(t)
				}
			})
			// Another target with the same mistake is not another mistake.
			other := *w.project.Targets["app"]
			other.Name = "other"
			w.project.Targets["other"] = &other
			p, diags := w.build()
			if diff := cmp.Diff(tt.want, text(diags)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diags.HasErrors() && (len(p.Steps) > 0 || len(p.Targets) > 0) {
				t.Error("a plan with errors has steps")
			}
			for _, d := range diags {
				if _, ok := p.Sources[d.Subject.Filename]; !ok {
					t.Errorf("%s is not among the sources", d.Subject.Filename)
				}
			}
		})
	}
}

// All targets' mistakes are told at once; what only follows from them is not.
func TestAllProblemsAtOnce(t *testing.T) {
	w := newWorld(t, "-- a/Dockerfile --\nFROM nowhere\n-- b/Dockerfile --\nFRO alpine\n-- c/Dockerfile --\nFROM a\n")
	for _, n := range []string{"a", "b", "c"} {
		w.target(n, func(t *config.Target) { t.Dockerfile = root + "/" + n + "/Dockerfile" })
	}
	withContext("a", linkTo("a"))(w.project.Targets["c"])
	_, diags := w.build()
	want := "a/Dockerfile:1:1-1:13 error(image): Cannot get a base image: nowhere for linux/amd64: not in the store, and no registry has it.\n" +
		"b/Dockerfile:1:1-1:11 error: Invalid Dockerfile: unknown instruction: FRO (did you mean FROM?).\n"
	if diff := cmp.Diff(want, text(diags)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPlatformOfLink(t *testing.T) {
	w := newWorld(t, "-- Dockerfile --\nFROM alpine:3\n-- app/Dockerfile --\nFROM base\n")
	w.target("base", platformsOf("linux/amd64", "linux/arm64"))
	w.target("app", platformsOf("linux/amd64", "linux/s390x"), withContext("base", linkTo("base")), func(t *config.Target) {
		t.Dockerfile = root + "/app/Dockerfile"
	})
	_, diags := w.build()
	want := "app/Dockerfile:1:1-1:10 error: Context lacks a platform: The context \"base\" is the target \"base\", which is not built for linux/s390x; add the platform to its platforms.\n"
	if diff := cmp.Diff(want, text(diags)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTargetCycle(t *testing.T) {
	w := newWorld(t, "-- Dockerfile --\nFROM alpine:3\n")
	w.target("a", withContext("b", linkTo("b")))
	w.target("b", withContext("a", linkTo("a")))
	_, diags := w.build()
	want := "zbuild.hcl:22:1-22:2 error: Targets depend on each other: The target \"a\" is a context of \"b\" and needs it itself.\n"
	if diff := cmp.Diff(want, text(diags)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCanceled(t *testing.T) {
	w := newWorld(t, "-- Dockerfile --\nFROM alpine:3\n")
	w.target("a")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p, diags := Build(ctx, w.project, w.opt)
	if got, want := text(diags), "- error(canceled): Planning was interrupted: context canceled.\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(p.Steps) > 0 {
		t.Error("an interrupted plan has steps")
	}
}

// FuzzDockerfile plans what no one has written.
func FuzzDockerfile(f *testing.F) {
	for _, s := range []string{
		"FROM alpine:3\nRUN true\n", "FROM scratch\nCOPY <<EOF /a\n$x\nEOF\n", "ARG A=b\nFROM ${A:-alpine:3} AS x\nFROM x\nCOPY --from=0 / /\n",
		"FROM alpine:3 as build\nADD --checksum=sha256:x http://x/y /\n", "# syntax=docker/dockerfile:1\n# escape=`\nFROM alpine:3\nRUN a `\n b\n",
		"FROM alpine:3\n# check=skip=all\nARG a\nRUN true\n",
		"FROM --platform=$BUILDPLATFORM alpine:3\nRUN --mount=type=cache,target=/x --mount=type=secret,id=a,env=B true\nONBUILD RUN x\nWORKDIR $x/..\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, dockerfile string) {
		w := newWorld(t, "")
		w.target("app", func(t *config.Target) {
			t.DockerfileInline = &dockerfile
			t.CacheMounts = []config.CacheMount{{Name: "c", Target: "/c", UID: 1}}
		}, platformsOf("linux/amd64", "linux/arm64"))
		p, diags := w.build()
		for _, d := range diags {
			if strings.Contains(d.Summary, "frontend failed") {
				t.Fatal(text(diags))
			}
			if d.Subject == nil || d.Detail == "" {
				t.Errorf("a diagnostic without place or detail: %s", text(diags))
			}
		}
		if diags.HasErrors() {
			return
		}
		checkPlan(t, p)
	})
}

// BenchmarkBuild plans 200 targets of one Dockerfile.
func BenchmarkBuild(b *testing.B) {
	w := newWorld(b, monorepo)
	w.target("toolchain", func(t *config.Target) {
		t.Context = dir("toolchain")
		t.Dockerfile = root + "/toolchain/Dockerfile"
	})
	for i := range 200 {
		name := fmt.Sprintf("service%03d", i)
		w.target(name, withContext("toolchain", linkTo("toolchain")), stage("service"), args("SERVICE", name))
	}
	for b.Loop() {
		if p, diags := w.build(); diags.HasErrors() || len(p.Targets) != 201 {
			b.Fatal(text(diags))
		}
	}
}
