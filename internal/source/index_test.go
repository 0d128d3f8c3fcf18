package source

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

func TestIndex(t *testing.T) {
	dir := files(t, "a", "b")
	file := filepath.Join(t.TempDir(), "index")
	later := func() time.Time { return time.Now().Add(time.Second) }
	hash := func(x *FileIndex) {
		t.Helper()
		h := Hasher{Index: x}
		if _, err := h.Hash(t.Context(), Tree{Dir: dir}, Selection{Path: "/"}); err != nil {
			t.Fatal(err)
		}
	}
	known := func(x *FileIndex, name string) bool {
		t.Helper()
		p := filepath.Join(dir, name)
		f, err := statFile(p)
		if err != nil {
			t.Fatal(err)
		}
		x.dir(dir).fill(name, &f)
		return f.known
	}

	young, err := OpenIndex(file, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	hash(young)
	if known(young, "a") {
		t.Error("a file that was written just now is trusted")
	}

	x, err := OpenIndex(file, later)
	if err != nil {
		t.Fatal(err)
	}
	hash(x)
	if err := x.Save(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenIndex(file, later)
	if err != nil {
		t.Fatal(err)
	}
	if !known(again, "a") || !known(again, "b") {
		t.Error("what was saved is not there")
	}

	// The same size and the same time of modification, yet not the same file.
	info, err := os.Lstat(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("A"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "a"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if known(again, "a") {
		t.Error("a changed file passes for the old one")
	}

	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), raw...)
	flipped[len(flipped)/2] ^= 1
	for _, damage := range [][]byte{raw[:len(raw)/2], append([]byte("x"), raw...), {}, flipped} {
		if err := os.WriteFile(file, damage, 0o600); err != nil {
			t.Fatal(err)
		}
		x, err := OpenIndex(file, later)
		if err == nil || len(x.dirs) != 0 {
			t.Errorf("%d damaged bytes: %d directories, error %v", len(damage), len(x.dirs), err)
		}
	}
}

// Records that nobody asks for stay for as long as there is such a file.
// TestYoung tells files that may change without looking different from others.
func TestYoung(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		mtime, ctime time.Duration // before at
		want         bool
	}{
		{time.Hour, 100*time.Millisecond + 1, false},
		{time.Hour, 10*time.Millisecond + 1, true},
		{time.Hour, time.Second, true},      // times may be whole seconds here
		{time.Hour + 1, time.Second, false}, // they are not
		{time.Hour, 3 * time.Second, false},
		{-time.Hour, 3 * time.Second, true}, // of the future
	} {
		x := &FileIndex{now: func() time.Time { return at }}
		f := &File{ID: identity{Mtime: at.Add(-c.mtime).UnixNano(), Ctime: at.Add(-c.ctime).UnixNano()}}
		if got := x.young(f); got != c.want {
			t.Errorf("changed %v and %v ago: young %t", c.mtime, c.ctime, got)
		}
	}
}

func TestIndexForgets(t *testing.T) {
	dir := files(t, "a", "b", "c")
	file := filepath.Join(t.TempDir(), "index")
	later := func() time.Time { return time.Now().Add(time.Second) }
	hashed := func(exclude ...string) []string {
		t.Helper()
		x, err := OpenIndex(file, later)
		if err != nil {
			t.Fatal(err)
		}
		h := Hasher{Index: x}
		if _, err := h.Hash(t.Context(), Tree{Dir: dir, Exclude: exclude}, Selection{Path: "/"}); err != nil {
			t.Fatal(err)
		}
		if err := x.Save(); err != nil {
			t.Fatal(err)
		}
		d := x.dir(dir)
		d.open()
		var names []string
		for _, r := range d.recs {
			names = append(names, r.name)
		}
		return names
	}
	change := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name+"2"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		do      func()
		exclude string
		want    string
	}{
		{func() {}, "", "abc"},
		{func() { change("a") }, "b", "abc"},
		{func() { change("a") }, "", "abc"},
		{func() { remove("c"); change("a") }, "", "ab"},
		{func() { remove("b"); change("a") }, "b", "a"},
	} {
		step.do()
		if got := strings.Join(hashed(step.exclude), ""); got != step.want {
			t.Errorf("the index has %s, want %s", got, step.want)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(indexMagic))
	x := &FileIndex{dirs: map[string]*indexDir{"p": {fresh: map[string]record{"f": {name: "f"}}}}}
	var whole bytes.Buffer
	if err := x.encode(&whole); err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		x := &FileIndex{dirs: map[string]*indexDir{}}
		_ = x.decode(string(raw)) // must neither panic nor take memory that the input does not pay for
		records := 0
		for _, d := range x.dirs {
			d.open()
			records += cap(d.recs)
		}
		if len(x.dirs)+records > len(raw) {
			t.Errorf("%d directories and %d records of %d bytes", len(x.dirs), records, len(raw))
		}
	})
}

// TestIndexSavedWhileUsed saves an index that others ask, as a build that is watched
// does while it is found out whether a change makes a difference to it.
func TestIndexSavedWhileUsed(t *testing.T) {
	dir := files(t, "a", "b", "sub/c")
	file := filepath.Join(t.TempDir(), "index")
	later := func() time.Time { return time.Now().Add(time.Second) }
	first, err := OpenIndex(file, later)
	if err != nil {
		t.Fatal(err)
	}
	hash := func(x *FileIndex) error {
		_, err := (&Hasher{Index: x}).Hash(t.Context(), Tree{Dir: dir}, Selection{Path: "/"})
		return err
	}
	if err := errors.Join(hash(first), first.Save()); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		x, err := OpenIndex(file, later)
		if err != nil {
			t.Fatal(err)
		}
		x.changed = true
		var g errgroup.Group
		g.Go(func() error { return hash(x) })
		g.Go(x.Save)
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}
