package session_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/session"
)

// git runs git in a directory.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// closed closes a session.
func closed(t *testing.T, s *session.Session) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// planLabels plans the project in dir and gives the labels of its target default.
func planLabels(t *testing.T, dir string, env map[string]string) map[string]string {
	t.Helper()
	s := session.New(session.Options{Load: config.Request{
		Dir: dir, LocalPlatform: "linux/amd64",
		LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	}})
	defer closed(t, s)
	g := s.Generate(t.Context(), session.Plan)
	if !g.OK() || len(g.Diagnostics) > 0 {
		t.Fatal(g.Err, g.Diagnostics)
	}
	return g.Project.Targets["default"].Labels
}

// TestCommitLabels asks for the labels of the commit, in a repository that goes
// through its first steps.
func TestCommitLabels(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "app")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const own = "org.opencontainers.image.source"
	for name, text := range map[string]string{
		"app/zbuild.hcl":     `target "default" { labels = { "` + own + `" = "own", x = "y" } }`,
		"app/api.Dockerfile": "FROM scratch\nCOPY zbuild.hcl /\n",
		"app/Dockerfile":     "FROM scratch\nCOPY zbuild.hcl /\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	on := map[string]string{"BUILDX_GIT_LABELS": "1"}
	full := map[string]string{"BUILDX_GIT_LABELS": "full", "BUILDX_GIT_CHECK_DIRTY": "1"}
	check := func(when string, env, want map[string]string) {
		t.Helper()
		want = maps.Clone(want)
		want["x"] = "y"
		if want[own] == "" {
			want[own] = "own"
		}
		if got := planLabels(t, dir, env); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	check("outside of a repository", on, map[string]string{})
	git(t, root, "init", "--quiet", "--initial-branch=main")
	entry := map[string]string{"com.docker.image.source.entrypoint": "app/Dockerfile"}
	check("before the first commit", on, entry)
	git(t, root, "add", ".")
	git(t, root, "commit", "--quiet", "--message=first")
	entry["org.opencontainers.image.revision"] = git(t, root, "rev-parse", "HEAD")
	check("without a remote", on, entry)
	check("not asked for", map[string]string{"BUILDX_GIT_LABELS": "0"}, map[string]string{})
	git(t, root, "remote", "add", "origin", "https://user:hunter2@example.com/app.git")
	entry[own] = "https://xxxxx:xxxxx@example.com/app.git"
	check("with a remote", on, entry)
	check("clean", full, entry)
	if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	check("dirty, but not looked at", on, entry)
	entry["org.opencontainers.image.revision"] += "-dirty"
	check("dirty", full, entry)
}

// TestCommitLabelsWithoutGit has a directory that is no repository, whatever it
// looks like: the build goes on, with a warning.
func TestCommitLabelsWithoutGit(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"zbuild.hcl": build, "Dockerfile": "FROM scratch\nCOPY zbuild.hcl /\n", ".git": "nonsense"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := session.New(session.Options{Load: config.Request{
		Dir: dir, LocalPlatform: "linux/amd64",
		LookupEnv: func(name string) (string, bool) { return "true", name == "BUILDX_GIT_LABELS" },
	}})
	defer closed(t, s)
	g := s.Generate(t.Context(), session.Plan)
	if !g.OK() || len(g.Diagnostics) != 1 || !strings.Contains(g.Diagnostics[0].Detail, "invalid gitfile format") {
		t.Error(g.Err, g.Diagnostics)
	}
}
