package watch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// backends are the ways to be told of changes. All of them pass the same tests.
func backends(t *testing.T, test func(t *testing.T, opt Options)) {
	t.Helper()
	for name, opt := range map[string]Options{
		"notify": {Quiet: 30 * time.Millisecond},
		"poll":   {Quiet: 30 * time.Millisecond, Poll: 10 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, opt)
		})
	}
}

// lexical is a filter by the names in a path below the root.
type lexical struct{}

func (f lexical) Descend(dir string) bool { return !slices.Contains(strings.Split(dir, "/"), "skip") }

func (f lexical) Match(path string) bool {
	return f.Descend(path) && !strings.HasSuffix(path, ".log")
}

// scene is a directory that is watched.
type scene struct {
	*testing.T
	dir string
	w   *Watcher
	// told is what was collected before. A file is emptied, then written: on a busy
	// machine the quiet period may end in between, and the rest is told later.
	told  []string
	marks int
}

// marker is the file that [scene.settled] replaces.
const marker = "marker"

// watching watches the tree "src" and the file "conf" of a new directory.
func watching(t *testing.T, opt Options, change ...func(*Set)) *scene {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{T: t, dir: dir}
	s.write("src/a/b/file", "1")
	s.write("src/skip/file", "1")
	s.write("conf", "1")
	s.w = New(opt)
	t.Cleanup(s.w.Close)
	set := Set{Top: dir, Files: []string{s.path("conf")}, Trees: []Tree{{Root: s.path("src"), Filter: lexical{}}}}
	for _, fn := range change {
		fn(&set)
	}
	set.Files = append(set.Files, s.path(marker))
	if _, err := s.w.Set(set); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *scene) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

func (s *scene) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *scene) write(name, text string) {
	s.Helper()
	s.check(os.MkdirAll(filepath.Dir(s.path(name)), 0o755))
	s.check(os.WriteFile(s.path(name), []byte(text), 0o644))
}

func (s *scene) rename(from, to string) {
	s.Helper()
	s.check(os.Rename(s.path(from), s.path(to)))
}

func (s *scene) remove(name string) { s.Helper(); s.check(os.RemoveAll(s.path(name))) }

// collect gathers batches until one says something about each path, and nothing
// else has been said by then but what lies below one of them, or was collected
// before.
func (s *scene) collect(want ...string) Batch {
	s.Helper()
	var all Batch
	timeout := time.After(time.Minute)
	for {
		missing := slices.DeleteFunc(slices.Clone(want), func(p string) bool { return slices.Contains(all.Paths, s.path(p)) })
		if len(missing) == 0 && len(all.Paths) > 0 {
			break
		}
		select {
		case b := <-s.w.Batches():
			all.Merge(b)
		case <-timeout:
			s.Fatalf("never told of %q, only of %q", missing, s.names(all.Paths))
		}
	}
	s.told = append(s.told, want...)
	for _, p := range all.Paths {
		if p != s.path(marker) && !slices.ContainsFunc(s.told, func(w string) bool { return within(p, s.path(w)) }) {
			s.Errorf("told of %q, want %q", s.names(all.Paths), want)
			break
		}
	}
	return all
}

func (s *scene) names(paths []string) []string {
	var out []string
	for _, p := range paths {
		out = append(out, strings.TrimPrefix(p, s.dir+"/"))
	}
	return out
}

// settled waits until all that was done has been told, however slow the machine is: a
// file that is watched is replaced, and what was done before is told before it or with
// it. Polling sees a change at the next look, and what follows from it at the one after.
func (s *scene) settled() {
	s.Helper()
	for range 4 {
		s.marks++
		s.write("marker.tmp", strings.Repeat("x", s.marks))
		s.rename("marker.tmp", marker)
		for timeout := time.After(time.Minute); ; {
			var b Batch
			select {
			case b = <-s.w.Batches():
			case <-timeout:
				s.Fatal("never told of the marker")
			}
			if slices.Contains(b.Paths, s.path(marker)) {
				break
			}
		}
	}
	s.told = nil
}

