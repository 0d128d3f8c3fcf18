//go:build linux

package buildah

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.podman.io/storage"
	"go.podman.io/storage/pkg/unshare"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/sealed"
	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// TestVolatile looks from inside of a RUN whether its root is one that nobody waits
// for.
func TestVolatile(t *testing.T) {
	e := open(t, Options{})
	_, out := do(t, e, execOp(nil, "/bin/grep", " / overlay ", "/proc/mounts"), runner.Input{Snapshot: tinyRoot(t, e)})
	if _, options, _ := strings.Cut(out, "/work,"); !strings.Contains(options, "volatile") { // newer kernels write fsync=volatile
		t.Errorf("the root is mounted as %s", out)
	}
}

// TestLostPower leaves layers as a machine that went down has: noted, and not synced.
// They go with what lies on them, and what was synced stays.
func TestLostPower(t *testing.T) {
	dir := t.TempDir()
	opt := Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay"}
	start := func() *Engine {
		t.Helper()
		e, err := Open(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unmountBelow(dir) })
		// Whatever else writes to this file system would have it synced early.
		e.durable.mu.Lock()
		e.durable.busy = true
		e.durable.mu.Unlock()
		return e
	}
	run := func(e *Engine, s runner.Snapshot, file string) runner.Snapshot {
		t.Helper()
		s, _ = do(t, e, execOp(nil, "/bin/touch", file), runner.Input{Snapshot: s})
		return s
	}
	commit := func(e *Engine, layers ...runner.Snapshot) *runner.Image {
		t.Helper()
		img, err := e.Commit(t.Context(), runner.ImageSpec{Config: []byte(`{"architecture":"amd64","os":"linux"}`), Format: planner.FormatOCI, Layers: layers})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	e := start()
	done, err := e.Use(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	below, _ := do(t, e, copyOp("/busybox", "/bin/busybox"), runner.Input{Local: busybox(t)})
	base, _ := do(t, e, execOp(nil, "/bin/busybox", "--install", "-s", "/bin"), runner.Input{Snapshot: below})
	commit(e, below, base)
	notes := func(e *Engine) []os.DirEntry {
		t.Helper()
		entries, err := os.ReadDir(e.durable.dir)
		if err != nil {
			t.Fatal(err)
		}
		return entries
	}
	if n := notes(e); len(n) > 0 {
		t.Fatalf("an image was recorded with %d of its layers not synced", len(n))
	}
	first := run(e, base, "/a")
	second := run(e, first, "/b")
	kept := run(e, base, "/c")
	half, err := e.newLayer(second) // which a step is at work in
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(filepath.Dir(e.durable.dir), "another-boot")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if n := len(notes(e)); n != 4 {
		t.Fatalf("%d layers are noted of 4 that are not synced", n)
	}
	if _, err = os.Stat(filepath.Join(e.durable.dir, half.id)); err == nil {
		err = os.WriteFile(filepath.Join(other, half.id), nil, 0o600)
	}
	if err = errors.Join(err, e.unmount(half.id)); err != nil { // as a loss of power does, and what a process has going is forgotten
		t.Fatal(err)
	}
	e.proc.end(half.id)
	for _, s := range []runner.Snapshot{first, second, base} { // the last one would have been synced before anything was done on it
		if err := os.WriteFile(filepath.Join(other, string(s)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	done()
	if n := len(notes(e)); n > 0 {
		t.Errorf("%d layers are not synced at the end of a build", n)
	}
	temporary := filepath.Join(e.StateDir(), "cache", "00", sealed.TempPrefix+"1")
	err = errors.Join(os.MkdirAll(filepath.Dir(temporary), 0o700), os.WriteFile(temporary, nil, 0o600))
	if err := errors.Join(err, e.Close(), os.RemoveAll(opt.RunRoot)); err != nil { // which is in memory
		t.Fatal(err)
	}

	e = start()
	if _, err := os.Stat(temporary); err == nil {
		t.Error("a file that was being written is still there")
	}
	for s, want := range map[runner.Snapshot]bool{below: true, base: true, first: false, second: false, runner.Snapshot(half.id): false, kept: true} {
		if got := e.Has(t.Context(), s); got != want {
			t.Errorf("layer %s is there: %v, want %v", s, got, want)
		}
	}
	if _, err := os.Stat(other); err == nil {
		t.Error("the notes of the other boot are still there")
	}
	commit(e, below, base, run(e, base, "/a"))
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// TestDiskFails writes to a disk that promises more than it has, as thin volumes do. A
// sync that fails is remembered: an image that is made later says so, too, and the
// layers go at the next start.
func TestDiskFails(t *testing.T) {
	if unshare.IsRootless() {
		t.Skip("only root can mount a file system")
	}
	dir := t.TempDir()
	back, disk := filepath.Join(dir, "back"), filepath.Join(dir, "disk")
	image, filler := filepath.Join(back, "image"), filepath.Join(back, "filler")
	if err := errors.Join(os.Mkdir(back, 0o700), os.Mkdir(disk, 0o755), unix.Mount("tmpfs", back, "tmpfs", 0, "size=80m")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(back, unix.MNT_DETACH) })
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 300<<20)); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{
		"mkfs.ext4 -q -F -m 0 -O ^has_journal -E nodiscard,lazy_itable_init=0 " + image,
		"mount -o loop " + image + " " + disk,
	} {
		args := strings.Fields(command)
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("there is no such disk here: %s: %v\n%s", command, err, out)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	opt := Options{Root: filepath.Join(disk, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay"}
	e, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountBelow(dir) })
	base := tinyRoot(t, e)
	if err := e.durable.sync(); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(back, &st); err != nil {
		t.Fatal(err)
	}
	full, err := os.Create(filler)
	if err == nil {
		err = errors.Join(unix.Fallocate(int(full.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-4<<20), full.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	big, _ := do(t, e, execOp(nil, "/bin/dd", "if=/dev/urandom", "of=/big", "bs=1M", "count=24"), runner.Input{Snapshot: base})
	if err := e.durable.sync(); err == nil {
		t.Error("what cannot be written is not noticed")
	}
	_, err = e.Commit(t.Context(), runner.ImageSpec{
		Config: []byte(`{"architecture":"amd64","os":"linux"}`), Format: planner.FormatOCI, Layers: []runner.Snapshot{base, big},
	})
	if err == nil || !strings.Contains(err.Error(), disk) {
		t.Errorf("an image of what could not be written: %v", err)
	}
	if err := errors.Join(os.Remove(filler), e.Close()); err != nil {
		t.Fatal(err)
	}
	if e, err = Open(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	if e.Has(t.Context(), big) || !e.Has(t.Context(), base) {
		t.Errorf("of the layers that were and were not written there are %v, %v", e.Has(t.Context(), base), e.Has(t.Context(), big))
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// syncingStore has another sync come while an image's layer is put in its place.
type syncingStore struct {
	storage.Store
	sync func() error
}

// ApplyStagedLayer is for storage.Store.
func (s syncingStore) ApplyStagedLayer(args storage.ApplyStagedLayerOptions) (*storage.Layer, error) {
	if err := s.sync(); err != nil {
		return nil, err
	}
	return s.Store.ApplyStagedLayer(args)
}

// TestOddNotes starts where something else has the names of directories of notes.
func TestOddNotes(t *testing.T) {
	dir := t.TempDir()
	opt := Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay"}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	notes := filepath.Join(opt.Root, stateName, unsyncedName)
	for _, odd := range []string{notes, filepath.Join(notes, boot), filepath.Join(notes, "another-boot")} {
		if err := errors.Join(os.RemoveAll(notes), os.MkdirAll(filepath.Dir(odd), 0o700), unix.Mkfifo(odd, 0o600)); err != nil {
			t.Fatal(err)
		}
		e, err := Open(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		l, err := e.newLayer("")
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.freeze()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(e.durable.sync(), e.Discard(t.Context(), s), e.Close()); err != nil {
			t.Errorf("%s: %v", odd, err)
		}
	}
	unmountBelow(dir)
}

// TestSyncWhilePlaced syncs in the middle of making an image's layer, as an image that is
// made at the same time does. The layer is to be synced again after it.
func TestSyncWhilePlaced(t *testing.T) {
	dir := t.TempDir()
	e, err := Open(t.Context(), Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountBelow(dir) })
	e.durable.mu.Lock()
	e.durable.busy = true // no other sync
	e.durable.mu.Unlock()
	s, _ := do(t, e, copyOp("/busybox", "/bin/busybox"), runner.Input{Local: busybox(t)})
	if !e.canStage("", s) {
		t.Skip("layers cannot be linked here")
	}
	synced := false
	e.store = syncingStore{e.store, func() error { synced = true; return e.durable.sync() }}
	layer, err := e.adopt(t.Context(), "", "", s, nil)
	if err != nil || !synced {
		t.Fatalf("synced: %v, %v", synced, err)
	}
	if _, err := os.Stat(filepath.Join(e.durable.dir, layer.ID)); err != nil {
		t.Errorf("the layer counts as synced: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
