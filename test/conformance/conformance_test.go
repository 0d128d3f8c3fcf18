package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/zbuild/zbuild/test/buildkitd"
	"github.com/zbuild/zbuild/test/registry"
)

var (
	zbuildFlag = flag.String("zbuild", "../../bin/zbuild", "the zbuild that is compared")
	binFlag    = flag.String("bin", "../bin", "the directory with buildkitd and buildx")
	keepFlag   = flag.Bool("v-output", false, "log what both programs print")
	casesFlag  = flag.String("cases", "testdata", "the directory of cases: archives, and directories with a Dockerfile")
	aliasFlag  = flag.String("busybox-as", "", "other images' names, by commas, that busybox has too: cases that come from elsewhere name them")
)

// A case that takes longer hangs.
const caseTimeout = 3 * time.Minute

// suite is what all cases share: one registry, one buildkitd, one store.
type suite struct {
	zbuild   string
	env      []string // zbuild's environment
	registry *registry.Registry
	files    *fileServer
	daemon   *buildkitd.Daemon
	started  time.Time

	cases, agree, known atomic.Int32
}

// TestConformance builds every case with both and compares.
func TestConformance(t *testing.T) {
	cases, err := readCases(*casesFlag)
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) == 0 {
		t.Fatal("no cases")
	}
	s := newSuite(t)
	t.Run("cases", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s.run(t, c)
			})
		}
	})
	t.Logf("%d cases: %d agree, %d differ as known", s.cases.Load(), s.agree.Load(), s.known.Load())
}

func newSuite(t *testing.T) *suite {
	t.Helper()
	zbuild, err := filepath.Abs(*zbuildFlag)
	check(t, err)
	bin, err := filepath.Abs(*binFlag)
	check(t, err)
	for _, program := range []string{zbuild, filepath.Join(bin, "buildkitd"), filepath.Join(bin, "buildx")} {
		if _, err := os.Stat(program); err != nil {
			t.Fatalf("%v: `make conformance` builds it", err)
		}
	}
	reg, err := registry.Start(t.Context())
	check(t, err)
	t.Cleanup(func() { check(t, reg.Close()) })
	check(t, pushBases(t.Context(), reg, strings.FieldsFunc(*aliasFlag, func(r rune) bool { return r == ',' })))

	// Not t.TempDir: the path of a socket has to be short.
	root, err := os.MkdirTemp("", "conf-") //nolint:usetesting // see above
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(root)) })
	daemon, err := buildkitd.Start(t.Context(), buildkitd.Options{Bin: bin, Root: filepath.Join(root, "bk"), Mirror: reg.Addr()})
	check(t, err)
	t.Cleanup(func() { check(t, daemon.Stop()) })
	// The first call makes the builder, of which there is one for all.
	_, err = daemon.Buildx(t.Context(), "version")
	check(t, err)

	env, err := environment(filepath.Join(root, "zb"), reg)
	check(t, err)
	return &suite{zbuild: zbuild, env: env, registry: reg, files: newFileServer(t), daemon: daemon, started: time.Now()}
}

// environment is zbuild's: a store of its own, and the registry in place of
// docker.io.
func environment(dir string, reg *registry.Registry) ([]string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	files := map[string]string{
		"registries.conf": reg.Conf(),
		"auth.json":       "{}",
		"storage.conf": fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n\n[storage.options.overlay]\nskip_mount_home = \"true\"\n",
			filepath.Join(dir, "root"), filepath.Join(dir, "run")),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	return append(os.Environ(),
		"HOME="+dir,
		"XDG_RUNTIME_DIR="+dir,
		"CONTAINERS_STORAGE_CONF="+filepath.Join(dir, "storage.conf"),
		"CONTAINERS_REGISTRIES_CONF="+filepath.Join(dir, "registries.conf"),
		"REGISTRY_AUTH_FILE="+filepath.Join(dir, "auth.json"),
	), nil
}

func (s *suite) run(t *testing.T, c *testCase) {
	ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
	defer cancel()
	// buildx takes directories of the same name for one, and files of the same size
	// and time in it for unchanged.
	dir := filepath.Join(t.TempDir(), c.name)
	check(t, os.Mkdir(dir, 0o755))
	places := strings.NewReplacer("REGISTRY", s.registry.Addr(), "SERVER", s.files.serve(c.name, dir))
	check(t, c.unpack(ctx, dir, places))
	s.cases.Add(1)

	// Without the cache: files of other cases may be equal but for their times.
	differ := s.compare(ctx, t, c, dir, "--no-cache")
	again, err := c.again(dir, places)
	check(t, err)
	if again {
		for _, d := range s.compare(ctx, t, c, dir) { // with zbuild's cache
			differ = append(differ, "again: "+d)
		}
	}
	expected, isKnown := knownDifferences[c.name]
	switch {
	case len(differ) == 0 && isKnown:
		t.Error("it is listed as a known difference, but there is none")
	case len(differ) == 0:
		s.agree.Add(1)
	case isKnown:
		for _, d := range differ {
			if !regexp.MustCompile(expected.what).MatchString(d) {
				t.Errorf("%s (beside the known difference: %s)", d, expected.reason)
			}
		}
		s.known.Add(1)
	default:
		t.Errorf("%s%s", c.comment(), strings.Join(differ, "\n"))
	}
}

// outcome is what a program made of a case.
type outcome struct {
	err    error
	output string
	image  string // its images' name, a target's is the tag
}

