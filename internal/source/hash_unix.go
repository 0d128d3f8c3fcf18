//go:build unix

package source

import (
	"fmt"
	"io/fs"
	"syscall"
)

type fileID struct{ dev, ino uint64 }

// hardLinked identifies a file that has more than one name.
func hardLinked(info fs.FileInfo) (fileID, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Nlink < 2 {
		return fileID{}, false
	}
	return fileID{dev: uint64(st.Dev), ino: uint64(st.Ino)}, true //nolint:unconvert // the type differs by system
}

// ownership says who owns a file and, of a device, which it is.
func ownership(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d:%d:%d", st.Uid, st.Gid, st.Rdev)
}
