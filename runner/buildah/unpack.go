//go:build linux

package buildah

// ADD unpacks what is an archive.

import (
	"archive/tar"
	"os"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/moby/go-archive"
	"github.com/moby/go-archive/chrootarchive"
	fscopy "github.com/tonistiigi/fsutil/copy"
	storagearchive "go.podman.io/storage/pkg/archive"
)

// unpack extracts what ADD takes for an archive, and says whether it was one.
func unpack(srcRoot, src, destRoot, dest string, owner *fscopy.User) (bool, error) {
	p, err := rootfs.RootPath(srcRoot, src)
	if err != nil {
		return false, err
	}
	if !isArchive(p) {
		return false, nil
	}
	target, err := rootfs.RootPath(destRoot, dest)
	if err != nil {
		return false, err
	}
	if _, err := fscopy.MkdirAll(target, 0o755, chowner(owner), nil); err != nil {
		return false, hideRoots(err, destRoot)
	}
	file, err := os.Open(p)
	if err != nil {
		return false, err
	}
	defer file.Close()
	opt := &archive.TarOptions{BestEffortXattrs: true}
	if owner != nil {
		opt.ChownOpts = &archive.ChownOpts{UID: owner.UID, GID: owner.GID}
	}
	// The archive is somebody else's: it is extracted with the target as the root
	// directory, which no link in it can leave.
	plain, err := storagearchive.DecompressStream(file)
	if err != nil {
		return false, err
	}
	defer plain.Close()
	return true, hideRoots(chrootarchive.UntarUncompressed(plain, target, opt), destRoot)
}

// isArchive reports whether a regular file begins as a tar archive, compressed or
// not.
func isArchive(p string) bool {
	info, err := os.Stat(p)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(p)
	if err != nil {
		return false
	}
	defer f.Close()
	r, err := storagearchive.DecompressStream(f) // which needs no programs, not for xz either
	if err != nil {
		return false
	}
	defer r.Close()
	_, err = tar.NewReader(r).Next()
	return err == nil
}
