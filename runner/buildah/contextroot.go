//go:build linux

package buildah

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/solver/pb"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/beneath"
	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/runner"
)

// contextMode is the mode of a context's root directory. What that directory's own
// is on this machine is nobody's business.
const contextMode = 0o755

func isRootDir(p string) bool { return path.Clean("/"+p) == "/" }

// afterContextRoot is to be called when a context's root directory, dir, has been
// copied to dest. BuildKit gets no metadata of that directory, so what it makes of it
// has the time of the build.
func afterContextRoot(dir, root, dest string, a *pb.FileActionCopy) error {
	if a.Timestamp != -1 {
		return nil
	}
	target, err := rootfs.RootPath(root, dest)
	if err != nil {
		return err
	}
	made, err := os.Lstat(target)
	if err != nil || !made.IsDir() {
		return nil //nolint:nilerr // nothing was selected, so nothing was made
	}
	own, err := os.Lstat(dir)
	if err != nil || !made.ModTime().Equal(own.ModTime()) {
		return err
	}
	now := time.Now()
	return fscopy.Utimes(target, &now)
}

// copyTarget is where a directory is copied to, on the host; empty for what is none.
// It has to be asked before the copy is made.
func copyTarget(dir, p, root, dest string, a *pb.FileActionCopy) (string, error) {
	from, err := rootfs.RootPath(dir, p)
	if err != nil {
		return "", err
	}
	if info, err := os.Lstat(from); err != nil || !info.IsDir() {
		return "", nil //nolint:nilerr // the copy says so
	}
	to, err := rootfs.RootPath(root, dest)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(to); err == nil && !a.DirCopyContents {
		to = filepath.Join(to, path.Base(p))
	}
	return to, nil
}

// timesOfImplied gives directories that are ignored, but for something in them, the
// times that they have in the context: for BuildKit they are a part of it like others.
// Copying makes them for what is in them, and that changes their times.
func timesOfImplied(tree source.Tree, p, target string, dirs []string) error {
	if len(dirs) == 0 || target == "" {
		return nil
	}
	from, err := rootfs.RootPath(tree.Dir, p)
	if err != nil {
		return err
	}
	made, err := beneath.Open(target)
	if err != nil {
		return nil // nothing was selected, so nothing was made
	}
	defer made.Close()
	for _, d := range dirs {
		info, err := os.Lstat(filepath.Join(from, d))
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing in it was taken
		}
		if err != nil {
			return err
		}
		there, err := made.Handle(d)
		if err != nil {
			continue // nothing in it was copied
		}
		at := info.ModTime()
		if st, err2 := there.Stat(); err2 == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = os.Chtimes(there.Through()+"/.", at, at)
		}
		if err = errors.Join(err, there.Close()); err != nil {
			return err
		}
	}
	return nil
}

// absoluteMounts are the mounts of a RUN, with relative targets below its working
// directory.
func absoluteMounts(op *pb.ExecOp) []*pb.Mount {
	out := make([]*pb.Mount, len(op.Mounts))
	for i, m := range op.Mounts {
		if out[i] = m; !path.IsAbs(m.Dest) {
			out[i] = m.CloneVT()
			out[i].Dest = path.Join("/", op.Meta.Cwd, m.Dest)
		}
	}
	return out
}

// settled makes sure that what was copied of build contexts is what they are, or
// what a listing says, if it is exactly that.
func settled(ctx context.Context, job runner.Job, exactly *source.Listing) error {
	local := func(in runner.Input) bool { return in.Local != nil }
	if job.Settled == nil || !slices.ContainsFunc(job.Inputs, local) {
		return nil
	}
	return job.Settled(ctx, exactly)
}