func (s *suite) compare(ctx context.Context, t *testing.T, c *testCase, dir string, args ...string) []string {
	t.Helper()
	ours := s.build(ctx, t, c, dir, "zbuild", args...)
	theirs := s.build(ctx, t, c, dir, "buildkit", "--no-cache")
	if *keepFlag {
		t.Logf("zbuild:\n%s\nbuildkit:\n%s", ours.output, theirs.output)
	}
	if c.dir != "" && ours.err != nil && theirs.err != nil {
		t.Logf("neither builds it:\n%s", theirs.output)
	}
	if c.fails != nil || c.dir != "" && ours.err != nil && theirs.err != nil {
		return s.compareFailures(c, ours, theirs)
	}
	if c.dir != "" && theirs.err != nil {
		return []string{"zbuild builds it, buildkit does not: " + theirs.output}
	}
	if theirs.err != nil {
		t.Fatalf("%sbuildkit: %v\n%s", c.comment(), theirs.err, theirs.output)
	}
	if ours.err != nil {
		return []string{fmt.Sprintf("buildkit builds it, zbuild does not: %v\n%s", ours.err, ours.output)}
	}
	var out []string
	for _, target := range c.targets {
		for _, d := range s.compareImages(ctx, t, ours.image+":"+target, theirs.image+":"+target) {
			if len(c.targets) > 1 {
				d = target + ": " + d
			}
			out = append(out, d)
		}
	}
	return out
}

// build runs one of the programs, which pushes what it builds.
func (s *suite) build(ctx context.Context, t *testing.T, c *testCase, dir, program string, more ...string) outcome {
	t.Helper()
	o := outcome{image: "made-by-" + program + "/" + c.name}
	args := append([]string{"bake", "--progress=plain", "--push", "-f", "zbuild.hcl"}, more...)
	for _, target := range c.targets {
		args = append(args, "--set", fmt.Sprintf("%s.tags=%s/%s:%s", target, s.registry.Addr(), o.image, target))
	}
	// What a file asks for is allowed: it is a test of what comes then.
	args = append(args, "--allow=fs=*", "--allow=network.host", "--allow=security.insecure", "--allow=ssh", "--allow=buildx.local.delete")
	args = append(args, c.targets...)
	cmd := exec.CommandContext(ctx, s.zbuild, args...)
	cmd.Env = s.env
	if program == "buildkit" {
		var err error
		cmd, err = s.daemon.Buildx(ctx, args...)
		check(t, err)
	}
	cmd.Dir = dir
	cmd.Env = append(slices.Clip(cmd.Env), c.env...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	cmd.WaitDelay = time.Second
	o.err = cmd.Run()
	o.output = b.String()
	if ctx.Err() != nil {
		t.Fatalf("%s did not end:\n%s", program, o.output)
	}
	var exit *exec.ExitError
	if o.err != nil && !errors.As(o.err, &exit) {
		t.Fatal(o.err)
	}
	return o
}

// marked is a line of a Dockerfile that a message is about. Both mark the lines
// of steps; of a file that cannot be read zbuild says the place.
var marked = regexp.MustCompile(`(?m)^\s*(\d+) \| >>> |^  on [^ ]+:(\d+):\d+`)

// warning is one of zbuild's, with the place that it is about.
var warning = regexp.MustCompile(`(?m)^Warning: .*\n  on .*\n`)

// line is the first line of a Dockerfile that an error is about, empty if it is
// about none.
func line(output string) string {
	if m := marked.FindStringSubmatch(warning.ReplaceAllString(output, "")); m != nil {
		return m[1] + m[2]
	}
	return ""
}

func (s *suite) compareFailures(c *testCase, ours, theirs outcome) []string {
	var out []string
	for _, p := range []struct {
		name string
		outcome
	}{{"zbuild", ours}, {"buildkit", theirs}} {
		switch {
		case p.err == nil:
			out = append(out, p.name+" builds what has to fail")
		case c.fails != nil && !c.fails.MatchString(p.output):
			out = append(out, fmt.Sprintf("%s fails for another reason than %s:\n%s", p.name, c.fails, p.output))
		}
	}
	if a, b := line(ours.output), line(theirs.output); len(out) == 0 && b != "" && a != b {
		out = append(out, fmt.Sprintf("zbuild fails at line %q, buildkit at %q:\n%s\n%s", a, b, ours.output, theirs.output))
	}
	return out
}

func (s *suite) compareImages(ctx context.Context, t *testing.T, ours, theirs string) []string {
	t.Helper()
	a, err := s.registry.Pull(ctx, ours)
	check(t, err)
	b, err := s.registry.Pull(ctx, theirs)
	check(t, err)
	out := compareConfigs(t, a, b)
	first, err := flatten(a)
	check(t, err)
	second, err := flatten(b)
	check(t, err)
	return append(out, differences(first, second, s.started)...)
}

// compareConfigs compares what two images say of themselves, history included.
// Digests of layers cannot be the same, because files have times.
func compareConfigs(t *testing.T, a, b v1.Image) []string {
	t.Helper()
	ours, ourLayers := config(t, a)
	theirs, theirLayers := config(t, b)
	var out []string
	if ourLayers != theirLayers {
		out = append(out, fmt.Sprintf("layers: zbuild %d, buildkit %d", ourLayers, theirLayers))
	}
	if d := cmp.Diff(theirs, ours); d != "" {
		out = append(out, "configuration (-buildkit +zbuild):\n"+d)
	}
	return out
}

func config(t *testing.T, img v1.Image) (map[string]any, int) {
	t.Helper()
	raw, err := img.RawConfigFile()
	check(t, err)
	var c map[string]any
	check(t, json.Unmarshal(raw, &c))
	layers, err := img.Layers()
	check(t, err)
	for _, key := range []string{"created", "rootfs"} {
		delete(c, key)
	}
	if history, ok := c["history"].([]any); ok {
		for _, h := range history {
			if entry, ok := h.(map[string]any); ok {
				delete(entry, "created")
			}
		}
	}
	return c, len(layers)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
