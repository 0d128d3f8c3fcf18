//go:build !windows

package source

import (
	"errors"
	"slices"
	"syscall"

	"github.com/containerd/continuity/sysx"
)

// xattrs lists the extended attributes that are a part of a file's digest, as
// "name=value", sorted, and says whether the file has any at all. If it is a link,
// its own are meant and not those of what it leads to.
func xattrs(path string, link bool) (attrs []string, has bool, err error) {
	list, get := sysx.Listxattr, sysx.Getxattr
	if link {
		list, get = sysx.LListxattr, sysx.LGetxattr
	}
	names, err := list(path)
	if err != nil {
		if errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOENT) {
			return nil, false, nil
		}
		return nil, false, err
	}
	slices.Sort(names)
	for _, n := range names {
		if isIgnoredXattr(n) {
			continue
		}
		v, err := get(path, n)
		if err != nil {
			continue // gone since it was listed, or not ours to read
		}
		attrs = append(attrs, n+"="+string(v))
	}
	return attrs, len(names) > 0, nil
}
