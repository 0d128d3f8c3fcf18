//go:build linux

package buildah

// What a loss of power leaves. The overlays that steps work in are volatile: the
// kernel would else write out the whole file system when one is unmounted, and when a
// program in a RUN asks for it, with the build waiting. So what a layer consists of is
// not on the disk yet when the layer is done, while what speaks of it (the store's list
// of layers, an entry of the cache) may get there at any moment.
//
// Before anything speaks of a layer it is noted in a directory that is named after the
// machine's boot: when it is begun, for the layer that it lies on can only be deleted
// together with it, and again when it is done, for a sync in between takes the note away.
// Before an image is recorded, and when a build is over, the file system is synced once,
// for all layers that are noted, and the notes go.
//
// A journalling file system keeps the order of such changes: where a layer can be found
// that is not whole, its note can be found, too, in a directory of another boot. Who finds
// one deletes that layer and what lies on it.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

// unsyncedName is the directory below the state directory that has the notes.
const unsyncedName = "unsynced"

// failedSuffix is in the names of directories of layers that could not be written to the
// disk, after the name of the boot.
const failedSuffix = ".failed-"

// muchWritten is how much has to be written for a sync to begin while steps run.
const muchWritten = 16 << 20 // bytes

// durable is what the engine knows of what is on the disk.
type durable struct {
	dir string // has a note of every layer that this boot has made and not synced; empty if there is no telling
	// disk is a directory of the store's file system. The kernel tells once whoever has
	// something open what it could not write since then, so it is open from the beginning.
	disk *os.File
	// booted says that the machine was started anew since somebody was at work here: the
	// run directory need not tell any more of what they had going.
	booted bool

	syncing sync.Mutex // held while the file system is synced
	failed  error      // that of the first sync that failed: what was noted then cannot be relied on

	mu      sync.Mutex
	free    int64          // bytes, when a sync was last begun
	busy    bool           // one is under way that nobody waits for
	earlier sync.WaitGroup // has that
}

// bootID names the machine's boot.
func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if id := strings.TrimSpace(string(raw)); err == nil && id != "" && filepath.IsLocal(id) {
		return id, nil
	}
	return "", errors.Join(errors.New("the machine's boot has no name"), err)
}

// openDurable finds out what a loss of power has left. volatile says that the user has
// nothing against volatile mounts.
func (e *Engine) openDurable(volatile bool) error {
	boot, err := bootID()
	if err != nil {
		e.log.Debug("what steps write is synced at once", "why", err)
		return nil
	}
	if e.durable.disk, err = os.Open(e.store.GraphRoot()); err != nil {
		return &UnusableError{What: "the store cannot be read", Err: err}
	}
	e.durable.dir = filepath.Join(e.StateDir(), unsyncedName, boot)
	e.volatile = volatile && e.native
	if err := e.forgetLost(); err != nil {
		return &UnusableError{What: "what a loss of power has left half written cannot be removed", Fix: writable(err, e.store.GraphRoot()), Err: err}
	}
	return nil
}

// note writes down that a layer is in memory only. Where nothing can be written down
// the layer is synced.
func (d *durable) note(layer string) error {
	if d.dir == "" {
		return nil
	}
	name := filepath.Join(d.dir, layer)
	err := os.WriteFile(name, nil, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(d.dir, 0o700); err == nil {
			err = os.WriteFile(name, nil, 0o600)
		}
	}
	if err != nil {
		return d.write()
	}
	return nil
}

// forget takes a layer's note away: the layer is gone.
func (d *durable) forget(layer string) {
	if d.dir != "" {
		_ = os.Remove(filepath.Join(d.dir, layer))
	}
}

// write writes the store's file system to the disk.
func (d *durable) write() error {
	if err := unix.Syncfs(int(d.disk.Fd())); err != nil {
		return fmt.Errorf("writing the store's file system, at %s, to the disk: %w", d.disk.Name(), err)
	}
	return nil
}

// close is for when nothing is synced any more.
func (d *durable) close() error {
	d.earlier.Wait()
	if d.disk == nil {
		return nil
	}
	return d.disk.Close()
}

