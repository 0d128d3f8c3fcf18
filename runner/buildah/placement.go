//go:build linux

package buildah

// Where ext4 puts the files of a layer. It puts a new directory near the one that
// it is made in, so that all layers begin in the same groups of inodes; and in a
// group it looks at every inode that was freed in the last minutes before it takes
// one, for each file again. After a store, a layer or a cache of many files was
// removed, a RUN that makes as many took twenty times as long as it should, nearly
// all of it in the kernel's search. A directory with the attribute T ("top of a
// hierarchy", chattr(1)) has what is made in it spread over the groups instead,
// which is right for layers: one has nothing to do with the next.

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

const topOfHierarchy = 0x00020000 // FS_TOPDIR_FL of linux/fs.h

// spreadLayers has the file system spread new layers. It is a hint, which other
// file systems than ext4 do not know.
func (e *Engine) spreadLayers() {
	dir := filepath.Join(e.store.GraphRoot(), e.store.GraphDriverName())
	if e.store.GraphDriverName() == "vfs" {
		dir = filepath.Join(dir, "dir")
	}
	if err := markTop(dir); err != nil {
		e.log.Debug("layers are not spread", "directory", dir, "error", err)
	}
}

func markTop(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.EXT4_SUPER_MAGIC {
		return err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&topOfHierarchy != 0 {
		return err
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|topOfHierarchy))
}
