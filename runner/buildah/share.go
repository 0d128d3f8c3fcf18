//go:build linux

package buildah

// What processes that share a store tell one another: which snapshots they use,
// which step they are doing, who prunes. Everything rests on locks that the kernel
// drops when a process dies, and on files in the directory of the process, and
// nothing on clocks.

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

const (
	pruneName  = "prune.lock"  // held by the one who prunes
	leasesName = "leases.lock" // one byte per step that is being done
)

// Use begins a use of snapshots.
func (e *Engine) Use(context.Context) (func(), error) {
	e.kept.begin()
	return func() {
		last, err := e.kept.end()
		if err != nil {
			e.log.Debug("what was kept from prunes cannot be given up", "error", err)
		}
		if !last {
			return
		}
		if err := e.durable.sync(); err != nil {
			e.log.Warn("what was built may not outlast a loss of power", "error", err)
		}
	}, nil
}

// Keep keeps snapshots from being pruned.
func (e *Engine) Keep(snapshots ...runner.Snapshot) {
	if err := e.kept.add(snapshots...); err != nil {
		e.log.Warn("snapshots cannot be kept from prunes", "error", err)
	}
}

// kept is the file that names the snapshots a process uses. Every line is written
// by one call, so that who reads the file reads whole lines.
type kept struct {
	mu    sync.Mutex
	uses  int
	file  *os.File
	names map[runner.Snapshot]bool
}

func (k *kept) begin() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uses++
}

// end forgets everything when nobody uses anything any more, which last says.
func (k *kept) end() (last bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.uses--; k.uses > 0 || k.file == nil {
		return false, nil
	}
	clear(k.names)
	return true, k.file.Truncate(0)
}

func (k *kept) add(snapshots ...runner.Snapshot) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.uses == 0 {
		return nil
	}
	var lines []byte
	for _, s := range snapshots {
		if s != "" && !k.names[s] {
			lines = append(append(lines, s...), '\n')
		}
	}
	if len(lines) == 0 {
		return nil
	}
	if n, err := k.file.Write(lines); err != nil {
		if n > 0 { // half a line would spoil the next one
			err = errors.Join(err, k.cut(int64(n)))
		}
		return err
	}
	for _, s := range snapshots {
		k.names[s] = true
	}
	return nil
}

// cut takes bytes off the end of the file.
func (k *kept) cut(n int64) error {
	info, err := k.file.Stat()
	if err != nil {
		return err
	}
	return k.file.Truncate(info.Size() - n)
}

// Kept lists what processes use: what they have named, and what they are making.
func (e *Engine) Kept(context.Context) (map[runner.Snapshot]bool, error) {
	all := make(map[runner.Snapshot]bool)
	// What is being made is named before it is not being made any more.
	for id := range e.journalled() {
		all[runner.Snapshot(id)] = true
	}
	files, err := filepath.Glob(filepath.Join(e.processDir(), "*", keptName))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its process has ended
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(raw)) {
			all[runner.Snapshot(strings.TrimSuffix(line, "\n"))] = true
		}
	}
	return all, nil
}

// Exclusive takes the lock of those who prune.
func (e *Engine) Exclusive() (func(), bool, error) {
	if err := os.MkdirAll(e.StateDir(), 0o700); err != nil {
		return nil, false, err
	}
	if e.isScarce() { // which is to change
		e.giveUpReserve()
	}
	f, err := openLock(filepath.Join(e.StateDir(), pruneName))
	if err != nil {
		return nil, false, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = nil
		}
		return nil, false, err
	}
	return func() { f.Close() }, true, nil
}

// Lease takes one byte of a lock file, which stands for a key. So there is one file
// for all keys, that does not grow; and the kernel gives the byte back when the
// process dies. Two keys that share a byte wait for one another, and no more.
func (e *Engine) Lease(key digest.Digest) (func(), bool) {
	f, err := e.openLeases()
	if err != nil {
		// Whoever cannot write here cannot leave a result for others, either.
		e.log.Debug("no lease can be taken", "error", err)
		return func() {}, true
	}
	sum := sha256.Sum256([]byte(key))
	lock := unix.Flock_t{
		Type: unix.F_WRLCK, Whence: io.SeekStart,
		Start: int64(binary.BigEndian.Uint64(sum[:8]) >> 2), Len: 1,
	}
	// Of an open file, and not of the process: another run in this process is
	// another user.
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock)
	if err == nil {
		return func() { f.Close() }, true
	}
	f.Close()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, false
	}
	e.log.Debug("no lease can be taken", "error", err)
	return func() {}, true
}

func (e *Engine) openLeases() (*os.File, error) {
	if err := os.MkdirAll(e.StateDir(), 0o700); err != nil {
		return nil, err
	}
	return openLock(filepath.Join(e.StateDir(), leasesName))
}

// vanished marks an error that says that something was not there which was there a
// moment ago: another program has removed it.
func vanished(err error) error {
	for _, gone := range []error{
		fs.ErrNotExist, storage.ErrLayerUnknown, storage.ErrImageUnknown, storage.ErrParentUnknown, storage.ErrNotALayer, storage.ErrNotAnImage,
	} {
		if errors.Is(err, gone) {
			return fmt.Errorf("%w: %w", runner.ErrVanished, err)
		}
	}
	return err
}
