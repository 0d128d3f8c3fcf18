package bake

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/docker/buildx/bake"
	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"

	"github.com/zbuild/zbuild/config"
)

var (
	seed  = flag.Uint64("seed", 0, "make only the project of this seed, and show it")
	first = flag.Uint64("first", 0, "the first seed; 0 takes one from the clock")
	count = flag.Int("projects", 1000, "how many projects to make")
)

// TestRandom makes projects by chance and evaluates each with bake's package and
// with zbuild's, in this process. A failure says the seed; go test -run Random
// -seed N makes that project again.
func TestRandom(t *testing.T) {
	start, n := *first, uint64(*count)
	if start == 0 {
		start = uint64(time.Now().UnixNano()) >> 10
	}
	if *seed != 0 {
		start, n = *seed, 1
	}
	t.Logf("seeds %d to %d", start, start+n-1)
	accepted, failed := 0, 0
	for s := start; s < start+n && failed < 10; s++ {
		t.Run(fmt.Sprint(s), func(t *testing.T) {
			p := makeProject(s)
			ok, err := p.compare(t)
			if ok {
				accepted++
			}
			if err != nil {
				failed++
				t.Errorf("%v\n%s", err, p)
			} else if *seed != 0 {
				t.Log(p)
			}
		})
	}
	t.Logf("%d of %d were accepted by bake", accepted, n)
	if n > 100 && accepted < int(n)/3 {
		t.Error("most projects are refused: they test little")
	}
}

// compare evaluates the project with both; ok is bake's verdict.
func (p *project) compare(t *testing.T) (ok bool, err error) {
	t.Helper()
	t.Chdir(t.TempDir())
	for _, f := range p.files {
		if err := os.WriteFile(f.name, []byte(f.text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range p.env {
		t.Setenv(name, value)
	}
	got, diags := p.zbuild(t)
	// What bake makes of overrides of one target's outputs is a matter of chance: it
	// goes through a map of them. It has to come to what zbuild does at some time.
	for range 30 {
		if ok, err = p.agrees(t, got, diags); err == nil || !slices.ContainsFunc(p.overrides, aboutOutputs) {
			break
		}
	}
	return ok, err
}

func aboutOutputs(override string) bool {
	_, rest, _ := strings.Cut(override, ".")
	return strings.HasPrefix(rest, "output") || strings.HasPrefix(rest, "push") || strings.HasPrefix(rest, "load")
}

// agrees evaluates the project with bake, and compares.
func (p *project) agrees(t *testing.T, got []byte, diags hcl.Diagnostics) (ok bool, err error) {
	t.Helper()
	want, bakeErr := p.bake()
	switch {
	case bakeErr != nil && !diags.HasErrors():
		return false, fmt.Errorf("only bake refuses it: %w", bakeErr)
	case bakeErr == nil && diags.HasErrors():
		return true, fmt.Errorf("only zbuild refuses it: %w", diags)
	case bakeErr != nil:
		return false, nil //nolint:nilerr // both refuse it, and that is what is asked
	}
	a, err := decode(want)
	if err != nil {
		t.Fatal(err)
	}
	b, err := decode(got)
	if err != nil {
		return true, err
	}
	if diff := cmp.Diff(a, b); diff != "" {
		return true, fmt.Errorf("-bake +zbuild\n%s", diff)
	}
	return true, nil
}

// bake is what bake --print does between reading the files and printing.
func (p *project) bake() (text []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	var files []bake.File
	for _, f := range p.files {
		files = append(files, bake.File{Name: f.name, Data: []byte(f.text)})
	}
	targets := slices.Clone(p.targets)
	if len(targets) == 0 {
		targets = []string{"default"}
	}
	defaults := map[string]string{
		"BAKE_CMD_CONTEXT": "cwd://", "BAKE_LOCAL_PLATFORM": platforms.Format(platforms.DefaultSpec()),
	}
	made, groups, err := bake.ReadTargets(context.Background(), files, targets, p.overrides, defaults, p.vars, &bake.EntitlementConf{})
	if err != nil {
		return nil, err
	}
	if _, err := bake.TargetsToBuildOpt(made, nil); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"group": groups, "target": made})
}

func (p *project) zbuild(t *testing.T) ([]byte, hcl.Diagnostics) {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range p.files {
		names = append(names, f.name)
	}
	loaded, diags := config.Load(context.Background(), config.Request{
		Dir: dir, Files: names, LookupEnv: os.LookupEnv, Environ: os.Environ(), Vars: p.vars,
		Targets: p.targets, Overrides: p.overrides, EvaluateOnly: true,
		LocalPlatform: platforms.FormatAll(platforms.DefaultSpec()),
	})
	if diags.HasErrors() {
		return nil, diags
	}
	var b bytes.Buffer
	if err := loaded.Print(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), diags
}

// project is a project made by chance.
type project struct {
	files     []file
	env, vars map[string]string
	targets   []string
	overrides []string
}

type file struct{ name, text string }

// String shows the project as an archive.
func (p *project) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "env %q, vars %q, targets %q, overrides %q\n", p.env, p.vars, p.targets, p.overrides)
	for _, f := range p.files {
		fmt.Fprintf(&b, "-- %s --\n%s", f.name, f.text)
	}
	return b.String()
}
