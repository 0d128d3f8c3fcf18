package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// scarce is how many bytes of disk have to be free for removals to wait.
const scarce = 20 << 30

// Aside is where things go instead of being removed while something is timed.
// ext4 does not take an inode that was freed in the last minutes, and looks at
// all of those again for every file it makes: who builds after a removal of many
// files would pay for it, and who that is would be chance.
type aside struct {
	dir string
	n   int
}

// put moves what is at path away, which must be on the same file system.
func (a *aside) put(path string) error {
	if a.crowded() {
		return os.RemoveAll(path)
	}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return err
	}
	a.n++
	err := os.Rename(path, filepath.Join(a.dir, strconv.Itoa(a.n)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (a *aside) crowded() bool {
	var fs unix.Statfs_t
	return unix.Statfs(filepath.Dir(a.dir), &fs) == nil && fs.Bavail*uint64(fs.Bsize) < scarce
}
