//go:build unix && !linux

package source

import (
	"io/fs"
	"math"
	"syscall"
)

func fillInode(f *File, info fs.FileInfo) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	f.UID, f.GID, f.Device = st.Uid, st.Gid, uint64(st.Rdev)                                                    //nolint:unconvert // the types differ by system
	f.ID.Dev, f.ID.Ino, f.nlink = uint64(st.Dev), uint64(st.Ino), uint32(min(uint64(st.Nlink), math.MaxUint32)) //nolint:unconvert // bounded; the types differ by system
}
