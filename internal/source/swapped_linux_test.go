package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSwapped lists a tree in which a directory and a file are swapped for links
// that lead outside, and for pipes. Listing ends, and what is listed has nothing of
// what is outside.
func TestSwapped(t *testing.T) {
	dir, outside, other := files(t, "d/sub/f", "d/file"), files(t, "sub/f", "file"), t.TempDir()
	links := []string{filepath.Join(other, "sub"), filepath.Join(other, "file")}
	for i, name := range []string{"sub", "file"} {
		if err := os.Symlink(filepath.Join(outside, name), links[i]); err != nil {
			t.Fatal(err)
		}
	}
	pipe := filepath.Join(other, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sub/f", "file"} {
		if err := os.WriteFile(filepath.Join(outside, name), []byte("outside"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		swap := func(a, b string) {
			_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
		}
		for ctx.Err() == nil {
			for _, p := range [][2]string{{"d/sub", links[0]}, {"d/file", links[1]}, {"d/sub/f", pipe}, {"d/file", pipe}} {
				swap(filepath.Join(dir, p[0]), p[1])
				time.Sleep(50 * time.Microsecond)
				swap(filepath.Join(dir, p[0]), p[1])
			}
		}
	})
	defer wg.Wait()
	defer stop()
	h := Hasher{}
	foreign := fileDigest(t, filepath.Join(outside, "file"))
	listed := 0
	for i := 0; i < 500 || listed == 0; i++ {
		l, err := h.List(t.Context(), Tree{Dir: dir}, Selection{Path: "/d"})
		if err != nil {
			if !Moved(err) {
				t.Fatal(err)
			}
			continue
		}
		listed++
		for _, f := range l.Matches[0].Files {
			if f.Digest == foreign {
				t.Fatalf("%s is what is outside", f.Name)
			}
		}
	}
	if _, err := h.List(t.Context(), Tree{Dir: dir}, Selection{Path: "/d/none"}); err == nil || Moved(err) {
		t.Errorf("what was never there: %v", err)
	}
	if _, err := (Tree{Dir: outside}).Open("none"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func fileDigest(t *testing.T, name string) [32]byte {
	t.Helper()
	l, err := (&Hasher{}).List(t.Context(), Tree{Dir: filepath.Dir(name)}, Selection{Path: filepath.Base(name)})
	if err != nil {
		t.Fatal(err)
	}
	return l.Matches[0].Files[0].Digest
}