func TestChanges(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(s *scene)
		want []string
	}{
		{"write", func(s *scene) { s.write("src/a/b/file", "22") }, []string{"src/a/b/file"}},
		{"file", func(s *scene) { s.write("conf", "22") }, []string{"conf"}},
		{"create", func(s *scene) { s.write("src/new", "1") }, []string{"src/new"}},
		{"remove", func(s *scene) { s.remove("src/a/b/file") }, []string{"src/a/b/file"}},
		{"mode", func(s *scene) { s.check(os.Chmod(s.path("src/a/b/file"), 0o755)) }, []string{"src/a/b/file"}},
		{"mode of the root", func(s *scene) { s.check(os.Chmod(s.path("src"), 0o700)) }, []string{"src"}},
		{"save by rename", func(s *scene) { s.write("conf.tmp", "22"); s.rename("conf.tmp", "conf") }, []string{"conf"}},
		{"save by delete and create", func(s *scene) { s.remove("src/a/b/file"); s.write("src/a/b/file", "22") }, []string{"src/a/b/file"}},
		{"save by backup", func(s *scene) { s.rename("conf", "conf~"); s.write("conf", "22") }, []string{"conf"}},
		{"remove the file", func(s *scene) { s.remove("conf") }, []string{"conf"}},
		{"deep directory", func(s *scene) { s.write("src/x/y/z/file", "1") }, []string{"src/x", "src/x/y/z/file"}},
		{"symlink", func(s *scene) { s.check(os.Symlink("nowhere", s.path("src/link"))) }, []string{"src/link"}},
		{"remove a tree", func(s *scene) { s.remove("src/a") }, []string{"src/a"}},
		{"rename a tree", func(s *scene) { s.rename("src/a", "src/c") }, []string{"src/a", "src/c", "src/c/b/file"}},
		{"move a tree out", func(s *scene) { s.rename("src/a", "elsewhere") }, []string{"src/a"}},
		{"move a tree in", func(s *scene) { s.write("other/d/file", "1"); s.rename("other", "src/other") }, []string{"src/other", "src/other/d/file"}},
		{"the root goes", func(s *scene) { s.remove("src") }, []string{"src"}},
		{"a directory becomes a file", func(s *scene) { s.remove("src/a"); s.write("src/a", "1") }, []string{"src/a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backends(t, func(t *testing.T, opt Options) {
				s := watching(t, opt)
				tt.do(s)
				s.collect(tt.want...)
			})
		})
	}
}

// What comes after a change of directories is told, too.
func TestAfterwards(t *testing.T) {
	for _, tt := range []struct {
		name  string
		do    func(s *scene)
		write string
	}{
		{"new directory", func(s *scene) { s.write("src/x/y/file", "1") }, "src/x/y/file"},
		{"renamed tree", func(s *scene) { s.rename("src/a", "src/c") }, "src/c/b/file"},
		{"renamed there and back", func(s *scene) { s.rename("src/a", "src/c"); s.rename("src/c", "src/a") }, "src/a/b/file"},
		{"swapped trees", func(s *scene) {
			s.write("src/d/b/file", "1")
			s.rename("src/a", "src/t")
			s.rename("src/d", "src/a")
			s.rename("src/t", "src/d")
		}, "src/d/b/file"},
		{"new root", func(s *scene) { s.remove("src"); s.write("src/a/b/file", "1") }, "src/a/b/file"},
		{"renamed root and a new one", func(s *scene) { s.rename("src", "old"); s.write("src/a/b/file", "1") }, "src/a/b/file"},
		{"root that comes back", func(s *scene) { s.rename("src", "old"); s.rename("old", "src") }, "src/a/b/file"},
		{"recreated directory", func(s *scene) { s.remove("src/a"); s.write("src/a/b/file", "1") }, "src/a/b/file"},
		{"recreated file", func(s *scene) { s.remove("conf"); s.write("conf", "1") }, "conf"},
		{"file as link", func(s *scene) {
			s.write("real/conf", "1")
			s.remove("conf")
			s.check(os.Symlink("real/conf", s.path("conf")))
		}, "real/conf"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backends(t, func(t *testing.T, opt Options) {
				s := watching(t, opt)
				tt.do(s)
				s.settled()
				s.write(tt.write, "longer than before")
				want := tt.write
				if tt.name == "file as link" {
					want = "conf"
				}
				s.collect(want)
			})
		})
	}
}

func TestNotTold(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		s := watching(t, opt)
		s.write("unrelated", "1")
		s.write("src/skip/file", "22")
		s.write("src/x.log", "1")
		s.write("src/skip/deep/er/file", "1")
		s.remove("src/skip")
		s.write("src/last", "1") // comes after all of them
		s.collect("src/last")
	})
}

