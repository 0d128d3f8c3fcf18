package source

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tree makes random changes to a directory, and says what they are as a watcher
// does: every path that came, went or changed, and what is in directories that came.
type tree struct {
	t   *testing.T
	rng *rand.Rand
	dir string
	// told are the changed paths, not with what is left out of the selection by its
	// name.
	told []string
}

func (w *tree) name() string {
	names := []string{"a", "b", "c.log", "d", "keep.log", "tmp"}
	var p []string
	for range 1 + w.rng.IntN(4) {
		p = append(p, names[w.rng.IntN(len(names))])
	}
	return filepath.Join(append([]string{w.dir}, p...)...)
}

// note notes paths, and where links lead to from there.
func (w *tree) note(paths ...string) {
	for _, p := range paths {
		w.told = append(w.told, p)
		if real, err := filepath.EvalSymlinks(p); err == nil {
			w.told = append(w.told, real)
		}
		if real, err := filepath.EvalSymlinks(filepath.Dir(p)); err == nil {
			w.told = append(w.told, filepath.Join(real, filepath.Base(p)))
		}
	}
}

// way are a path and the directories that lead to it.
func (w *tree) way(p string) (all []string) {
	for ; len(p) > len(w.dir); p = filepath.Dir(p) {
		all = append(all, p)
	}
	return all
}

// change does something, or fails to: that is a change, too.
func (w *tree) change() {
	p, to := w.name(), w.name()
	w.note(p)
	switch w.rng.IntN(12) {
	case 0, 1, 2, 3:
		_ = os.MkdirAll(filepath.Dir(p), 0o755)
		_ = os.WriteFile(p, fmt.Appendf(nil, "%d", w.rng.IntN(4)), 0o644)
		w.note(w.way(p)...)
	case 4:
		_ = os.MkdirAll(p, 0o755)
		w.note(w.way(p)...)
	case 5:
		_ = os.RemoveAll(p)
	case 6:
		_ = os.Remove(p)
	case 7, 8:
		if os.Rename(p, to) == nil {
			_ = filepath.WalkDir(to, func(p string, _ fs.DirEntry, err error) error {
				w.note(p)
				return err
			})
		}
	case 9:
		if os.Link(p, to) == nil {
			w.note(to)
		}
	case 10:
		_ = os.Symlink([]string{"a", "b/c.log", "nowhere"}[w.rng.IntN(3)], p)
	case 11:
		_ = os.Chmod(p, []fs.FileMode{0o644, 0o755, 0o700}[w.rng.IntN(3)])
	}
}

// TestMemoryAgrees compares what a Memory says after random changes with what is
// found by looking at all anew.
func TestMemoryAgrees(t *testing.T) {
	selections := []struct {
		exclude []string
		sel     Selection
	}{
		{nil, Selection{Path: "/"}},
		{[]string{"**/*.log", "tmp"}, Selection{Path: "/"}},
		{[]string{"**/*.log", "!**/keep.log"}, Selection{Path: "/"}},
		{[]string{"*", "!b/a"}, Selection{Path: "/"}},
		{nil, Selection{Path: "/a", FollowLinks: true}},
		{[]string{"a/tmp"}, Selection{Path: "/a/", FollowLinks: true}},
		{nil, Selection{Path: "/", Include: []string{"**/d", "b/**"}, Exclude: []string{"**/tmp"}}},
		{nil, Selection{Path: "/*/a", Wildcard: true, FollowLinks: true}},
		{nil, Selection{Path: "/a/b"}},
	}
	for seed := range uint64(12) {
		w := &tree{t: t, rng: rand.New(rand.NewPCG(seed, 9)), dir: t.TempDir()}
		for range 25 {
			w.change()
		}
		index, err := OpenIndex(filepath.Join(t.TempDir(), "index"), time.Now)
		if err != nil {
			t.Fatal(err)
		}
		m := NewMemory()
		for step := range 30 {
			for i, s := range selections {
				tr := Tree{Dir: w.dir, Exclude: s.exclude}
				got, err := m.List(t.Context(), &Hasher{Index: index}, tr, s.sel)
				want, wantErr := (&Hasher{}).List(t.Context(), tr, s.sel)
				if (err == nil) != (wantErr == nil) {
					t.Fatalf("seed %d, step %d, selection %d: error %v, want %v", seed, step, i, err, wantErr)
				}
				// The stamp leaves out the times of directories, which change with what is
				// left out of the selection, too, and of that nobody is told.
				if err == nil && want.State != got.State {
					t.Fatalf("seed %d, step %d, selection %d after changes of\n%s\n(-want +got):\n%s", seed, step, i, strings.Join(w.told, "\n"),
						cmp.Diff(want, got, cmp.AllowUnexported(File{})))
				}
			}
			w.told = nil
			for range w.rng.IntN(6) {
				w.change()
			}
			m.Dirty(w.told)
			if w.rng.IntN(10) == 0 {
				m.Forget()
			}
			if w.rng.IntN(10) == 0 {
				m.Sweep()
			}
		}
	}
}

// TestMemoryLooksAtLittle makes sure that a change has nothing looked at but what is
// near it: a file that changed without a word is seen when it is named.
func TestMemoryLooksAtLittle(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/one", "a/two", "b/one", "b/two"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, h := NewMemory(), &Hasher{}
	list := func() *Listing {
		t.Helper()
		l, err := m.List(t.Context(), h, Tree{Dir: dir}, Selection{Path: "/"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := list()
	for _, name := range []string{"a/one", "b/one"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("new"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if list() != first {
		t.Error("what nobody has changed is another listing")
	}
	digests := func(l *Listing) map[string][32]byte {
		out := make(map[string][32]byte)
		for _, f := range l.Matches[0].Files {
			if f.Mode.IsRegular() {
				out[f.Name] = f.Digest
			}
		}
		return out
	}
	was := digests(first)
	m.Dirty([]string{filepath.Join(dir, "a/one")})
	now := digests(list())
	if now["a/one"] == was["a/one"] {
		t.Error("a/one was told to have changed, and was not looked at")
	}
	if now["b/one"] != was["b/one"] {
		t.Error("b/one was looked at, though nobody has told that it changed")
	}
	m.Forget()
	if l := digests(list()); l["b/one"] == was["b/one"] {
		t.Error("b/one was not looked at after all was forgotten")
	}
	if d := digests(first); d["a/one"] != was["a/one"] {
		t.Error("a listing was written to")
	}
}

func TestCopied(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	write := func(path, text string) *os.File {
		t.Helper()
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return f
	}
	later := func() time.Time { return time.Now().Add(time.Hour) } // nothing is too young
	for _, tt := range []struct {
		name         string
		now          func() time.Time
		copy, change string
		want         bool
	}{
		{"as it was", later, "1", "", true},
		{"another text", later, "2", "2", false},
		{"changed after it was copied", later, "1", "2", true},
		{"young, as it was", time.Now, "1", "", true},
		{"young, another text", time.Now, "2", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(name, "1")
			index, err := OpenIndex(filepath.Join(t.TempDir(), "index"), tt.now)
			if err != nil {
				t.Fatal(err)
			}
			l, err := (&Hasher{Index: index}).List(t.Context(), Tree{Dir: dir}, Selection{Path: "/f"})
			if err != nil {
				t.Fatal(err)
			}
			if tt.change != "" {
				write(name, tt.change)
			}
			m := &l.Matches[0]
			got, err := m.Files[0].Copied(m, write(filepath.Join(t.TempDir(), "copy"), tt.copy))
			if err != nil || got != tt.want {
				t.Errorf("%v, %v, want %v", got, err, tt.want)
			}
		})
	}
}
