package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

// TestCalls asks both about the Dockerfiles of all cases: what the linter finds, what
// the targets are and what they are made with.
func TestCalls(t *testing.T) {
	cases, err := readCases(*casesFlag)
	check(t, err)
	s := newSuite(t)
	for _, c := range cases {
		if reason := notAsked(c); reason != "" {
			t.Logf("%s is left out: %s", c.name, reason)
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
			defer cancel()
			dir := filepath.Join(t.TempDir(), c.name)
			check(t, os.Mkdir(dir, 0o755))
			places := strings.NewReplacer("REGISTRY", s.registry.Addr(), "SERVER", s.files.serve(c.name, dir))
			check(t, c.unpack(ctx, dir, places))
			for _, method := range methods(c) {
				ours, said, ourErr := s.ask(ctx, t, c, dir, "zbuild", method)
				theirs, also, theirErr := s.ask(ctx, t, c, dir, "buildkit", method)
				if (ourErr == nil) != (theirErr == nil) {
					t.Errorf("%s: zbuild: %v\n%s\nbuildkit: %v\n%s", method, ourErr, said, theirErr, also)
				}
				if method != "check" && theirErr != nil {
					continue // bake answers nothing then, and zbuild says which target has what
				}
				if d := cmp.Diff(theirs, ours); d != "" {
					t.Errorf("%s (-buildkit +zbuild):\n%s", method, d)
				}
			}
		})
	}
}

// methods are those that bake has an answer to.
func methods(c *testCase) []string {
	all := []string{"check", "outline", "targets"}
	text := string(txtar.Format(c.archive))
	switch {
	case strings.Contains(text, "error=true"):
		return all[:1] // bake shows no outline of what the linter refuses
	case strings.Contains(text, "check="), c.dir != "":
		return all[:2] // buildkitd dies of comments for the linter when it lists targets
	}
	return all
}

// notAsked says why bake's answer about a case is not what it could be.
func notAsked(c *testCase) string {
	for _, f := range c.archive.Files {
		if f.Name != "zbuild.hcl" {
			continue
		}
		for _, field := range []struct{ has, reason string }{
			{`"target:`, "bake does not give targets that are contexts of what is asked"},
			{"platforms", "bake asks for its own platform"},
		} {
			if strings.Contains(string(f.Data), field.has) {
				return field.reason
			}
		}
	}
	return ""
}

// ask has one of the programs answer about a case.
func (s *suite) ask(ctx context.Context, t *testing.T, c *testCase, dir, program, method string) (answer any, said string, err error) {
	t.Helper()
	args := append([]string{"bake", "-f", "zbuild.hcl", "--call=" + method + ",format=json", "--allow=fs=*", "--allow=network.host", "--allow=security.insecure", "--allow=ssh", "--set=*.output=type=cacheonly"}, c.targets...)
	cmd := exec.CommandContext(ctx, s.zbuild, args...)
	cmd.Env = s.env
	if program == "buildkit" {
		cmd, err = s.daemon.Buildx(ctx, args...)
		check(t, err)
	}
	cmd.Dir = dir
	cmd.Env = append(slices.Clip(cmd.Env), c.env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if json.Unmarshal(out.Bytes(), &answer) != nil {
		return out.String(), errs.String(), err
	}
	return neutralAnswer(answer), errs.String(), err
}

// neutralAnswer is an answer without the graph that a Dockerfile was read by, in which
// whoever asked has a name, and without what the other fields have, for people. What
// stands on one line is in no order.
func neutralAnswer(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = neutralAnswer(v[i])
		}
	case map[string]any:
		for _, key := range []string{"definition", "error", "message", "filename"} {
			delete(v, key)
		}
		for key, value := range v {
			v[key] = neutralAnswer(value)
		}
		if args, ok := v["args"].([]any); ok {
			slices.SortFunc(args, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
	return v
}
