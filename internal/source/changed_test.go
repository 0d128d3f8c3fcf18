package source

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestChanged(t *testing.T) {
	dir := t.TempDir()
	index := filepath.Join(t.TempDir(), "index")
	later := func() time.Time { return time.Now().Add(time.Hour) } // nothing is too young
	file := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	changed := func(since time.Time) []string {
		t.Helper()
		x, err := OpenIndex(index, later)
		if err != nil {
			t.Fatal(err)
		}
		h := &Hasher{Index: x}
		for range 2 {
			if _, err := h.Hash(t.Context(), Tree{Dir: dir}, Selection{Path: "/"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := x.Save(); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range h.Changed(since) {
			names = append(names, filepath.Base(f))
		}
		return names
	}
	check := func(what string, got, want []string) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	file("a", "1")
	file("b", "1")
	check("never read before", changed(time.Time{}), []string{"a", "b"})
	check("nothing", changed(time.Time{}), nil)
	file("a", "2")
	file("c", "1")
	check("changed and new", changed(time.Time{}), []string{"a", "c"})
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "b"), past, past); err != nil {
		t.Fatal(err)
	}
	check("touched only", changed(time.Time{}), nil)
	file("a", "3")
	check("changed before", changed(time.Now().Add(time.Hour)), nil)
}
