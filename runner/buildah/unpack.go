//go:build linux

package buildah

// ADD unpacks what is an archive.

import (
	"archive/tar"
	"errors"
	"io"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/moby/go-archive"
	"github.com/moby/go-archive/chrootarchive"
	fscopy "github.com/tonistiigi/fsutil/copy"
	storagearchive "go.podman.io/storage/pkg/archive"

	"github.com/zbuild/zbuild/internal/beneath"
	"github.com/zbuild/zbuild/internal/source"
)

// unpack extracts what ADD takes for an archive, and says whether it was one.
func unpack(tree source.Tree, src, destRoot, dest string, owner *fscopy.User) (bool, error) {
	opened, err := tree.Open(src)
	if errors.Is(err, beneath.ErrNotRegular) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	file := opened.OS()
	defer file.Close()
	if !isArchive(file) {
		return false, nil
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	target, err := rootfs.RootPath(destRoot, dest)
	if err != nil {
		return false, err
	}
	if _, err := fscopy.MkdirAll(target, 0o755, chowner(owner), nil); err != nil {
		return false, hideRoots(err, destRoot)
	}
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

// isArchive reports whether what is read begins as a tar archive, compressed or
// not.
func isArchive(in io.Reader) bool {
	r, err := storagearchive.DecompressStream(in) // which needs no programs, not for xz either
	if err != nil {
		return false
	}
	defer r.Close()
	_, err = tar.NewReader(r).Next()
	return err == nil
}
