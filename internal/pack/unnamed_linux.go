package pack

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// createUnnamed makes a file in a directory that has no name there, so that nothing
// is left of it when the process dies. named gives it one. Not every file system has
// such files.
func createUnnamed(dir, prefix string) (f *os.File, named func() (string, error), err error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, nil, err
	}
	f = os.NewFile(uintptr(fd), dir)
	return f, func() (string, error) {
		name := filepath.Join(dir, prefix+rand.Text())
		return name, unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
	}, nil
}
