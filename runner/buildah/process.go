//go:build linux

package buildah

// What a process has going (containers, mounts, half-made layers) is written
// down before it is begun, in a directory that the process holds a lock on. The
// kernel drops the lock when the process dies, however it dies; whoever finds a
// directory without a lock finishes what its owner could not.

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/internal/sealed"
	"github.com/zbuild/zbuild/internal/source"
)

const (
	newPrefix   = "new-" // of what is not yet what it is to become
	lockName    = "lock"
	layersName  = "layers"  // one empty file per layer that is being made
	runtimeName = "runtime" // the OCI runtime's state
	bundlesName = "bundles"
	mountsName  = "mounts"  // read-only views of snapshots
	viewsName   = "views"   // one empty file per view that the store has mounted
	stagesName  = "stages"  // one link per directory that an image's layer is made in
	stagePrefix = "zbuild-" // of the directories in layers' own that others are made in
	emptyName   = "empty"   // a directory that stays empty, with the mode of a root
	runtimePath = "runtime.path"
	keptName    = "kept" // the snapshots that the process uses
)

// process is the directory of one running zbuild.
type process struct {
	dir  string
	lock *os.File
}

func newProcess(parent string) (*process, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	// The lock is taken under another name, so that a sweep that comes between
	// the directory's creation and the lock cannot take it for a dead one. Who has
	// such a name has the parent's lock, with others.
	starting, err := lockFile(parent, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer starting.Close()
	dir, err := os.MkdirTemp(parent, newPrefix)
	if err != nil {
		return nil, err
	}
	p := &process{}
	for _, name := range []string{layersName, imagesName, runtimeName, bundlesName, mountsName, viewsName, stagesName, emptyName} {
		if err = os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			break
		}
	}
	if err == nil {
		err = os.Chmod(filepath.Join(dir, emptyName), rootMode)
	}
	if err == nil {
		p.lock, err = lockDir(dir)
	}
	if err == nil {
		p.dir = filepath.Join(parent, "p"+strings.TrimPrefix(filepath.Base(dir), "new"))
		err = os.Rename(dir, p.dir)
	}
	if err != nil {
		if p.lock != nil {
			err = errors.Join(err, p.lock.Close())
		}
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return p, nil
}

// lockDir takes the directory's lock, or fails at once if another process has it.
func lockDir(dir string) (*os.File, error) {
	return tryLock(openLock(filepath.Join(dir, lockName)))
}

// openLock opens a file of ours that is there to be locked, and makes it if need be. What
// else has come to have its name cannot be opened so, and is removed.
func openLock(name string) (*os.File, error) {
	open := func() (*os.File, error) {
		return os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	}
	f, err := open()
	for _, wrong := range []error{unix.EISDIR, unix.ELOOP, unix.ENXIO, unix.EACCES} {
		if errors.Is(err, wrong) && os.RemoveAll(name) == nil {
			return open()
		}
	}
	return f, err
}

func (p *process) path(elem ...string) string {
	return filepath.Join(append([]string{p.dir}, elem...)...)
}

// begin notes that a layer is being made, end that it is whole or gone.
func (p *process) begin(layer string) error {
	return os.WriteFile(p.path(layersName, layer), nil, 0o600)
}

func (p *process) end(layer string) { _ = os.Remove(p.path(layersName, layer)) }

// beginView notes that the store mounts a layer for this process; done that it does
// no more.
func (p *process) beginView(layer string) (done func(), err error) {
	f, err := os.CreateTemp(p.path(viewsName), layer+"-")
	if err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(f.Name()) }, f.Close()
}

// stage makes a directory in another for an image's layer to be made in; done removes
// it.
func (p *process) stage(in string) (dir string, done func() error, err error) {
	note := p.path(stagesName, newID())
	dir = filepath.Join(in, stagePrefix+filepath.Base(note))
	if err := os.Symlink(dir, note); err != nil {
		return "", nil, err
	}
	done = func() error { return errors.Join(os.RemoveAll(dir), os.Remove(note)) }
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, errors.Join(err, done())
	}
	return dir, done, nil
}

