//go:build linux

package buildah

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSpread: on ext4 the directory that layers are made in has the attribute T;
// elsewhere, where nobody knows it, the engine opens all the same.
func TestSpread(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			e := open(t, Options{Driver: driver})
			layers := filepath.Join(e.store.GraphRoot(), driver)
			if driver == "vfs" {
				layers = filepath.Join(layers, "dir")
			}
			var fs unix.Statfs_t
			if err := unix.Statfs(layers, &fs); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Open(layers, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
			if ext4 := fs.Type == unix.EXT4_SUPER_MAGIC; ext4 != (err == nil && flags&topOfHierarchy != 0) {
				t.Errorf("ext4 %v: flags %#x, %v", ext4, flags, err)
			}
		})
	}
}
