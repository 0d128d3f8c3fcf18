//go:build !windows

package source

import (
	"errors"
	"slices"
	"syscall"

	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"
)

// xattrs lists a file's extended attributes as "name=value", sorted.
func xattrs(path string) ([]string, error) {
	names, err := sysx.LListxattr(path)
	if err != nil {
		if errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOENT) {
			return nil, nil
		}
		return nil, err
	}
	slices.Sort(names)
	var out []string
	for _, n := range names {
		if isIgnoredXattr(n) {
			continue
		}
		v, err := sysx.LGetxattr(path, n)
		if err != nil {
			continue // gone since it was listed, or not ours to read
		}
		out = append(out, n+"="+string(v))
	}
	return out, nil
}

// hasXattrs reports whether a file has any extended attribute, counting those that
// xattrs leaves out.
func hasXattrs(path string) (bool, error) {
	n, err := unix.Llistxattr(path, nil)
	if err != nil {
		if errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOENT) {
			return false, nil
		}
		return false, err
	}
	return n > 0, nil
}
