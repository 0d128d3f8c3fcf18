package torture

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// oddities are what may come to have the name of a file.
var oddities = map[string]func(name string) error{
	"a directory": func(name string) error {
		return os.MkdirAll(filepath.Join(name, "with", "something"), 0o700)
	},
	"a pipe":         func(name string) error { return unix.Mkfifo(name, 0o600) },
	"a link to it":   func(name string) error { return os.Symlink(filepath.Base(name), name) },
	"a link nowhere": func(name string) error { return os.Symlink("/no/such/file", name) },
	"a socket":       func(name string) error { return unix.Mknod(name, unix.S_IFSOCK|0o600, 0) },
	"a huge file": func(name string) error {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			return err
		}
		return os.Truncate(name, 1<<40)
	},
}

// TestOdd has something else where zbuild has its files: nothing waits for it, nothing is
// read without end, images come out right, and the bake after that finds all in order.
func TestOdd(t *testing.T) {
	p := newProject(t, 1, 5)
	s := newPlace(t)
	s.zbuild(p.dir, "bake", "--progress", "plain")
	s.zbuild(p.dir, "cache", "prune") // which leaves a lock
	want := s.fingerprints()
	zbuild := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		out, err := s.tool(ctx, append([]string{"sh", "-c", "cd \"$0\" && ulimit -v 8000000 && exec \"$@\"", p.dir, binary}, args...)...)
		if err != nil {
			t.Fatalf("zbuild %s: %v\n%s", strings.Join(args, " "), err, tail(out))
		}
		return string(out)
	}
	kinds := make([]string, 0, len(oddities))
	for kind := range oddities {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	if !*long {
		kinds = []string{"a directory", "a pipe"} // those that nobody thinks of
	}
	for _, kind := range kinds {
		files := s.stateFiles()
		// What people keep in caches is theirs; the rest is not.
		for _, name := range []string{"lock", "id"} {
			more, err := filepath.Glob(filepath.Join(s.root, "zbuild", "cache-mounts", "*", name))
			must(t, err)
			files = append(files, more...)
		}
		for _, f := range files {
			must(t, os.RemoveAll(f))
			must(t, oddities[kind](f))
		}
		p.base(1 + slices.Index(kinds, kind)%2) // so that the cache mount is used
		zbuild("bake", "--progress", "plain")
		p.base(0)
		zbuild("bake", "--progress", "plain")
		s.same(want)
		s.clean()
		if text := zbuild("bake", "--progress", "plain", "--explain"); strings.Contains(text, "damaged") || !strings.Contains(text, "No step ran.") {
			t.Errorf("%s: the bake after that:\n%s", kind, text)
		}
		zbuild("cache", "du")
		zbuild("cache", "prune")
		if t.Failed() {
			t.Fatalf("with %s", kind)
		}
	}
}

// TestFilesGone removes the files of layers, of which the store goes on to speak, as one
// that was to be reset does (podman system reset) while something in it is mounted. What is
// missing is made again.
func TestFilesGone(t *testing.T) {
	if driver, _ := storeDriver(); driver != "overlay" || *drive == "fuse" {
		t.Skip("where layers lie is known of overlay")
	}
	rnd := random(t)
	p := newProject(t, 1, 5)
	s := newPlace(t)
	s.zbuild(p.dir, "bake", "--progress", "plain")
	want := s.fingerprints()
	for i := range times(2, 50) {
		store := s.open()
		layers, err := store.Layers()
		must(t, err)
		_, err = store.Shutdown(false)
		must(t, err)
		for _, l := range layers {
			if step, _ := l.Flags["zbuild.step"].(bool); rnd.IntN(3) == 0 && (step || i%2 == 1) {
				must(t, os.RemoveAll(filepath.Join(s.root, "overlay", l.ID)))
			}
		}
		p.base(1)
		s.zbuild(p.dir, "bake", "--progress", "plain")
		p.base(0)
		s.zbuild(p.dir, "bake", "--progress", "plain")
		s.same(want)
		s.zbuild(p.dir, "cache", "prune", "--all")
		s.zbuild(p.dir, "bake", "--progress", "plain")
		s.same(want)
		s.leftovers(nil) // images that nobody builds any more stay as they are
		if t.Failed() {
			break
		}
	}
}
