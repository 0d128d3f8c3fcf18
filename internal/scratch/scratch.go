// Package scratch makes directories for what is of use for a moment and lies in no
// store: sockets, whose paths must be short, and what is fetched to be read once. A
// directory is locked by the process that made it. The kernel drops the lock when
// that dies, however it dies, and whoever sweeps then finds the directory.
package scratch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	newPrefix = "new-" // of what is not locked yet
	// unborn is how old a directory is that nobody will come to locking.
	unborn = time.Hour
)

// New makes a directory in the system's directory for temporary files; kind begins
// its name. It is there until remove is called.
func New(kind string) (dir string, remove func() error, err error) {
	for range 10 {
		if dir, remove, err = make1(kind); !errors.Is(err, fs.ErrNotExist) {
			break // otherwise somebody has removed the common directory, which was empty
		}
	}
	return dir, remove, err
}

func make1(kind string) (dir string, remove func() error, err error) {
	parent, ours, err := common()
	if err != nil {
		return "", nil, err
	}
	if !ours {
		// Somebody else has taken the name. Then nobody sweeps.
		dir, err = os.MkdirTemp("", "zbuild-"+kind+"-")
		return dir, func() error { return os.RemoveAll(dir) }, err
	}
	made, err := os.MkdirTemp(parent, newPrefix)
	if err != nil {
		return "", nil, err
	}
	unlock, err := lock(made)
	if err == nil {
		dir = filepath.Join(parent, kind+"-"+strings.TrimPrefix(filepath.Base(made), newPrefix))
		err = os.Rename(made, dir)
	}
	if err != nil {
		if unlock != nil {
			unlock()
		}
		return "", nil, errors.Join(err, os.RemoveAll(made))
	}
	return dir, func() error {
		defer unlock()
		err := os.RemoveAll(dir)
		_ = os.Remove(parent) // if it is empty
		return err
	}, nil
}

// Sweep removes the directories of this user's that processes have died over.
func Sweep() error {
	parent := commonName()
	if _, err := os.Lstat(parent); err != nil {
		return nil //nolint:nilerr // nobody has any
	}
	if _, ours, err := common(); err != nil || !ours {
		return err
	}
	entries, err := os.ReadDir(parent)
	errs := []error{err}
	for _, e := range entries {
		dir := filepath.Join(parent, e.Name())
		if strings.HasPrefix(e.Name(), newPrefix) {
			// One of the future was made before the clock was set back.
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()).Abs() > unborn {
				errs = append(errs, os.RemoveAll(dir))
			}
			continue
		}
		unlock, err := lock(dir)
		if err != nil {
			continue // its process lives
		}
		errs = append(errs, os.RemoveAll(dir))
		unlock()
	}
	_ = os.Remove(parent) // if it is empty
	return errors.Join(errs...)
}
