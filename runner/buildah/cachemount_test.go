//go:build linux

package buildah

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCacheSource opens the source of a cache mount, of which others can make
// whatever they like at any moment: it never lies outside of the cache.
func TestCacheSource(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cache, outside := filepath.Join(top, "cache"), filepath.Join(top, "outside")
	for _, dir := range []string{"cache/sel", "cache/moved", "outside/sel"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(cache, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"in": "sel", "absolute": "/sel", "out": outside, "up": "../outside"} {
		if err := os.Symlink(to, filepath.Join(cache, name)); err != nil {
			t.Fatal(err)
		}
	}
	x := &execJob{}
	for selector, want := range map[string]string{
		"/sel": "sel", "in": "sel", "/absolute": "sel", "file": "file", "../../sel": "sel", "out": "", "up": "", "in/nope": "",
	} {
		fd, isDir, err := x.openStill(cache, selector)
		if (err == nil) != (want != "") {
			t.Errorf("%s: %v", selector, err)
		}
		if err != nil {
			continue
		}
		if at := opened(t, fd); at != filepath.Join(cache, want) || isDir != (want != "file") {
			t.Errorf("%s is %s, a directory: %v", selector, at, isDir)
		}
	}

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // sel is a directory, and a link to elsewhere, in turns
		defer close(stopped)
		for sel, moved, link := filepath.Join(cache, "sel"), filepath.Join(cache, "aside"), filepath.Join(cache, "out"); ; {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Rename(sel, moved)
			_ = os.Rename(link, sel)
			_ = os.Rename(sel, link)
			_ = os.Rename(moved, sel)
		}
	}()
	for range 2000 {
		fd, _, err := x.openStill(cache, "sel")
		if err != nil {
			continue
		}
		if at := opened(t, fd); strings.HasPrefix(at, outside) {
			t.Errorf("opened %s", at)
		}
	}
	close(stop)
	<-stopped
}

// opened says what is open, and closes it.
func opened(t *testing.T, fd int) string {
	t.Helper()
	defer unix.Close(fd)
	at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		t.Fatal(err)
	}
	return at
}