// A tree and a file that are not there yet, several directories deep.
func TestMissing(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		s := watching(t, opt, func(set *Set) {
			dir := set.Top
			set.Files = []string{filepath.Join(dir, "p/q/conf")}
			set.Trees = []Tree{{Root: filepath.Join(dir, "r/s/t"), Filter: lexical{}}}
		})
		s.write("p/q/conf", "1")
		s.collect("p/q/conf")
		s.settled()
		s.write("p/q/conf", "22")
		s.collect("p/q/conf")
		s.write("r/s/t/u/file", "1")
		s.collect("r/s/t")
		s.settled()
		s.write("r/s/t/u/file", "22")
		s.collect("r/s/t/u/file")
	})
}

func TestBurst(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		s := watching(t, opt)
		const n = 10_000
		var want []string
		for i := range n {
			name := fmt.Sprintf("src/d%d/f%d", i%100, i)
			s.write(name, "1")
			want = append(want, name)
		}
		for i := range 100 {
			want = append(want, fmt.Sprintf("src/d%d", i))
		}
		var all Batch
		for deadline := time.After(time.Minute); ; {
			missing := slices.ContainsFunc(want, func(p string) bool { _, ok := slices.BinarySearch(all.Paths, s.path(p)); return !ok })
			if !missing || all.Rescan {
				return
			}
			select {
			case b := <-s.w.Batches():
				all.Merge(b)
			case <-deadline:
				t.Fatalf("%d of %d paths", len(all.Paths), len(want))
			}
		}
	})
}

func TestPassive(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		s := watching(t, opt, func(set *Set) {
			set.Passive = func(p string) bool { return strings.HasSuffix(p, ".swp") }
		})
		s.write("src/.file.swp", "1")
		select {
		case b := <-s.w.Batches():
			t.Errorf("told of %v", b)
		case <-time.After(10 * opt.Quiet):
		}
		s.write("src/file", "1")
		b := s.collect("src/file")
		if !slices.Equal(s.names(b.Passive), []string{"src/.file.swp"}) {
			t.Errorf("passive: %v", b.Passive)
		}
	})
}

// A lock holds back what is written under it, and then it is one batch.
func TestLock(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		s := watching(t, opt, func(set *Set) { set.Locks = []string{filepath.Join(set.Top, "index.lock")} })
		s.write("index.lock", "")
		for i := range 5 {
			s.write(fmt.Sprintf("src/f%d", i), "1")
			time.Sleep(3 * opt.Quiet)
			select {
			case b := <-s.w.Batches():
				t.Fatalf("told of %v under the lock", b)
			default:
			}
		}
		s.remove("index.lock")
		b := <-s.w.Batches()
		if len(b.Paths) != 5 {
			t.Errorf("one batch should have all: %v", b.Paths)
		}
	})
}

// Looks that are far apart see what is done in one go as one change.
func TestPollConfirms(t *testing.T) {
	s := watching(t, Options{Quiet: 30 * time.Millisecond, Poll: 300 * time.Millisecond}, func(set *Set) {
		set.Locks = []string{filepath.Join(set.Top, "index.lock")}
	})
	s.write("index.lock", "")
	s.write("src/one", "1")
	time.Sleep(time.Second) // several looks
	s.write("src/two", "1")
	s.remove("index.lock")
	b := <-s.w.Batches()
	if want := []string{"src/one", "src/two"}; !slices.Equal(s.names(b.Paths), want) {
		t.Errorf("told of %q, want %q in one batch", s.names(b.Paths), want)
	}
}

func TestSetAgain(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		s := watching(t, opt)
		s.write("other/deep/file", "1")
		s.settled()
		before, err := s.w.Stats()
		s.check(err)
		set := Set{Top: s.dir, Trees: []Tree{{Root: s.path("other"), Filter: lexical{}}}}
		after, err := s.w.Set(set)
		s.check(err)
		// Of "src", "src/a" and "src/a/b" nothing is left.
		if after.Directories >= before.Directories {
			t.Errorf("%d directories are watched, then %d", before.Directories, after.Directories)
		}
		s.write("src/a/b/file", "22")
		s.write("conf", "22")
		s.write("other/deep/file", "22")
		s.collect("other/deep/file")
	})
}

func TestClose(t *testing.T) {
	backends(t, func(t *testing.T, opt Options) {
		s := watching(t, opt)
		s.write("src/file", "1")
		s.w.Close()
		s.w.Close()
		if _, err := s.w.Set(Set{}); !errors.Is(err, ErrClosed) {
			t.Errorf("Set: %v", err)
		}
	})
}
