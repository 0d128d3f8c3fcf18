package pack

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// createUnnamed makes a file in a directory that has no name there, so that nothing
// is left of it when the process dies. link gives it one that nothing has. Not every
// file system has such files.
func createUnnamed(dir string) (f *os.File, link func(name string) error, err error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, nil, err
	}
	f = os.NewFile(uintptr(fd), dir)
	return f, func(name string) error {
		return unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
	}, nil
}