// sync makes all layers last that are noted now.
func (d *durable) sync() error {
	if d.dir == "" {
		return nil
	}
	d.syncing.Lock()
	defer d.syncing.Unlock()
	if d.failed != nil {
		return d.failed
	}
	notes, err := os.ReadDir(d.dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(notes) == 0 {
		return nil
	}
	// Where notes cannot be read there may be some.
	if err := d.write(); err != nil {
		// The kernel gives up what it cannot write, and the next sync knows nothing of it.
		// As those of another boot the layers are deleted by whoever starts next.
		d.failed = errors.Join(err, os.Rename(d.dir, d.dir+failedSuffix+newID()[:8]))
		return d.failed
	}
	for _, n := range notes {
		// Another process may have removed it, after a sync of its own; and one that
		// stays costs another sync.
		_ = os.Remove(filepath.Join(d.dir, n.Name()))
	}
	return nil
}

// writeOut begins to sync, if much was written since that was last done: then less is
// left to wait for in the end. The file system's free space tells, for it counts what
// is only in memory.
func (d *durable) writeOut(failed func(error)) {
	var st unix.Statfs_t
	if d.dir == "" || unix.Fstatfs(int(d.disk.Fd()), &st) != nil {
		return
	}
	free := int64(st.Bfree) * int64(st.Bsize) //nolint:unconvert // the type differs by architecture
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy || d.free-free < muchWritten {
		d.free = max(d.free, free) // somebody has removed something
		return
	}
	d.free, d.busy = free, true
	d.earlier.Go(func() {
		if err := d.sync(); err != nil {
			failed(err)
		}
		d.mu.Lock()
		d.busy = false
		d.mu.Unlock()
	})
}

// finished says that a layer of a step is whole: nobody writes to it any more.
func (e *Engine) finished(layer string) error {
	if err := e.durable.note(layer); err != nil {
		return err
	}
	e.Keep(runner.Snapshot(layer)) // before it is not being made any more
	e.proc.end(layer)
	e.durable.writeOut(func(err error) { e.log.Debug("writing out layers", "error", err) })
	return nil
}

// forgetLost deletes the layers that were only in memory when the machine went down,
// and what lies on them. One that something lasting lies on, or an image, was synced
// before that was made.
func (e *Engine) forgetLost() error {
	dir := filepath.Dir(e.durable.dir)
	boots, err := os.ReadDir(dir)
	if errors.Is(err, unix.ENOTDIR) { // it says nothing of any layer
		return os.Remove(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	boots, err = withoutFiles(dir, boots)
	if err != nil {
		return err
	}
	if len(boots) == 0 || len(boots) == 1 && boots[0].Name() == filepath.Base(e.durable.dir) {
		return nil
	}
	// One that comes second must not begin before the first is done.
	alone, err := lockFile(dir, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer alone.Close()
	for _, boot := range boots {
		if boot.Name() == filepath.Base(e.durable.dir) {
			continue
		}
		lost := filepath.Join(dir, boot.Name())
		notes, err := os.ReadDir(lost)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the first has done it
		}
		if err != nil {
			return err
		}
		switch {
		case len(notes) == 0:
		case strings.Contains(boot.Name(), failedSuffix):
			e.log.Warn("results of a build could not be written to the disk; they are made again", "layers", len(notes))
		default:
			e.log.Warn("the machine went down before the results of the last build were on its disk; they are made again", "layers", len(notes))
		}
		if err := e.deleteLayers(notes); err != nil {
			return err // the next start tries again
		}
		if err := os.RemoveAll(lost); err != nil {
			e.log.Debug("notes of an earlier boot stay", "error", err)
		}
		e.durable.booted = true
	}
	return nil
}

// withoutFiles removes what is no directory, and gives what is.
func withoutFiles(dir string, entries []fs.DirEntry) (dirs []fs.DirEntry, err error) {
	for _, entry := range entries {
		if entry.IsDir() {
			dirs = append(dirs, entry)
		} else if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return dirs, nil
}

// deleteLayers deletes the layers that files are named after, those that have others
// on them last. What is in use stays. The error says what else does.
func (e *Engine) deleteLayers(notes []fs.DirEntry) error {
	var errs []error
	for len(notes) > 0 {
		var later []fs.DirEntry
		for _, n := range notes {
			err := e.deleteLayer(n.Name())
			switch {
			case errors.Is(err, storage.ErrLayerHasChildren):
				later = append(later, n)
			case err == nil, isGone(err), errors.Is(err, storage.ErrLayerUsedByImage), errors.Is(err, storage.ErrLayerUsedByContainer):
			default:
				errs = append(errs, fmt.Errorf("deleting layer %s, which may not be whole: %w", n.Name(), err))
			}
		}
		if len(later) == len(notes) {
			break
		}
		notes = later
	}
	return errors.Join(errs...)
}
