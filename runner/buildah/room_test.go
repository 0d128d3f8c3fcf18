//go:build linux

package buildah

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

// fewInodes mounts a file system and gives a function that leaves so many inodes of it
// free.
func fewInodes(t *testing.T) (dir string, leave func(n uint64)) {
	t.Helper()
	if unshare.IsRootless() {
		t.Skip("only root can mount a file system")
	}
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m,nr_inodes=1200"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmountBelow(dir)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	filler := filepath.Join(dir, "filler")
	return dir, func(n uint64) {
		t.Helper()
		err := errors.Join(os.RemoveAll(filler), os.Mkdir(filler, 0o700))
		for i := 0; err == nil; i++ {
			var st unix.Statfs_t
			if err = unix.Statfs(dir, &st); err != nil || st.Ffree <= n {
				break
			}
			err = os.WriteFile(filepath.Join(filler, strconv.Itoa(i)), nil, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestFirstOpenOnFullDisk opens a store for the first time where there is no room for
// it. What the driver concludes from that must not outlast it.
func TestFirstOpenOnFullDisk(t *testing.T) {
	dir, leave := fewInodes(t)
	for _, where := range []string{"store", "run"} {
		other := t.TempDir()
		opt := Options{Root: filepath.Join(dir, where, "root"), RunRoot: filepath.Join(other, "run"), Driver: "overlay"}
		if where == "run" {
			opt.Root, opt.RunRoot = filepath.Join(other, "root"), filepath.Join(dir, where, "run")
		}
		for n := uint64(0); n < 60; n += 7 {
			leave(n)
			e, err := Open(t.Context(), opt)
			if err == nil {
				err = errors.Join(errors.New("it was opened"), e.Close())
			}
			var unusable *UnusableError
			if !errors.As(err, &unusable) || !errors.Is(err, unix.ENOSPC) || unusable.Fix == "" {
				t.Errorf("%s, with %d left: %v", where, n, err)
			}
		}
		note := filepath.Join(opt.Root, "overlay", ".has-mount-program")
		if text, err := os.ReadFile(note); err == nil {
			t.Errorf("it is noted in the store whether a program mounts it: %s", text)
		}
		leave(800)
		e, err := Open(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		if e.fuse {
			t.Error("a program mounts the layers from then on")
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		unmountBelow(other)
	}
}

// TestDiscardOnFullDisk removes a layer from a disk that is full to the last inode, and
// none that another lies on, with the reserve and without.
func TestDiscardOnFullDisk(t *testing.T) {
	dir, leave := fewInodes(t)
	opt := Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(t.TempDir(), "run"), Driver: "overlay"}
	e, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	below := tinyRoot(t, e)
	for _, reserve := range []bool{true, false} {
		s, _ := do(t, e, execOp(nil, "/bin/touch", "/a"), runner.Input{Snapshot: below})
		if !reserve {
			e.giveUpReserve()
		}
		leave(0)
		for _, discard := range []runner.Snapshot{below, s} {
			if err := e.Discard(t.Context(), discard); err != nil {
				t.Error(err)
			}
		}
		v, err := e.view(below)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(v.root, "bin", "busybox")); err != nil || e.Has(t.Context(), s) {
			t.Errorf("with the reserve (%v) the layer is there: %v; the one below is not: %v", reserve, e.Has(t.Context(), s), err)
		}
		v.close()
		leave(500)
	}
	e.keepReserve()
	leave(0)
	release, ok, err := e.Exclusive()
	if err != nil || !ok {
		t.Fatalf("a prune is not possible: %v", err)
	}
	release()
	leave(500)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if e, err = Open(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(e.StateDir(), reserveName)); err != nil || len(left) != reserveFiles {
		t.Errorf("of the reserve there are %d files, %v", len(left), err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// TestRunOnFullDisk runs a program where the run directory has no room for all that this
// takes. Some runtimes do not say so when they cannot write down a container's state.
func TestRunOnFullDisk(t *testing.T) {
	dir, leave := fewInodes(t)
	e, err := Open(t.Context(), Options{Root: filepath.Join(t.TempDir(), "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay"})
	if err != nil {
		t.Fatal(err)
	}
	root := tinyRoot(t, e)
	failed := 0
	for n := uint64(0); ; n++ {
		leave(n)
		var out bytes.Buffer
		_, err := e.Do(t.Context(), job(execOp(nil, "/bin/true", strconv.FormatUint(n, 10)), &out, runner.Input{Snapshot: root}))
		if err == nil {
			break
		}
		failed++
		if !isFull(err) && !strings.Contains(out.String(), unix.ENOSPC.Error()) {
			t.Errorf("with %d left: %v\n%s", n, err, out.String())
		}
	}
	if failed < 5 {
		t.Errorf("only %d runs failed", failed)
	}
	leave(800)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
