//go:build linux

package buildah

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

// rootMode is the mode of the root directory where nobody has given it another.
const rootMode = 0o755

// stepLayer is a layer that a step is working in: mounted, writable, and deleted
// unless it is frozen.
type stepLayer struct {
	e    *Engine
	id   string
	root string // where it is mounted
	away bool   // it is not mounted just now
	done bool
}

// newID makes a layer ID as containers-storage makes them. Choosing it ourselves
// lets the layer be journalled before it exists.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// newLayer makes and mounts a layer on top of parent.
func (e *Engine) newLayer(parent runner.Snapshot) (*stepLayer, error) {
	return e.newMarkedLayer(parent, nil)
}

// newMarkedLayer is newLayer with more flags.
func (e *Engine) newMarkedLayer(parent runner.Snapshot, marks map[string]any) (*stepLayer, error) {
	l := &stepLayer{e: e, id: newID()}
	if err := e.proc.begin(l.id); err != nil {
		return nil, err
	}
	// The process's own notes are gone after a loss of power. What a layer that was being
	// made lies on could not be deleted then.
	if err := e.durable.note(l.id); err != nil {
		e.proc.end(l.id)
		return nil, err
	}
	opt := &storage.LayerOptions{Flags: map[string]any{stepFlag: true}}
	maps.Copy(opt.Flags, marks)
	if _, err := e.store.CreateLayer(l.id, string(parent), nil, "", true, opt); err != nil {
		l.away = true
		l.drop() // what the store could not undo itself: on a full disk
		return nil, fmt.Errorf("creating a layer: %w", vanished(err))
	}
	root, err := e.mount(l.id)
	if err != nil {
		l.drop()
		return nil, fmt.Errorf("mounting a layer: %w", vanished(err))
	}
	l.root = root
	// With BuildKit the root has this mode in every step. containers-storage takes over
	// that of the layer below, which in a pulled one is 0555, whatever the layer says.
	if err := os.Chmod(root, rootMode); err != nil {
		l.drop()
		return nil, err
	}
	return l, nil
}

// mount has the driver mount a layer that nobody else knows of. The store would
// write its list of mounts and sync it, there and back, which is of no use to
// anybody: the journal says what is to be undone after a crash.
func (e *Engine) mount(id string) (string, error) {
	driver, err := e.store.GraphDriver()
	if err != nil {
		return "", err
	}
	e.mounting.Lock()
	defer e.mounting.Unlock()
	return driver.Get(id, graphdriver.MountOpts{Volatile: e.volatile})
}

