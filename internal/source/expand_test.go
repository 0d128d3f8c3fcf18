package source

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	fscopy "github.com/tonistiigi/fsutil/copy"
)

// TestExpandAgrees compares, on random patterns and a tree with links, what a
// pattern matches here with what fsutil's walk of the whole tree finds.
func TestExpandAgrees(t *testing.T) {
	dir := t.TempDir()
	names := []string{"a", "b", "ab", "c.log", "*"}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 150 {
		var elems []string
		for range 1 + rng.IntN(3) {
			elems = append(elems, names[rng.IntN(len(names))])
		}
		p := filepath.Join(dir, filepath.Join(elems...))
		_ = os.MkdirAll(filepath.Dir(p), 0o755) // a file may be in the way, which is fine
		switch rng.IntN(3) {
		case 0:
			_ = os.Symlink(names[rng.IntN(len(names))], p)
		case 1:
			_ = os.WriteFile(p, nil, 0o644)
		default:
			_ = os.Mkdir(p, 0o755)
		}
	}
	parts := []string{"a", "b", "*", "a*", "?", "*.log", "ab", "[ab]", `\*`, "none"}
	for range 5000 {
		var p []string
		for range 1 + rng.IntN(3) {
			p = append(p, parts[rng.IntN(len(parts))])
		}
		pattern := "/" + strings.Join(p, "/")
		want, err1 := fscopy.ResolveWildcards(dir, pattern, false)
		for i := range want {
			want[i] = clean(want[i])
		}
		got, err2 := (Tree{Dir: dir}).expand(pattern, false)
		for i := range got {
			got[i] = clean(got[i])
		}
		if (err1 == nil) != (err2 == nil) || errors.Is(err1, fs.ErrNotExist) != errors.Is(err2, fs.ErrNotExist) || !slices.Equal(got, want) {
			t.Fatalf("%s: %q, %v; want %q, %v", pattern, got, err2, want, err1)
		}
	}
}
