package source

import (
	"io/fs"
	"syscall"
)

// identify says what a file is, as far as the system can tell.
func identify(info fs.FileInfo) (identity, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return identity{}, false
	}
	return identity{
		Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, //nolint:unconvert // the types differ by architecture
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}, true
}
