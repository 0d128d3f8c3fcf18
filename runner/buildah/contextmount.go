//go:build linux

package buildah

// RUN --mount of a build context. The process sees a copy of what is selected: what the
// step is keyed by, as root's, without what is ignored; it cannot reach the host's
// files. The copy is a snapshot of its own, which every RUN that mounts the same uses,
// also in later builds. One that differs from it in a few files is made of it, as with
// COPY. What cannot be shared is copied for the one RUN.

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	fscopy "github.com/tonistiigi/fsutil/copy"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/runner"
)

// mountedName is where in such a snapshot the match is.
const mountedName = "mount"

// errInexact says that a copy is not what was listed.
var errInexact = errors.New("files changed while they were copied")

// localMount gives the place of a copy of what is selected of a build context.
func (x *execJob) localMount(ctx context.Context, m *pb.Mount, in runner.Input) (string, error) {
	tree := source.Tree{Dir: in.Local.Dir, Exclude: in.Local.Exclude}
	list := x.job.List
	if list == nil {
		list = (&source.Hasher{}).List
	}
	files, err := list(ctx, tree, source.Selection{Path: m.Selector, FollowLinks: true})
	if err != nil {
		return "", err
	}
	if x.job.Share != nil && x.e.native {
		s, err := x.job.Share(ctx, mountKey(files), "context mounted into RUN", func() (runner.Snapshot, error) {
			return x.e.mountSnapshot(ctx, tree, files)
		})
		if err == nil {
			x.mounted = files
			return x.snapshotMount(m, s)
		}
		if !errors.Is(err, errInexact) && !source.Moved(err) {
			return "", hideRoots(err, tree.Dir)
		}
	}
	return x.privateMount(ctx, tree, &files.Matches[0])
}

// snapshotMount gives the place of a match in a snapshot that has nothing else.
func (x *execJob) snapshotMount(m *pb.Mount, s runner.Snapshot) (string, error) {
	if m.Readonly {
		v, err := x.e.view(s)
		if err != nil {
			return "", err
		}
		x.undo = append(x.undo, v.close)
		return filepath.Join(v.root, mountedName), nil
	}
	layer, err := x.e.newLayer(s)
	if err != nil {
		return "", err
	}
	x.undo = append(x.undo, layer.drop)
	return filepath.Join(layer.root, mountedName), nil
}

// mountKey stands for everything that a process sees of a listing, times too.
func mountKey(l *source.Listing) digest.Digest {
	sum := sha256.New()
	m := &l.Matches[0]
	fmt.Fprintf(sum, "mount\x00%s\x00", l.Digest)
	for i := range m.Files {
		f := &m.Files[i]
		fmt.Fprintf(sum, "%s\x00%d\x00%s\x00", f.Name, f.ID.Mtime, f.Twin)
	}
	return digest.NewDigest(digest.SHA256, sum)
}

// mountSnapshot makes a snapshot of a listing. If it cannot be exactly that, the error
// is errInexact.
func (e *Engine) mountSnapshot(ctx context.Context, tree source.Tree, list *source.Listing) (runner.Snapshot, error) {
	layer, err := e.newLayer("")
	if err != nil {
		return "", err
	}
	defer layer.drop()
	dir, err := e.upperDir(layer.id)
	if err != nil {
		return "", err
	}
	m := &list.Matches[0]
	id := digest.FromString("mount\x00" + tree.Dir + "\x00" + m.Path + "\x00" + strings.Join(tree.Exclude, "\n")).Encoded()
	fill := &filling{e: e, list: list, match: m, dir: dir, dest: mountedName, note: filepath.Join(e.StateDir(), copiesName, id[:2], id)}
	fill.recall()
	s, err := layer.freezeAfter(func() error {
		top := filepath.Join(fill.dir, fill.dest)
		taking, err := newIntake(m, top, &fill.owner)
		if err != nil {
			return err
		}
		defer taking.close()
		taking.linker = fill.linker
		if err := taking.all(ctx); err != nil {
			return hideRoots(err, tree.Dir, fill.dir)
		}
		if taking.changed.Load() {
			return errInexact
		}
		return finishMount(tree, m, top)
	})
	if err == nil {
		fill.remember(s)
	}
	return s, err
}

// privateMount copies a match for one process, which may write to it.
func (x *execJob) privateMount(ctx context.Context, tree source.Tree, match *source.Match) (string, error) {
	layer, err := x.e.newLayer("")
	if err != nil {
		return "", err
	}
	x.undo = append(x.undo, layer.drop)
	mount := filepath.Join(layer.root, mountedName)
	taking, err := newIntake(match, mount, &fscopy.User{})
	if err != nil {
		return "", err
	}
	defer taking.close()
	if err := taking.all(ctx); err != nil {
		if source.Moved(err) {
			if changed := settled(ctx, x.job, nil); changed != nil {
				return "", changed
			}
		}
		return "", hideRoots(err, tree.Dir, layer.root)
	}
	return mount, finishMount(tree, match, mount)
}

// finishMount gives the directories of a copy that are not selected themselves the
// times that they shall have.
func finishMount(tree source.Tree, match *source.Match, mount string) error {
	implied, err := tree.Implied(match.Path)
	if err == nil {
		err = timesOfImplied(tree, match.Path, mount, implied)
	}
	if err == nil && isRootDir(match.Path) { // of which nothing is known
		now := time.Now()
		err = errors.Join(os.Chmod(mount, contextMode), os.Chtimes(mount, now, now))
	}
	return err
}
