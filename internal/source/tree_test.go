package source

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
)

func TestBelow(t *testing.T) {
	for _, tt := range []struct {
		exclude []string
		dir     string
		want    []string
	}{
		{[]string{"**/node_modules"}, "/a/b", []string{"**/node_modules"}},
		{[]string{"*.log"}, "/a", nil},
		{[]string{"a/tmp", "b/tmp"}, "/a", []string{"tmp"}},
		{[]string{"*/tmp", "!a/tmp/keep"}, "/a", []string{"tmp", "!tmp/keep"}},
		{[]string{"a"}, "/a", []string{"**"}},
		{[]string{"*", "!a/b"}, "/a", []string{"**", "!b"}},
		{[]string{"**/x/y"}, "/x", []string{"**/x/y", "y"}},
		{[]string{"/lead/ing/"}, "/lead", []string{"ing"}},
		{[]string{"**"}, "/deep/er", []string{"**"}},
	} {
		if got := (Tree{Exclude: tt.exclude}).Below(tt.dir); !slices.Equal(got, tt.want) {
			t.Errorf("%q below %s: %q, want %q", tt.exclude, tt.dir, got, tt.want)
		}
	}
}

// TestBelowAgrees compares, on random patterns and paths, what patterns say of a
// path with what the patterns below its directory say of the rest.
func TestBelowAgrees(t *testing.T) {
	names := []string{"a", "b", "ab", "c.log"}
	parts := []string{"a", "b", "*", "**", "a*", "?", "*.log", "ab"}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		var patterns []string
		for range 1 + rng.IntN(3) {
			var p []string
			for range 1 + rng.IntN(3) {
				p = append(p, parts[rng.IntN(len(parts))])
			}
			sign := ""
			if rng.IntN(4) == 0 {
				sign = "!"
			}
			patterns = append(patterns, sign+strings.Join(p, "/"))
		}
		var elems []string
		for range 2 + rng.IntN(3) {
			elems = append(elems, names[rng.IntN(len(names))])
		}
		cut := 1 + rng.IntN(len(elems)-1)
		whole := ignored(t, patterns, strings.Join(elems, "/"))
		below := ignored(t, Tree{Exclude: patterns}.Below(strings.Join(elems[:cut], "/")), strings.Join(elems[cut:], "/"))
		if whole != below {
			t.Fatalf("patterns %q, path %s cut after %d: %v as a whole, %v from below (%q)", patterns, strings.Join(elems, "/"),
				cut, whole, below, Tree{Exclude: patterns}.Below(strings.Join(elems[:cut], "/")))
		}
	}
}

func ignored(t *testing.T, patterns []string, name string) bool {
	t.Helper()
	if len(patterns) == 0 {
		return false
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatalf("%q: %v", patterns, err)
	}
	ok, err := m.MatchesOrParentMatches(name)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func files(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		p := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestResolve(t *testing.T) {
	dir := files(t, "a/x.go", "a/y.go", "b/z.go", "secret/key", "kept/in/file")
	tree := Tree{Dir: dir, Exclude: []string{"secret", "kept", "!kept/in"}}
	for _, tt := range []struct {
		sel  Selection
		want []string
	}{
		{Selection{Path: "/a"}, []string{"/a"}},
		{Selection{Path: "/"}, []string{"/"}},
		{Selection{Path: "*/*.go", Wildcard: true}, []string{"/a/x.go", "/a/y.go", "/b/z.go"}},
		{Selection{Path: "../../a"}, []string{"/a"}},
		{Selection{Path: "/kept"}, []string{"/kept"}},
		{Selection{Path: "s*", Wildcard: true}, nil},
		{Selection{Path: "/secret/key"}, nil},
		{Selection{Path: "/missing"}, nil},
		{Selection{Path: "/missing", Wildcard: true}, nil},
	} {
		got, err := tree.Resolve(tt.sel)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v: %q, %v; want %q", tt.sel, got, err, tt.want)
		}
		if tt.want == nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: error %v", tt.sel, err)
		}
	}
	for p, there := range map[string]bool{"/a/x.go": true, "kept": true, "/no": false, "/secret": false} {
		if err := tree.Require(p); (err == nil) != there {
			t.Errorf("Require(%s): %v", p, err)
		}
	}
	var none *NotFoundError
	if _, err := tree.Resolve(Selection{Path: "/secret/key"}); !errors.As(err, &none) || none.Ignored != "secret" {
		t.Errorf("the pattern is not named: %v", err)
	}
	if _, err := tree.Resolve(Selection{Path: "/missing", Wildcard: true}); !errors.As(err, &none) || none.Pattern {
		t.Errorf("a plain name passes for a pattern that matches nothing: %v", err)
	}
	if _, err := tree.Resolve(Selection{Path: "/missing*", Wildcard: true}); !errors.As(err, &none) || !none.Pattern {
		t.Errorf("a pattern that matches nothing: %v", err)
	}
	for _, bad := range []string{"/a[", "a/x[]]go", "*/[a-"} {
		if _, err := tree.Resolve(Selection{Path: bad, Wildcard: true}); !errors.Is(err, path.ErrBadPattern) {
			t.Errorf("%s, which is no pattern: %v", bad, err)
		}
		if _, err := tree.Resolve(Selection{Path: bad}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s, which is a name: %v", bad, err)
		}
	}
}

// TestCheck has patterns that are none for a build context.
func TestCheck(t *testing.T) {
	for _, sel := range []Selection{
		{Path: "/d/a[z-a]", Wildcard: true},
		{Path: "/d", Exclude: []string{"b", "!*[z-a]/c"}},
		{Path: "/d", Include: []string{"[a-]"}},
	} {
		if err := sel.Check(); !errors.Is(err, filepath.ErrBadPattern) {
			t.Errorf("%+v: %v", sel, err)
		}
	}
	for _, sel := range []Selection{
		{Path: "/d/a[z-a]"},
		{Path: "/d/[a-z]?[[]*", Wildcard: true, Exclude: []string{"!x[^a]", "**/[z-z]"}},
	} {
		if err := sel.Check(); err != nil {
			t.Errorf("%+v: %v", sel, err)
		}
	}
}

// TestNoEscape looks whether a link or dots can lead out of the tree.
func TestNoEscape(t *testing.T) {
	outside := files(t, "victim")
	dir := files(t, "inside/file")
	for name, target := range map[string]string{"abs": outside, "rel": "../../../../../.." + outside, "inside/up": "../.."} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	var h Hasher
	for _, p := range []string{"/abs/victim", "/rel/victim", "/inside/up/" + path.Join("..", outside, "victim"), "/abs/*"} {
		sel := Selection{Path: p, Wildcard: strings.Contains(p, "*"), FollowLinks: true}
		if d, err := h.Hash(context.Background(), Tree{Dir: dir}, sel); err == nil {
			t.Errorf("%s was read: %s", p, d)
		}
	}
}
