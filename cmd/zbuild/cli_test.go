package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// parse parses a command line and gives the verb that was chosen.
func parse(t *testing.T, args ...string) (*cli, string, error) {
	t.Helper()
	for _, name := range []string{"BUILDKIT_PROGRESS", "BUILDAH_ISOLATION", "REGISTRY_AUTH_FILE"} {
		t.Setenv(name, "")
	}
	return parseHere(t, args...)
}

// parseHere is parse in the environment as it is.
func parseHere(t *testing.T, args ...string) (*cli, string, error) {
	t.Helper()
	var c cli
	parser, err := newParser(&c, new(bytes.Buffer), new(bytes.Buffer), kong.Exit(func(int) { t.Error("the parser exits") }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		return nil, "", err
	}
	return &c, ctx.Selected().Name, nil
}

func TestVerbs(t *testing.T) {
	for _, c := range []struct {
		args    string
		verb    string
		targets []string
	}{
		{"", "bake", nil},
		{"api worker", "bake", []string{"api", "worker"}},
		{"bake", "bake", nil},
		{"bake api", "bake", []string{"api"}},
		{"bake graph", "bake", []string{"graph"}},
		{"api graph", "bake", []string{"api", "graph"}},
		{"--push api", "bake", []string{"api"}},
		{"api --push", "bake", []string{"api"}},
		{"-D api", "bake", []string{"api"}},
		{"graph", "graph", nil},
		{"graph api", "graph", []string{"api"}},
		{"--root /x graph api", "graph", []string{"api"}},
		{"doctor", "doctor", nil},
		{"version", "version", nil},
		{"--pull api", "bake", []string{"api"}},
		{"--pull=newer api", "bake", []string{"api"}},
	} {
		got, verb, err := parse(t, strings.Fields(c.args)...)
		if err != nil {
			t.Errorf("zbuild %s: %v", c.args, err)
			continue
		}
		targets := got.Bake.Targets
		if verb == "graph" {
			targets = got.Graph.Targets
		}
		if verb != c.verb || !cmp.Equal(targets, c.targets) {
			t.Errorf("zbuild %s is %s %q, want %s %q", c.args, verb, targets, c.verb, c.targets)
		}
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		args []string
		want runner.Limits
	}{
		{nil, runner.Limits{MaxAge: 30 * 24 * time.Hour, MaxShare: 20}},
		{[]string{"--cache-max-size=none", "--cache-max-age=none"}, runner.Limits{}},
		{[]string{"--cache-max-size=7%", "--cache-max-age=90m"}, runner.Limits{MaxAge: 90 * time.Minute, MaxShare: 7}},
		{[]string{"--cache-max-size=500MB", "--cache-max-age=2d"}, runner.Limits{MaxAge: 48 * time.Hour, MaxSize: 500e6}},
	} {
		got, _, err := parse(t, append([]string{"bake"}, c.args...)...)
		if err != nil || got.Engine.limits() != c.want {
			t.Errorf("%q: %+v, %v; want %+v", c.args, got.Engine.limits(), err, c.want)
		}
	}
	for _, arg := range []string{"--cache-max-size=0", "--cache-max-size=101%", "--cache-max-size=much", "--cache-max-age=0", "--cache-max-age=soon"} {
		if _, _, err := parse(t, "bake", arg); err == nil {
			t.Errorf("%s was taken", arg)
		}
	}
}

func TestFlags(t *testing.T) {
	got, _, err := parse(
		t, "bake",
		"-f", "a.hcl", "-f", "b,c.hcl", "--file=-",
		"--set", "*.tags=a,b", "--set", "api.args.V=1",
		"--var", "A=x=y", "--var", "B=", "--var", "A=z",
		"--allow", "fs.read=..", "-j", "3", "-k", "--no-cache", "--pull=false", "--load", "--set", "web.output=type=tar", "--push", "--sbom=true", "--provenance", "mode=max", "--policy", "strict=true",
		"--metadata-file", "m.json", "--progress", "plain", "api",
		"--root", "r", "--runroot", "rr", "--storage-driver", "vfs", "--storage-opt", "a=b",
		"--runtime", "runc", "--isolation", "chroot", "--authfile", "auth.json", "-D",
		"--cache-max-size", "5GB",
	)
	if err != nil {
		t.Fatal(err)
	}
	want := engineFlags{
		Root: "r", Runroot: "rr", StorageDriver: "vfs", StorageOpt: []string{"a=b"},
		Runtime: "runc", Isolation: "chroot", Authfile: "auth.json",
		CacheMaxSize: share{Bytes: 5e9}, CacheMaxAge: lifetime(30 * 24 * time.Hour),
	}
	if diff := cmp.Diff(want, got.Engine); diff != "" {
		t.Error(diff)
	}
	b := got.Bake
	if want := []string{"a.hcl", "b,c.hcl", "-"}; !cmp.Equal(b.Project.Files, want) {
		t.Errorf("files %q", b.Project.Files)
	}
	overrides, err := b.overrides()
	if want := []string{
		"*.tags=a,b", "api.args.V=1", "*.load=true", "web.output=type=tar", "*.push=true", "*.no-cache=true", "*.pull=false",
		"*.attest=type=sbom,disabled=false", "*.attest=type=provenance,mode=max", "*.policy+=strict=true",
	}; err != nil || !cmp.Equal(overrides, want) {
		t.Errorf("overrides %q, %v", overrides, err)
	}
	vars, err := b.Project.vars()
	if want := map[string]string{"A": "z", "B": ""}; err != nil || !cmp.Equal(vars, want) {
		t.Errorf("vars %q, %v", vars, err)
	}
	if !got.Debug || !b.KeepGoing || b.Jobs.Steps != 3 || b.MetadataFile != "m.json" || b.Progress != "plain" {
		t.Errorf("%+v", b)
	}
}

func TestNoOverrides(t *testing.T) {
	got, _, err := parse(t, "api")
	if err != nil {
		t.Fatal(err)
	}
	if o, err := got.Bake.overrides(); err != nil || len(o) > 0 {
		t.Errorf("overrides %q, %v without a flag", o, err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("BUILDKIT_PROGRESS", "rawjson")
	t.Setenv("BUILDAH_ISOLATION", "rootless")
	t.Setenv("REGISTRY_AUTH_FILE", "/auth")
	got, _, err := parseHere(t)
	if err != nil {
		t.Fatal(err)
	}
	if got.Bake.Progress != "rawjson" || got.Engine.Isolation != "rootless" || got.Engine.Authfile != "/auth" {
		t.Errorf("%+v %+v", got.Bake, got.Engine)
	}
	if got, _, err = parseHere(t, "--progress=plain"); err != nil || got.Bake.Progress != "plain" {
		t.Errorf("a flag does not win over the environment: %v", err)
	}
}

func TestUsageErrors(t *testing.T) {
	for args, want := range map[string]string{
		"--nosuch":                      "unknown flag --nosuch",
		"--progres plain":               `did you mean "--progress"?`,
		"--progress loud":               "--progress=loud does not exist; there are auto,",
		"--isolation vm":                "--isolation must be one of",
		"--jobs=-1":                     "want a number of steps",
		"--jobs=many":                   "--jobs",
		"--push=perhaps":                "--push",
		"--file":                        "--file",
		"graph --format svg":            "dot -Tsvg > graph.svg",
		"graph --push":                  "unknown flag --push",
		"version now":                   "unexpected argument now",
		"--push graph":                  `--push applies to the default command "bake"`,
		"doctor --format yaml":          "--format must be one of",
		"bake --metadata-file":          "--metadata-file",
		"bake -j 999999999999999999999": "--jobs",
		"bake --pull=sometimes":         "want true or false, or one of missing, newer, always, never",
	} {
		_, _, err := parse(t, strings.Fields(args)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("zbuild %s: %v, want %s", args, err, want)
		}
	}
	for _, v := range []string{"A", "=x"} {
		if _, err := (projectFlags{Var: []string{v}}).vars(); err == nil {
			t.Errorf("--var %q is accepted", v)
		}
	}
}

func TestExitCode(t *testing.T) {
	for want, errs := range map[int][]error{
		0:   {nil},
		1:   {errors.New("x"), &exitError{code: exitFailed}},
		2:   {usage(errors.New("x")), fmt.Errorf("y: %w", usage(errors.New("x")))},
		125: {&session.EngineError{Err: errors.New("x")}, fmt.Errorf("y: %w", &session.EngineError{Err: errors.New("x")})},
		130: {errInterrupted, fmt.Errorf("y: %w", errInterrupted)},
	} {
		for _, err := range errs {
			if got := exitCode(err); got != want {
				t.Errorf("%v: %d, want %d", err, got, want)
			}
		}
	}
	image := &hcl.Diagnostic{Severity: hcl.DiagError, Extra: planner.CauseImage}
	mistake := &hcl.Diagnostic{Severity: hcl.DiagError}
	warning := &hcl.Diagnostic{Severity: hcl.DiagWarning}
	for _, c := range []struct {
		diags hcl.Diagnostics
		want  int
	}{
		{nil, 0},
		{hcl.Diagnostics{warning}, 0},
		{hcl.Diagnostics{image, warning}, 1},
		{hcl.Diagnostics{image, mistake}, 2},
	} {
		if got := diagnosticsCode(c.diags); got != c.want {
			t.Errorf("%v: %d, want %d", c.diags, got, c.want)
		}
	}
}

// Whoever is told of 'zbuild doctor' already is not told again.
func TestWithDoctor(t *testing.T) {
	for text, want := range map[string]string{
		"no store": "no store\n'zbuild doctor' says more",
		"the store cannot be opened; run 'zbuild doctor'": "the store cannot be opened; run 'zbuild doctor'",
	} {
		err := withDoctor(&session.EngineError{Err: errors.New(text)})
		if err.Error() != want || exitCode(err) != exitUnusable {
			t.Errorf("%q, code %d, want %q", err, exitCode(err), want)
		}
	}
}

func TestStyle(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want bool
	}{
		{nil, false},
		{map[string]string{"CLICOLOR_FORCE": "1"}, true},
		{map[string]string{"CLICOLOR_FORCE": "0"}, false},
		{map[string]string{"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, false},
		{map[string]string{"CLICOLOR_FORCE": "1", "NO_COLOR": ""}, true},
	} {
		env := func(name string) (string, bool) { v, ok := c.env[name]; return v, ok }
		if got := styleOf(new(bytes.Buffer), "/", env); got.Color != c.want {
			t.Errorf("%v: %v", c.env, got.Color)
		}
	}
}

func TestExamination(t *testing.T) {
	e := examination{Usable: true, Checks: []check{
		{Name: "storage driver", Value: "overlay", Status: checkOK, Detail: "native, on ext4"},
		{Name: "runtime", Status: checkWarn, Detail: "crun 1.8: too old\nrunc: not found", Fix: "apt install runc"},
	}}
	const want = `ok    storage driver  overlay
                      native, on ext4
warn  runtime
                      crun 1.8: too old
                      runc: not found
                      fix: apt install runc

zbuild can build on this machine.
`
	if diff := cmp.Diff(want, e.String()); diff != "" {
		t.Error(diff)
	}
}

// TestWarningsAreSentences: what the engine logs is read by people, unless it is debugged.
func TestWarningsAreSentences(t *testing.T) {
	var b strings.Builder
	log := slog.New(sentences{logs: newLogs(&b, false)})
	log.Info("nobody needs to know")
	log.With("image", "a:1").Warn("it cannot be removed", "error", errors.New("busy"), "layer", "", "step", "RUN make")
	log.Warn("it is done without")
	want := "zbuild: warning: it cannot be removed: busy (image a:1, step RUN make)\nzbuild: warning: it is done without\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
