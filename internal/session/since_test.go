package session_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/session"
)

// TestSince plans the targets that are made of what a branch has changed.
func TestSince(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("zbuild.hcl", `
group "default" { targets = ["api", "web", "lib"] }
target "lib" { context = "lib" }
target "api" {
  context  = "api"
  contexts = { lib = "target:lib" }
}
target "web" { context = "web" }
`)
	write("lib/Dockerfile", "FROM scratch\nCOPY src /\n")
	write("lib/src/a", "1")
	write("lib/README", "1")
	write("api/Dockerfile", "FROM lib\nCOPY main /\n")
	write("api/main", "1")
	write("web/Dockerfile", "FROM scratch\nCOPY . /\n")
	write("web/.dockerignore", "*.md\n")
	write("web/index", "1")
	git(t, root, "init", "--quiet", "--initial-branch=main")
	git(t, root, "add", ".")
	git(t, root, "commit", "--quiet", "--message=first")
	git(t, root, "checkout", "--quiet", "-b", "topic")

	since := func(revision string) *session.Generation {
		t.Helper()
		s := session.New(session.Options{Load: config.Request{Dir: root, LocalPlatform: "linux/amd64"}, Since: revision})
		defer closed(t, s)
		return s.Generate(t.Context(), session.Plan)
	}
	check := func(what string, want ...string) {
		t.Helper()
		g := since("main")
		if !g.OK() {
			t.Fatal(what, g.Err, g.Diagnostics)
		}
		var got []string
		for _, p := range g.Plan.Targets {
			if p.Requested {
				got = append(got, p.Name)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) || len(got)+len(g.Unaffected) != 3 {
			t.Errorf("%s: %v are planned and %v are not, want %v", what, got, g.Unaffected, want)
		}
	}
	check("nothing has changed")
	write("lib/README", "2")
	write("web/notes.md", "new")
	check("what no step takes")
	write("web/new", "not tracked")
	check("a new file", "web")
	git(t, root, "add", ".")
	git(t, root, "commit", "--quiet", "--message=second")
	check("the same, committed", "web")
	write("lib/src/a", "2")
	check("what another target needs", "api", "lib", "web")
	git(t, root, "checkout", "--quiet", "--", "lib")
	if err := os.Remove(filepath.Join(root, "api", "main")); err != nil {
		t.Fatal(err)
	}
	check("a file that is gone", "api", "web")
	git(t, root, "checkout", "--quiet", "--", "api")
	write("api/Dockerfile", "FROM lib\n")
	check("a Dockerfile", "api", "web")
	git(t, root, "stash", "--quiet")

	// What happens on the other branch meanwhile does not count.
	git(t, root, "checkout", "--quiet", "main")
	write("api/main", "2")
	git(t, root, "commit", "--quiet", "--all", "--message=elsewhere")
	git(t, root, "checkout", "--quiet", "topic")
	check("the other branch", "web")
	write("zbuild.hcl", `group "default" { targets = ["web", "lib"] }
target "web" { context = "web" }
target "lib" { context = "lib" }
target "api" {}
`)
	if g := since("main"); len(g.Unaffected) > 0 {
		t.Errorf("the build file has changed, and %v are left out", g.Unaffected)
	}
	for _, revision := range []string{"nowhere", "--all"} {
		if g := since(revision); g.OK() || !strings.Contains(g.Diagnostics[0].Detail, "git says") {
			t.Errorf("since %q: %v", revision, g.Diagnostics)
		}
	}
}
