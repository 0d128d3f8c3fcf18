//go:build linux

package buildah

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"time"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/solver/pb"
	fscopy "github.com/tonistiigi/fsutil/copy"
)

// contextMode is the mode of a context's root directory. What that directory's own
// is on this machine is nobody's business: a temporary directory that only its
// owner may enter must not make an image that only root can use.
const contextMode = 0o755

func isRootDir(p string) bool { return path.Clean("/"+p) == "/" }

// afterContextRoot is to be called before a context's root directory, dir, is copied
// to dest; what it returns, after that. BuildKit gets no metadata of that directory,
// so what it makes of it is new.
func afterContextRoot(dir, root, dest string, a *pb.FileActionCopy) (func() error, error) {
	target, err := rootfs.RootPath(root, dest)
	if err != nil {
		return nil, err
	}
	_, err = os.Lstat(target)
	isNew := errors.Is(err, fs.ErrNotExist)
	return func() error {
		made, err := os.Lstat(target)
		if err != nil || !made.IsDir() {
			return nil //nolint:nilerr // nothing was selected, so nothing was made
		}
		if isNew && a.ModeStr == "" && a.Mode == -1 {
			if err := os.Chmod(target, contextMode); err != nil {
				return err
			}
		}
		own, err := os.Lstat(dir)
		if err != nil || a.Timestamp != -1 || !made.ModTime().Equal(own.ModTime()) {
			return err
		}
		now := time.Now()
		return fscopy.Utimes(target, &now)
	}, nil
}
