//go:build linux

package buildah

// Who has a cache. The kernel drops the lock of a process that dies, but the container
// that it ran may live on, until somebody clears that away, and goes on writing to the
// cache. So who has taken a cache notes it there; who finds a note of somebody else in
// a cache that nobody has clears away what that one has left before using it.

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userPrefix begins the names of the links in a cache's directory that lead to the
// directories of the processes that have it.
const userPrefix = "user-"

// enterCache notes in a cache that this process has taken it. Before that it makes sure
// that no container of a dead process uses it; alone says that no living one can.
func (e *Engine) enterCache(ctx context.Context, dir string, alone bool) (leave func(), err error) {
	if err := e.clearUsers(ctx, dir, alone); err != nil {
		return nil, err
	}
	note := filepath.Join(dir, userPrefix+newID()[:16])
	if err := os.Symlink(e.proc.dir, note); err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(note) }, nil
}

// clearUsers clears away what dead processes have left that had a cache.
func (e *Engine) clearUsers(ctx context.Context, dir string, alone bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), userPrefix) {
			continue
		}
		note := filepath.Join(dir, entry.Name())
		user, err := os.Readlink(note)
		if errors.Is(err, fs.ErrNotExist) || user == e.proc.dir {
			continue // it has just left, or is another RUN of ours
		}
		if err != nil { // it is no link, and so no note
			if err := os.RemoveAll(note); err != nil {
				return err
			}
			continue
		}
		dead, err := e.clearProcess(ctx, user, alone)
		if err != nil {
			return err
		}
		if dead {
			_ = os.Remove(note)
		}
	}
	return nil
}

// patienceWithDying is how long a process may take from giving up its first lock to giving
// up the last one, and somebody else to clear away what it has left. Who takes longer lives:
// a note is left of it that could not be removed.
const patienceWithDying = time.Minute

// clearProcess clears away what a process has left, whose own directory is dir, if it is
// dead. With dying it seems to be, or about to be: its locks go one after another, and
// somebody else may be clearing away already.
func (e *Engine) clearProcess(ctx context.Context, dir string, dying bool) (dead bool, err error) {
	patience := time.After(patienceWithDying)
	for {
		lock, err := lockOfAnother(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			return true, nil // somebody has done it
		case err == nil:
			if !e.sweepOne(ctx, dir) {
				return false, errors.Join(context.Cause(ctx), lock.Close())
			}
			return true, lock.Close()
		case !errors.Is(err, unix.EWOULDBLOCK):
			return false, err
		case !dying:
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-patience:
			return false, nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}