// sweepStages removes the directories that a dead process, whose own is dir, made
// layers in.
func sweepStages(dir string) error {
	notes, err := os.ReadDir(filepath.Join(dir, stagesName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, n := range notes {
		stage, err := os.Readlink(filepath.Join(dir, stagesName, n.Name()))
		if err == nil && filepath.Base(stage) == stagePrefix+n.Name() {
			err = os.RemoveAll(stage)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// usesRuntime notes which OCI runtime knows about the containers.
func (p *process) usesRuntime(path string) error {
	return os.WriteFile(p.path(runtimePath), []byte(path), 0o600)
}

// close removes the directory, its lock last: until then everybody can see that it
// has an owner.
func (p *process) close() error {
	if p == nil {
		return nil
	}
	for _, name := range []string{layersName, viewsName, stagesName} {
		if left, err := os.ReadDir(p.path(name)); err == nil && len(left) > 0 {
			// What cannot be deleted or unmounted now, on a full disk: whoever starts next
			// finds it named here.
			return p.lock.Close()
		}
	}
	entries, err := os.ReadDir(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return p.lock.Close() // another program has removed it
	}
	errs := []error{err}
	for _, entry := range entries {
		if entry.Name() != lockName {
			errs = append(errs, os.RemoveAll(p.path(entry.Name())))
		}
	}
	errs = append(errs, os.RemoveAll(p.dir), p.lock.Close())
	return errors.Join(errs...)
}

// lockOfAnother takes the lock of a directory that another process has made. It
// makes none: the directory may be about to go.
func lockOfAnother(dir string) (*os.File, error) {
	return tryLock(os.OpenFile(filepath.Join(dir, lockName), os.O_RDONLY|unix.O_NONBLOCK, 0))
}

func tryLock(f *os.File, err error) (*os.File, error) {
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lockFile takes the lock of a file or directory that is there.
func lockFile(name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sweep clears away what dead processes have left: containers first, then the
// mounts that they used, then the layers that nobody will finish, and at last
// files.
func (e *Engine) sweep(ctx context.Context) {
	if e.durable.booted {
		_ = os.MkdirAll(e.processDir(), 0o700)
	}
	entries, err := os.ReadDir(e.processDir())
	if err != nil {
		return // there is nothing yet
	}
	unborn := false
	dead := make(map[string]bool)
	for _, entry := range entries {
		dir := filepath.Join(e.processDir(), entry.Name())
		if strings.HasPrefix(entry.Name(), newPrefix) {
			unborn = true
			continue
		}
		lock, err := lockOfAnother(dir)
		if errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(dir) // if it is empty: its owner died over that
		}
		if err != nil {
			continue // alive, or gone already
		}
		dead[entry.Name()] = e.sweepOne(ctx, dir)
		lock.Close()
	}
	if ctx.Err() == nil && (unborn || len(dead) > 0 || e.durable.booted) {
		e.sweepFiles(dead)
	}
}

// sweepFiles removes the files that processes have died over. Whose a file is
// cannot be told. So nothing is removed while anybody lives or begins to: then the
// directories of the dead stay, and the next start tries again.
func (e *Engine) sweepFiles(dead map[string]bool) {
	alone, err := lockFile(e.processDir(), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return // somebody begins
	}
	defer alone.Close()
	entries, err := os.ReadDir(e.processDir())
	if err != nil {
		return
	}
	for _, entry := range entries {
		dir := filepath.Join(e.processDir(), entry.Name())
		switch {
		case strings.HasPrefix(entry.Name(), newPrefix):
			_ = os.RemoveAll(dir) // its owner died before it did anything
		case !dead[entry.Name()]:
			return // alive, or dead since just now
		}
	}
	if err := sweepTemporary(e.StateDir()); err != nil {
		e.log.Warn("temporary files of a killed build cannot be removed", "error", err)
	}
	for name := range dead {
		if err := os.RemoveAll(filepath.Join(e.processDir(), name)); err != nil {
			e.log.Warn("a killed build's directory cannot be removed", "error", err)
		}
	}
}

// sweepTemporary removes the files and directories that were to become others.
func sweepTemporary(state string) error {
	return filepath.WalkDir(state, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(name, state+"/")
		for _, prefix := range []string{newPrefix, sealed.TempPrefix, source.TempPrefix, spoolPrefix, pack.TempPrefix} {
			if !strings.HasPrefix(d.Name(), prefix) {
				continue
			}
			if err := os.RemoveAll(name); err != nil {
				return err
			}
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		// What is in caches and in what was fetched is not ours.
		if d.IsDir() && strings.Count(rel, "/") == 2 && !strings.HasPrefix(rel, "cache/") {
			return filepath.SkipDir
		}
		return nil
	})
}

// sweepOne clears away what a dead process has left, whose directory is dir. If it is
// interrupted it leaves that to the next start, and is not done.
func (e *Engine) sweepOne(ctx context.Context, dir string) (done bool) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 2 {
		return true // another has been here
	}
	e.log.Info("clearing away what a killed build has left", "dir", dir)
	e.sweepContainers(ctx, dir)
	if ctx.Err() != nil {
		return false
	}
	unmountBelow(dir)
	views, _ := os.ReadDir(filepath.Join(dir, viewsName))
	for _, v := range views {
		layer, _, _ := strings.Cut(v.Name(), "-")
		if _, err := e.store.Unmount(layer, false); err != nil {
			e.log.Debug("unmounting what a killed build looked at", "error", err)
		}
	}
	if err := sweepStages(dir); err != nil {
		e.log.Warn("a half-made layer of a killed build cannot be removed", "error", err)
	}
	e.sweepImages(dir)
	layers, _ := os.ReadDir(filepath.Join(dir, layersName))
	for _, l := range layers {
		_, _ = e.store.Unmount(l.Name(), true)
	}
	if err := e.deleteLayers(layers); err != nil {
		e.log.Warn("a layer of a killed build cannot be removed", "error", err)
	}
	// The directory itself stays until files have been swept, too.
	for _, entry := range entries {
		if entry.Name() == lockName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			e.log.Warn("a killed build's directory cannot be removed", "error", err)
		}
	}
	return true
}

// sweepContainers ends the containers of a dead process: first as their runtime would have
// it, and what that does not manage with a signal.
func (e *Engine) sweepContainers(ctx context.Context, dir string) {
	state := filepath.Join(dir, runtimeName)
	containers, _ := os.ReadDir(state)
	path, _ := os.ReadFile(filepath.Join(dir, runtimePath))
	for _, c := range containers {
		if len(path) == 0 {
			break
		}
		out, err := callRuntime(ctx, 2*e.hang, string(path), state, "delete", "--force", c.Name())
		if err != nil {
			e.log.Warn("a container of a killed build cannot be removed by its runtime", "container", c.Name(), "error", err, "output", strings.TrimSpace(string(out)))
		}
		if ctx.Err() != nil || errors.Is(err, errHangs) {
			break // it will do no better with the others
		}
	}
	over := make(chan struct{})
	close(over)
	if !killMounted(filepath.Join(dir, bundlesName), over) {
		e.log.Warn("a process of a killed build cannot be killed", "dir", dir)
	}
}

// unmountBelow detaches every mount below dir, the innermost first.
func unmountBelow(dir string) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		_ = unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH)
	}
}
