package watch

import (
	"io/fs"
	"syscall"
)

// fileID tells files apart that have had the same name.
type fileID struct{ dev, ino uint64 }

// identify gives a file's identity, and when it last changed in any way, in
// nanoseconds since 1970.
func identify(info fs.FileInfo) (id fileID, ctime int64) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, 0
	}
	return fileID{dev: uint64(st.Dev), ino: st.Ino}, st.Ctim.Nano() //nolint:unconvert // the type differs by architecture
}

// remote names the network file system that a path lies on, if changes that other
// machines make there are not told to this one; else it is empty.
func remote(path string) string {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return ""
	}
	return remoteType(int64(st.Type)) //nolint:unconvert // the type differs by architecture
}

// remoteType knows file systems by the numbers of statfs(2).
func remoteType(magic int64) string {
	switch uint32(magic) {
	case 0x6969:
		return "NFS"
	case 0x517b, 0xff534d42, 0xfe534d42:
		return "SMB"
	case 0x01021997:
		return "9p" // a directory of Windows in WSL, or of a virtual machine's host
	case 0x00c36400:
		return "Ceph"
	case 0x5346414f:
		return "AFS"
	}
	return ""
}
