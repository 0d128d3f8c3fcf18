package watch

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLinks(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		outside := t.TempDir()
		s := watching(t, opt, func(set *Set) {
			dir := set.Top
			for name, target := range map[string]string{"link": "src", "conf-link": "chain", "chain": "conf", "out": outside} {
				if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			set.Files = []string{filepath.Join(dir, "conf-link")}
			set.Trees = append(set.Trees,
				Tree{Root: filepath.Join(dir, "link"), Filter: lexical{}}, Tree{Root: filepath.Join(dir, "out"), Filter: lexical{}})
		})
		// One file that is reached by two names changes under both.
		s.write("src/a/b/file", "22")
		s.collect("src/a/b/file", "link/a/b/file")
		s.write("conf", "22")
		s.collect("conf-link")
		if err := os.WriteFile(filepath.Join(outside, "file"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		s.collect("out/file")
		// A link that leads elsewhere.
		s.write("other/file", "1")
		s.remove("link")
		s.check(os.Symlink("other", s.path("link")))
		s.collect("link")
		s.settled()
		s.write("other/file", "22")
		s.collect("link/file")
		s.write("conf2", "1")
		s.remove("chain")
		s.check(os.Symlink("conf2", s.path("chain")))
		s.collect("conf-link")
		s.settled()
		s.write("conf2", "22")
		s.collect("conf-link")
	})
}

// The directory that all is in is renamed, and another one takes its place.
func TestProjectReplaced(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		parent := t.TempDir()
		s := &scene{T: t, dir: filepath.Join(parent, "project"), w: New(opt)}
		t.Cleanup(s.w.Close)
		s.write("sub/src/file", "1")
		if _, err := s.w.Set(Set{Top: s.dir, Files: []string{s.path(marker)}, Trees: []Tree{{Root: s.path("sub/src"), Filter: lexical{}}}}); err != nil {
			t.Fatal(err)
		}
		s.check(os.Rename(s.dir, s.dir+".old"))
		s.write("sub/src/file", "22")
		s.collect("sub/src")
		s.settled()
		s.write("sub/src/file", "333")
		s.collect("sub/src/file")
	})
}

// A directory that holds a link on the way is renamed, and another one takes its place.
func TestLinkReplaced(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		s := watching(t, opt, func(set *Set) {
			dir := set.Top
			for path, target := range map[string]string{"x/y/conf": "../../conf", "x/y/tree": "../../src", "other/y/conf": "../../conf2", "other/y/tree": "../../src2"} {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(target, filepath.Join(dir, path)); err != nil {
					t.Fatal(err)
				}
			}
			set.Files = []string{filepath.Join(dir, "x/y/conf")}
			set.Trees = []Tree{{Root: filepath.Join(dir, "x/y/tree"), Filter: lexical{}}}
		})
		s.write("conf2", "1")
		s.write("src2/file", "1")
		s.rename("x", "old")
		s.rename("other", "x")
		s.collect("x/y/conf", "x/y/tree")
		s.settled()
		s.write("conf2", "22")
		s.collect("x/y/conf")
		s.write("src2/file", "22")
		s.collect("x/y/tree/file")
	})
}

// The user works in a directory that a link leads to: what is in it may be replaced all
// the same.
func TestTopIsLink(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		s := watching(t, opt, func(set *Set) {
			dir := set.Top
			if err := os.Symlink(dir, dir+".link"); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(dir, "p/q/r"), 0o755); err != nil {
				t.Fatal(err)
			}
			set.Top = dir + ".link"
			set.Files = []string{filepath.Join(dir, "p/q/r/conf")}
			set.Trees = nil
		})
		s.rename("p", "old")
		s.write("p/q/r/conf", "1")
		s.collect("p/q/r/conf")
		s.settled()
		s.write("p/q/r/conf", "22")
		s.collect("p/q/r/conf")
	})
}

// The directory that all is in is removed while somebody works in it, as the user's
// shell does, and another one takes its place. As long as it is in use the system does
// not say of the directory itself that it is gone: only the one above it knows.
func TestProjectRemovedInUse(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		s := &scene{T: t, dir: filepath.Join(t.TempDir(), "project"), w: New(opt)}
		t.Cleanup(s.w.Close)
		s.write("conf", "1")
		used, err := os.Open(s.dir)
		s.check(err)
		t.Cleanup(func() { s.check(used.Close()) })
		if _, err := s.w.Set(Set{Top: s.dir, Files: []string{s.path("conf")}, Trees: []Tree{{Root: s.dir, Filter: lexical{}}}}); err != nil {
			t.Fatal(err)
		}
		s.check(os.RemoveAll(s.dir))
		s.collect("conf", "")
		s.write("conf", "22")
		s.collect("conf", "")
		s.settled()
		s.write("conf", "333")
		s.collect("conf")
	})
}
