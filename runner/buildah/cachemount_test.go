//go:build linux

package buildah

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// TestEmptyCache empties a cache that nobody uses.
func TestEmptyCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	e := &Engine{proc: &process{dir: "/own"}}
	emptyCache := func(dir string) error { return e.emptyCache(t.Context(), dir) }
	if err := emptyCache(dir); err != nil {
		t.Errorf("one that is not there: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("it was made")
	}
	file := filepath.Join(dir, cacheDataName, "file")
	if err := os.MkdirAll(file, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockCache(dir, pb.CacheSharingOpt_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if err := emptyCache(dir); err != nil {
		t.Errorf("one in use: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("it was emptied in use")
	}
	unlock()
	if err := emptyCache(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("it is not empty")
	}
}

// TestLockCacheUnseen takes a cache for itself while somebody looks whether it is in use.
func TestLockCacheUnseen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	looking, err := lockFile(filepath.Dir(dir), unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	took := make(chan error)
	go func() {
		unlock, err := lockCacheUnseen(dir, pb.CacheSharingOpt_PRIVATE)
		if err == nil {
			defer unlock()
		}
		took <- err
	}()
	select {
	case err := <-took:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	lock.Close()
	looking.Close()
	if err := <-took; err != nil {
		t.Error(err)
	}
}

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
	for selector, want := range map[string]string{
		"/sel": "sel", "in": "sel", "/absolute": "sel", "file": "file", "../../sel": "sel", "out": "", "up": "", "in/nope": "",
	} {
		fd, isDir, err := openStill(cache, selector)
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
		fd, _, err := openStill(cache, "sel")
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
