//go:build linux

package buildah

// The engine's part in pruning: what there is, how big it is, and that nobody is
// working on it. What is to go is decided by the runner.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.podman.io/storage"
	"go.podman.io/storage/pkg/directory"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/beneath"
	"github.com/zbuild/zbuild/internal/sealed"
	"github.com/zbuild/zbuild/runner"
)

// stepFlag marks the layers that steps have made. Others are never removed.
const stepFlag = "zbuild.step"

const (
	notesName     = "layers" // what is known of layers
	usageName     = "usage"
	cachesName    = "cache-mounts"
	cacheDataName = "data"
	cacheIDName   = "id"
	maxCacheID    = 64 << 10 // bytes
)

var _ runner.SnapshotStore = (*Engine)(nil)

func isStepLayer(l *storage.Layer) bool {
	mark, _ := l.Flags[stepFlag].(bool)
	return mark
}

// Disk says how big the store's file system is.
func (e *Engine) Disk(context.Context) (runner.Disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(e.store.GraphRoot(), &st); err != nil {
		return runner.Disk{}, fmt.Errorf("looking at the store's file system: %w", err)
	}
	block := int64(st.Bsize) //nolint:unconvert // the type differs by architecture
	return runner.Disk{Total: int64(st.Blocks) * block, Used: int64(st.Blocks-st.Bfree) * block}, nil
}

// Snapshots lists the layers that steps have made.
func (e *Engine) Snapshots(ctx context.Context) ([]runner.SnapshotInfo, error) {
	// The journals first: a layer that is finished in between is then young, and
	// not taken for one that nobody wants.
	busy, err := e.Kept(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := e.store.Layers()
	if err != nil {
		return nil, err
	}
	var all []runner.SnapshotInfo
	for i := range layers {
		l := &layers[i]
		if isStepLayer(l) {
			all = append(all, runner.SnapshotInfo{
				ID: runner.Snapshot(l.ID), Parent: runner.Snapshot(l.Parent), Created: l.Created, Busy: busy[runner.Snapshot(l.ID)],
			})
		}
	}
	slices.SortFunc(all, func(a, b runner.SnapshotInfo) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return all, nil
}

// journalled are the layers that processes are making, this one and others.
func (e *Engine) journalled() map[string]bool {
	busy := make(map[string]bool)
	files, _ := filepath.Glob(filepath.Join(e.processDir(), "*", layersName, "*"))
	for _, f := range files {
		busy[filepath.Base(f)] = true
	}
	return busy
}

// Usage measures a layer, once: it never changes.
func (e *Engine) Usage(_ context.Context, s runner.Snapshot) (int64, error) {
	note := filepath.Join(e.StateDir(), notesName, string(s), usageName)
	var known int64
	if _, err := sealed.Read(note, &known); err == nil && known >= 0 {
		return known, nil
	}
	size, err := e.measure(string(s))
	if err != nil {
		return 0, err
	}
	if !e.journalled()[string(s)] {
		if err := sealed.Write(note, size); err != nil {
			e.log.Debug("a layer's size cannot be kept", "error", err)
		}
	}
	return size, nil
}

func (e *Engine) measure(layer string) (int64, error) {
	dir, err := e.upperDir(layer)
	if err == nil && dir != "" {
		return directory.Size(dir)
	}
	l, err := e.store.Layer(layer)
	if err != nil {
		return 0, err
	}
	return e.store.DiffSize(l.Parent, layer)
}

// CacheMounts lists the directories of cache mounts.
func (e *Engine) CacheMounts(context.Context) ([]runner.CacheMount, error) {
	entries, err := os.ReadDir(filepath.Join(e.StateDir(), cachesName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []runner.CacheMount
	for _, entry := range entries {
		dir := filepath.Join(e.StateDir(), cachesName, entry.Name())
		info, err := os.Stat(filepath.Join(dir, lockName))
		if err != nil {
			continue // somebody is making or removing it
		}
		m := runner.CacheMount{Name: entry.Name(), LastUsed: used(filepath.Join(dir, lockName), info.ModTime())}
		if id, err := beneath.ReadFile(filepath.Join(dir, cacheIDName), maxCacheID); err == nil {
			m.ID = string(id)
		}
		if size, err := directory.Size(dir); err == nil {
			m.Size = size // otherwise it is changing under our eyes
		}
		if m.InUse, err = cacheInUse(dir); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// DiscardCacheMount removes a cache mount's directory unless it is in use.
func (e *Engine) DiscardCacheMount(ctx context.Context, name string) (bool, error) {
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return false, fs.ErrInvalid
	}
	dir := filepath.Join(e.StateDir(), cachesName, name)
	if _, err := os.Stat(dir); err != nil {
		return false, nil // it has gone
	}
	lock, err := lockDir(dir)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Close()
	if err := e.clearUsers(ctx, dir, true); err != nil {
		return false, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return false, err
	}
	return true, nil
}

// Tidy removes the notes about layers that are gone.
func (e *Engine) Tidy(ctx context.Context) error {
	dir := filepath.Join(e.StateDir(), notesName)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, entry := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !e.store.Exists(entry.Name()) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

// used is when a file was used last, if its time says so. One of the future, from before a
// clock was set back, would never grow old: such a file counts as used now, from now on.
func used(name string, modified time.Time) time.Time {
	now := time.Now()
	if !modified.After(now) {
		return modified
	}
	_ = os.Chtimes(name, now, now) // the next one to look tries again
	return now
}

// touch notes that a file is used. That it cannot be noted harms nobody.
func touch(name string) {
	now := time.Now()
	_ = os.Chtimes(name, now, now)
}
