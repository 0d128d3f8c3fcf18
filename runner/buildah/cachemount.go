//go:build linux

package buildah

// Cache mounts are directories that outlive builds. They lie beside the store's
// layers, so that several processes share them; who may use one at the same time
// is the Dockerfile reference's "sharing".

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

// cacheLocks keeps two goroutines from making the same cache directory at once.
// Between processes and between RUNs the directories' lock files do it.
type cacheLocks struct{ make sync.Mutex }

func (x *execJob) cacheMount(ctx context.Context, m *pb.Mount) (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q", m.CacheOpt.ID)
	var from runner.Input
	if m.Input >= 0 {
		from = x.job.Inputs[m.Input]
		in := x.job.Step.Inputs[m.Input]
		fmt.Fprintf(sum, "%q%d%q", in.Step.ID, in.Index, m.Selector)
	}
	name := hex.EncodeToString(sum.Sum(nil))[:32]
	for n := 0; ; n++ {
		dir := filepath.Join(x.e.StateDir(), cachesName, name)
		if n > 0 {
			dir = fmt.Sprintf("%s-%d", dir, n)
		}
		unlock, err := lockCache(ctx, dir, m.CacheOpt.Sharing)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // private, and in use: the next one
		}
		if err != nil {
			return "", err
		}
		x.undo = append(x.undo, unlock)
		touch(filepath.Join(dir, lockName))
		return x.fillCache(ctx, dir, m, from)
	}
}

// fillCache makes the cache's directory if this is its first use.
func (x *execJob) fillCache(ctx context.Context, dir string, m *pb.Mount, from runner.Input) (string, error) {
	x.e.locks.make.Lock()
	defer x.e.locks.make.Unlock()
	data := filepath.Join(dir, cacheDataName)
	if _, err := os.Lstat(data); err == nil {
		return data, nil
	}
	tmp, err := os.MkdirTemp(dir, "new-")
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
		// The directory itself is copied, for its owner and mode are what the mount
		// asks for, and not only what is in it.
		if err := fscopy.Copy(ctx, v.root, filepath.Join("/", m.Selector), tmp, "/data"); err != nil {
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

// lockCache takes a cache as its sharing says: with others, alone after waiting
// for them, or alone at once (the error is then EWOULDBLOCK if others have it).
func lockCache(ctx context.Context, dir string, sharing pb.CacheSharingOpt) (func(), error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX | unix.LOCK_NB
	if sharing == pb.CacheSharingOpt_SHARED {
		how = unix.LOCK_SH | unix.LOCK_NB
	}
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || sharing == pb.CacheSharingOpt_PRIVATE {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
