//go:build linux

package buildah

// Cache mounts are directories that outlive builds. They lie beside the store's
// layers, so that several processes share them; who may use one at the same time
// is the Dockerfile reference's "sharing".

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

// cacheName is what a cache's directory is called.
func (x *execJob) cacheName(m *pb.Mount) string { return runner.CacheMountName(x.job.Step, m) }

// lockCaches takes all caches that the RUN mounts. They are taken in the order of
// their names: two RUNs that want the same ones cannot wait for each other. One
// that is mounted twice is taken once, as the stricter mount asks for.
func (x *execJob) lockCaches(ctx context.Context) error {
	sharing := make(map[string]pb.CacheSharingOpt)
	for _, m := range x.op.Mounts {
		if m.MountType != pb.MountType_CACHE {
			continue
		}
		name := x.cacheName(m)
		if s, ok := sharing[name]; !ok || s == pb.CacheSharingOpt_SHARED || m.CacheOpt.Sharing == pb.CacheSharingOpt_LOCKED {
			sharing[name] = m.CacheOpt.Sharing
		}
	}
	x.caches = make(map[string]string, len(sharing))
	for _, name := range slices.Sorted(maps.Keys(sharing)) {
		dir, err := x.takeCache(ctx, name, sharing[name])
		if err != nil {
			return err
		}
		x.caches[name] = dir
	}
	return nil
}

// takeCache takes a cache, or for a private one that is in use the first of its
// kind that is not.
func (x *execJob) takeCache(ctx context.Context, name string, sharing pb.CacheSharingOpt) (string, error) {
	dir := filepath.Join(x.e.StateDir(), cachesName, name)
	own := dir
	for n := 1; ; n++ {
		if x.job.Afresh != nil {
			if err := x.job.Afresh(name, own, func() error { return x.e.emptyCache(ctx, own) }); err != nil {
				return "", fmt.Errorf("emptying a cache: %w", err)
			}
		}
		unlock, err := lockCache(own, sharing)
		if errors.Is(err, unix.EWOULDBLOCK) && sharing == pb.CacheSharingOpt_PRIVATE {
			unlock, err = lockCacheUnseen(own, sharing)
			if errors.Is(err, unix.EWOULDBLOCK) {
				own = fmt.Sprintf("%s-%d", dir, n)
				continue
			}
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			unlock, err = x.waitCache(ctx, own, sharing)
		}
		if err != nil {
			return "", fmt.Errorf("taking a cache: %w", err)
		}
		x.undo = append(x.undo, unlock)
		leave, err := x.e.enterCache(ctx, own, sharing != pb.CacheSharingOpt_SHARED)
		if err != nil {
			return "", fmt.Errorf("taking a cache: %w", err)
		}
		x.undo = append(x.undo, leave)
		touch(filepath.Join(own, lockName))
		return own, nil
	}
}

// emptyCache empties a cache that is there. One that another build is at work with stays
// as it is: it has been told where the cache lies.
func (e *Engine) emptyCache(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return nil
	}
	unlock, err := lockCacheUnseen(dir, pb.CacheSharingOpt_PRIVATE)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if err := e.clearUsers(ctx, dir, true); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(dir, cacheDataName))
}