// unmount undoes mount. It is no error if nothing is mounted.
func (e *Engine) unmount(id string) error {
	driver, err := e.store.GraphDriver()
	if err != nil {
		return err
	}
	if err := driver.Put(id); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// aside unmounts the layer to do something to its own directory. It stays unmounted.
func (l *stepLayer) aside(do func() error) error {
	if err := l.e.unmount(l.id); err != nil {
		return fmt.Errorf("unmounting a layer: %w", err)
	}
	l.away = true
	return do()
}

// back mounts a layer that is not mounted.
func (l *stepLayer) back() error {
	if !l.away {
		return nil
	}
	root, err := l.e.mount(l.id)
	if err != nil {
		return fmt.Errorf("mounting a layer: %w", vanished(err))
	}
	l.root, l.away = root, false
	return nil
}

// freeze unmounts the layer and gives its snapshot. From here on nothing writes
// to it.
func (l *stepLayer) freeze() (runner.Snapshot, error) {
	if !l.away {
		if err := l.e.unmount(l.id); err != nil {
			return "", fmt.Errorf("unmounting a layer: %w", err)
		}
	}
	if err := l.e.finished(l.id); err != nil {
		return "", err
	}
	l.done = true
	return runner.Snapshot(l.id), nil
}

// freezeAfter does something to the layer's own directory before it is frozen.
func (l *stepLayer) freezeAfter(do func() error) (runner.Snapshot, error) {
	if err := l.aside(do); err != nil {
		return "", err
	}
	return l.freeze()
}

// drop deletes the layer unless it is frozen.
func (l *stepLayer) drop() {
	if l.done {
		return
	}
	l.done = true
	if !l.away {
		if err := l.e.unmount(l.id); err != nil {
			l.e.log.Debug("unmounting an abandoned layer", "error", err)
		}
	}
	if err := l.e.deleteLayer(l.id); err != nil && !isGone(err) {
		l.e.log.Warn("an abandoned layer cannot be deleted now; the next start tries again", "layer", l.id, "error", err)
		return // stays in the journal
	}
	l.e.durable.forget(l.id)
	l.e.proc.end(l.id)
}

// deleteLayer deletes an unmounted layer that nothing uses. The store writes down
// what it deletes, which a full disk has no room for: then the reserve has to go
// first, and if that is not enough the layer's files.
func (e *Engine) deleteLayer(id string) error {
	err := e.store.DeleteLayer(id)
	if !isFull(err) {
		return err
	}
	e.giveUpReserve()
	if err = e.store.DeleteLayer(id); !isFull(err) || !e.isUnused(id) {
		return err
	}
	driver, err2 := e.store.GraphDriver()
	if err2 == nil {
		err2 = driver.Remove(id)
	}
	if err2 != nil {
		return err
	}
	return e.store.DeleteLayer(id)
}

// isUnused reports whether it is sure that nothing lies on a layer or shows it: the store
// looks for that itself, but not before it has room.
func (e *Engine) isUnused(id string) bool {
	layers, err := e.store.Layers()
	images, err2 := e.store.Images()
	containers, err3 := e.store.Containers()
	return errors.Join(err, err2, err3) == nil &&
		!slices.ContainsFunc(layers, func(l storage.Layer) bool { return l.Parent == id }) &&
		!slices.ContainsFunc(images, func(i storage.Image) bool { return i.TopLayer == id }) &&
		!slices.ContainsFunc(containers, func(c storage.Container) bool { return c.LayerID == id })
}

// isGone reports whether a layer could not be deleted because there is none.
func isGone(err error) bool {
	return errors.Is(err, storage.ErrNotALayer) || errors.Is(err, storage.ErrLayerUnknown)
}

// Has reports whether a snapshot's layer is in the store, with its files.
func (e *Engine) Has(_ context.Context, s runner.Snapshot) bool {
	return s == "" || e.hasLayer(string(s))
}

// Discard deletes the layers of snapshots, those that have others on them last.
// A layer that something else uses stays, and so does one that no step has made.
func (e *Engine) Discard(_ context.Context, snapshots ...runner.Snapshot) error {
	var errs []error
	for i := len(snapshots) - 1; i >= 0; i-- {
		if l, err := e.store.Layer(string(snapshots[i])); err != nil || !isStepLayer(l) {
			continue
		}
		err := e.deleteLayer(string(snapshots[i]))
		switch {
		case err == nil, isGone(err), errors.Is(err, storage.ErrLayerHasChildren),
			errors.Is(err, storage.ErrLayerUsedByImage), errors.Is(err, storage.ErrLayerUsedByContainer):
		default:
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// view is a read-only look at a snapshot.
type view struct {
	root  string
	close func()
}

// view mounts a snapshot so that it can be read while others read it, or build
// on it. The store's own mounts cannot be used for that: they are read-write,
// and counted per process.
func (e *Engine) view(s runner.Snapshot) (*view, error) {
	dir, err := os.MkdirTemp(e.proc.path(mountsName), "")
	if err != nil {
		return nil, err
	}
	if s == "" {
		return &view{root: dir, close: func() { _ = os.Remove(dir) }}, os.Chmod(dir, rootMode)
	}
	lowers, err := e.lowerDirs(string(s))
	if err != nil {
		_ = os.Remove(dir)
		return nil, err
	}
	if len(lowers) > 0 {
		at := len(lowers)
		if l, err := e.store.Layer(string(s)); err == nil && !isStepLayer(l) {
			at = 0 // the root's mode is that of the topmost: see newMarkedLayer
		}
		err = mountOverlayReadOnly(slices.Insert(lowers, at, e.proc.path(emptyName)), dir, e.thin)
		if err == nil {
			return &view{root: dir, close: func() {
				_ = unix.Unmount(dir, unix.MNT_DETACH)
				_ = os.Remove(dir)
			}}, nil
		}
		e.log.Debug("mounting a view failed; the driver mounts it instead", "error", err)
	}
	_ = os.Remove(dir)
	done, err := e.proc.beginView(string(s))
	if err != nil {
		return nil, err
	}
	root, err := e.store.Mount(string(s), "")
	if err != nil {
		done()
		return nil, fmt.Errorf("mounting a snapshot: %w", vanished(err))
	}
	return &view{root: root, close: func() {
		if _, err := e.store.Unmount(string(s), false); err != nil {
			e.log.Debug("unmounting a view", "error", err)
			return // stays in the journal
		}
		done()
	}}, nil
}

// lowerDirs lists the directories that make up a layer's tree, the topmost
// first; none where the driver has no such thing, or does not mount natively.
func (e *Engine) lowerDirs(layer string) ([]string, error) {
	if e.store.GraphDriverName() != "overlay" || e.fuse {
		return nil, nil
	}
	driver, err := e.store.GraphDriver()
	if err != nil {
		return nil, err
	}
	meta, err := driver.Metadata(layer)
	if err != nil {
		return nil, fmt.Errorf("looking at a layer: %w", err)
	}
	if meta["UpperDir"] == "" {
		return nil, nil
	}
	lowers := []string{meta["UpperDir"]}
	if meta["LowerDir"] != "" {
		lowers = append(lowers, strings.Split(meta["LowerDir"], ":")...)
	}
	return lowers, nil
}

// upperDir is the first of a layer's lowerDirs, "" if there are none. It asks nothing of
// the layers below, which are many where many steps follow one another.
func (e *Engine) upperDir(layer string) (string, error) {
	if e.store.GraphDriverName() != "overlay" || e.fuse {
		return "", nil
	}
	dir := filepath.Join(e.store.GraphRoot(), e.store.GraphDriverName(), layer, "diff")
	if _, err := os.Lstat(dir); err == nil {
		return dir, nil
	}
	lowers, err := e.lowerDirs(layer) // it may lie in another store that is read, too
	if err != nil || len(lowers) == 0 {
		return "", err
	}
	return lowers[0], nil
}

// mountOverlayReadOnly uses the mount API of Linux 6.5, which has no limit on the
// number of layers. It needs two of them at least; an empty one does. thin says that
// files may have their content in a layer below their own, which the kernel has to be
// told: else it refuses to open them.
func mountOverlayReadOnly(lowers []string, target string, thin bool) error {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fsfd)
	for _, l := range lowers {
		if err := unix.FsconfigSetString(fsfd, "lowerdir+", filepath.Clean(l)); err != nil {
			return err
		}
	}
	if inUserNamespace() {
		if err := unix.FsconfigSetFlag(fsfd, "userxattr"); err != nil {
			return err
		}
	}
	if thin {
		if err := unix.FsconfigSetString(fsfd, "metacopy", "on"); err != nil {
			return err
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return err
	}
	mfd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(mfd)
	return unix.MoveMount(mfd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
