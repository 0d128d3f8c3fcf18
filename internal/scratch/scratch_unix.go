//go:build unix

package scratch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// lock takes a directory's lock, or fails at once.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// commonName is where a user's directories lie.
func commonName() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("zbuild-%d", user()))
}

// user is the number of the user that this process is outside of its user namespace:
// root in one has nothing to do with root.
func user() int {
	uid := os.Geteuid()
	raw, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return uid
	}
	for line := range strings.Lines(string(raw)) {
		var inside, outside, count int
		if n, err := fmt.Sscan(line, &inside, &outside, &count); err == nil && n == 3 && uid >= inside && uid < inside+count {
			return outside + uid - inside
		}
	}
	return uid
}

// common makes the directory that a user's directories lie in, and says whether that
// is this user's and nobody else's.
func common() (dir string, ours bool, err error) {
	dir = commonName()
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", false, err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", false, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return dir, ok && info.IsDir() && int(st.Uid) == os.Geteuid() && info.Mode().Perm()&0o077 == 0, nil
}