// lockCacheUnseen is lockCache while nobody looks whether caches are in use. Who does that
// takes them for a moment, which is no reason to do without one.
func lockCacheUnseen(dir string, sharing pb.CacheSharingOpt) (func(), error) {
	if err := makeCache(dir); err != nil {
		return nil, err
	}
	looking, err := lockFile(filepath.Dir(dir), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer looking.Close()
	return lockCache(dir, sharing)
}

// cacheInUse reports whether anybody has a cache mounted.
func cacheInUse(dir string) (bool, error) {
	looking, err := lockFile(filepath.Dir(dir), unix.LOCK_EX)
	if err != nil {
		return false, err
	}
	defer looking.Close()
	lock, err := lockDir(dir)
	if err != nil {
		return true, nil
	}
	return false, lock.Close()
}

// waitCache waits until a cache can be taken. Another step may run meanwhile.
func (x *execJob) waitCache(ctx context.Context, dir string, sharing pb.CacheSharingOpt) (unlock func(), err error) {
	wait := func() error {
		for {
			unlock, err = lockCache(dir, sharing)
			if !errors.Is(err, unix.EWOULDBLOCK) {
				return err
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	idle := x.job.Idle
	if idle == nil {
		idle = func(fn func() error) error { return fn() }
	}
	if err := idle(wait); err != nil {
		return nil, err
	}
	return unlock, nil
}

// cacheMount gives the directory of a cache, which is taken already.
func (x *execJob) cacheMount(ctx context.Context, m *pb.Mount) (string, error) {
	var from runner.Input
	if m.Input >= 0 {
		from = x.job.Inputs[m.Input]
	}
	data, err := x.fillCache(ctx, x.caches[x.cacheName(m)], m, from)
	if err != nil || m.Input >= 0 || m.Selector == "" {
		return data, err // of another tree's files, only those that are selected are in the cache
	}
	return x.pinned(data, m.Selector)
}

// pinned mounts what is at a path of a cache in a place of its own: who shares the
// cache could put a link to somewhere else where it was found.
func (x *execJob) pinned(data, selector string) (string, error) {
	data, err := filepath.EvalSymlinks(data)
	if err != nil {
		return "", err
	}
	fd, isDir, err := openStill(data, selector)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var place string
	if isDir {
		place, err = os.MkdirTemp(x.bundle, "cache-")
	} else {
		var f *os.File
		if f, err = os.CreateTemp(x.bundle, "cache-"); err == nil {
			place, err = f.Name(), f.Close()
		}
	}
	if err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), place, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("mounting %s of a cache: %w", selector, err)
	}
	x.undo = append(x.undo, func() { _ = unix.Unmount(place, unix.MNT_DETACH) })
	return place, nil
}

// openStill opens what is at a path of a directory, links resolved inside of it, and
// makes sure that it is what was found.
func openStill(dir, selector string) (fd int, isDir bool, err error) {
	for range 10 {
		p, err := selected(dir, selector)
		if err != nil {
			return 0, false, err
		}
		fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return 0, false, &fs.PathError{Op: "open", Path: selector, Err: err}
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		at, err2 := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err = errors.Join(err, err2); err == nil && at == p && st.Mode&unix.S_IFMT != unix.S_IFLNK {
			return fd, st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
		}
		unix.Close(fd)
		if err != nil {
			return 0, false, err
		}
	}
	return 0, false, fmt.Errorf("%s of a cache is changed all the time", selector)
}

// fillCache makes the cache's directory if this is its first use.
func (x *execJob) fillCache(ctx context.Context, dir string, m *pb.Mount, from runner.Input) (string, error) {
	data := filepath.Join(dir, cacheDataName)
	if info, err := os.Lstat(data); err == nil && info.IsDir() {
		return data, nil // nobody waits for one that is being made
	}
	x.e.makingCache.Lock()
	defer x.e.makingCache.Unlock()
	info, err := os.Lstat(data)
	if err == nil && info.IsDir() {
		return data, nil
	}
	if err == nil { // a link would lead whoever mounts it to the machine's files
		if err := os.Remove(data); err != nil {
			return "", err
		}
	}
	tmp, err := os.MkdirTemp(dir, newPrefix)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	fresh := filepath.Join(tmp, "data")
	if from.Snapshot != "" {
		v, err := x.e.view(from.Snapshot)
		if err != nil {
			return "", err
		}
		defer v.close()
		from, err := selected(v.root, m.Selector)
		if err != nil {
			return "", err
		}
		// The directory itself is copied, for its owner and mode are what the mount
		// asks for, and not only what is in it.
		if err := fscopy.Copy(ctx, v.root, strings.TrimPrefix(from, v.root), tmp, "/data"); err != nil {
			return "", hideRoots(err, v.root, tmp)
		}
	} else if err := os.Mkdir(fresh, 0o755); err != nil {
		return "", err
	}
	// For people, who cannot tell caches by their directories' names.
	if err := os.WriteFile(filepath.Join(dir, cacheIDName), []byte(m.CacheOpt.ID), 0o600); err != nil {
		return "", err
	}
	// Another process may have made it meanwhile, and use it already.
	err = unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, data, unix.RENAME_NOREPLACE)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return "", fmt.Errorf("making a cache: %w", err)
	}
	return data, nil
}

// makeCache makes a cache's directory, if it is not there.
func makeCache(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	if errors.Is(err, unix.ENOTDIR) { // nothing that can be a cache has its name
		if err2 := os.Remove(dir); err2 == nil {
			err = os.MkdirAll(dir, 0o700)
		}
	}
	return err
}

// lockCache takes a cache as its sharing says: with others, or alone. The error is
// EWOULDBLOCK if others have it.
func lockCache(dir string, sharing pb.CacheSharingOpt) (func(), error) {
	how := unix.LOCK_EX | unix.LOCK_NB
	if sharing == pb.CacheSharingOpt_SHARED {
		how = unix.LOCK_SH | unix.LOCK_NB
	}
	for {
		if err := makeCache(dir); err != nil {
			return nil, err
		}
		f, err := openLock(filepath.Join(dir, lockName))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed by a prune this moment
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), how); err != nil {
			f.Close()
			return nil, err
		}
		// A prune may have removed it with everything in it between the two calls.
		opened, err := f.Stat()
		named, err2 := os.Stat(f.Name())
		if err == nil && err2 == nil && os.SameFile(opened, named) {
			return func() { f.Close() }, nil
		}
		f.Close()
		if err := errors.Join(err, err2); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}
