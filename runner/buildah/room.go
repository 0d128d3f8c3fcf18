//go:build linux

package buildah

// What is done for the case that a disk is full.
//
// The first who opens a store after the machine has started has the overlay driver try
// out what the kernel can do, in directories that it makes in the store, and what comes
// of that is written down in the run directory for all others, and in part in the store,
// for ever. On a full disk what cannot be made passes for what the kernel cannot do. Then
// podman is told, too, that there is no overlay here, or only fuse-overlayfs.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

const (
	// roomDirs and roomFiles are more than what the driver makes, with the reserve; roomSize
	// is what one of the files takes at least.
	roomDirs, roomFiles = 112, 16
	roomSize            = 4 << 10 // bytes
)

// roomToTry makes sure that there is room for what the driver will try out, if it will.
// The error says that there is none.
func roomToTry(conf storage.StoreOptions) error {
	if conf.GraphDriverName != "overlay" && conf.GraphDriverName != "" || tried(conf) {
		return nil
	}
	for _, root := range []string{conf.RunRoot, conf.GraphRoot} {
		if err := onlyFull(makeRoom(filepath.Join(root, stateName))); err != nil {
			return err
		}
	}
	return nil
}

// makeRoom makes as much in a directory as the driver will, and removes it again.
func makeRoom(in string) (err error) {
	if err := os.MkdirAll(in, 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(in, newPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for i := range roomDirs {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("d%d", i)), 0o700); err != nil {
			return err
		}
	}
	for i := range roomFiles {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), make([]byte, roomSize), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// tried reports whether the driver knows already what it wants to know, or is told.
func tried(conf storage.StoreOptions) bool {
	if slices.ContainsFunc(conf.GraphDriverOptions, func(o string) bool { return strings.Contains(o, "mount_program") }) {
		return true
	}
	known, _ := os.ReadDir(filepath.Join(conf.RunRoot, "overlay"))
	for _, feature := range []string{"overlay-", "metacopy(", "native-diff("} {
		if !slices.ContainsFunc(known, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), feature) }) {
			return false
		}
	}
	return true
}

// isFull reports whether an error says that a disk is full.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// onlyFull is an error if it says that a disk is full. Of all others the store knows
// better what they mean.
func onlyFull(err error) error {
	if isFull(err) {
		return err
	}
	return nil
}

// Removing a layer takes room, too: the store writes down what it removes, and the driver
// puts it into a directory that it makes for that. So that something can be removed from
// a disk that is full to the last inode there are a few files that are of no other use.
const (
	reserveName  = "reserve"
	reserveFiles = 24
	reserveSize  = 4 << 10 // bytes of each
	// With less a disk is as good as full.
	scarceBytes, scarceInodes = 256 << 10, 64
)

// keepReserve makes the reserve, where there is room for more than that.
func (e *Engine) keepReserve() {
	file := func(i int) string { return filepath.Join(e.StateDir(), reserveName, strconv.Itoa(i)) }
	if _, err := os.Lstat(file(reserveFiles - 1)); err == nil || e.isScarce() {
		return
	}
	err := os.MkdirAll(filepath.Join(e.StateDir(), reserveName), 0o700)
	for i := 0; err == nil && i < reserveFiles; i++ {
		err = os.WriteFile(file(i), make([]byte, reserveSize), 0o600)
	}
	if err != nil {
		e.log.Debug("there is no reserve", "error", err)
	}
}

// isScarce reports whether the store's disk is as good as full.
func (e *Engine) isScarce() bool { return scarceAt(e.store.GraphRoot()) }

// scarceAt reports whether the file system of a directory is as good as full.
func scarceAt(dir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false
	}
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // the types differ by architecture
	return free < scarceBytes || st.Files > 0 && st.Ffree < scarceInodes
}

// orScarce adds to an error that there is no room at a directory, if so. A runtime may
// fail for that and not say it.
func orScarce(err error, dir string) error {
	if err == nil || isFull(err) || !scarceAt(dir) {
		return err
	}
	return fmt.Errorf("%w (and at %s there is %w)", err, dir, unix.ENOSPC)
}

// giveUpReserve makes room. The next start with enough of it makes the reserve again.
func (e *Engine) giveUpReserve() {
	if err := os.RemoveAll(filepath.Join(e.StateDir(), reserveName)); err != nil {
		e.log.Debug("the reserve cannot be given up", "error", err)
	}
}
