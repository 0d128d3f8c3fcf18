//go:build linux

package buildah

// Copying a directory of a stage or image to where nothing of it is yet: node_modules,
// a tool chain, what a build has installed. Nobody ever writes to either layer, so the
// files can be linked from the one into the other, unless that would be seen: a file
// that has two names in one tree is a hard link to tar, to cp -a, and to whoever
// writes to it.

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/solver/pb"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/runner"
)

// graft is a copy into a layer's own directory.
type graft struct {
	match *source.Match                 // in a view that is open as long as the operation lasts
	owner *fscopy.User                  // nil if every file keeps its own
	mode  func(fs.FileMode) fs.FileMode // likewise
	dir   string                        // the layer's own directory
	dest  string                        // in that; it exists
	there occupied
	from  []string // where the match is in layers that files can be linked from, the topmost first
}

// grafted copies a match by a graft. It does nothing if that cannot be.
func (f *fileJob) grafted(layer *stepLayer, a *pb.FileActionCopy, tree source.Tree, match string, owner *fscopy.User, from *fileRef) (bool, error) {
	if len(a.IncludePatterns)+len(a.ExcludePatterns) > 0 {
		return false, nil
	}
	change, err := modeChange(a)
	if err != nil {
		return false, err
	}
	dest, err := rootfs.RootPath(layer.root, filepath.Clean(a.Dest))
	if err != nil {
		return false, err
	}
	m, err := tree.Walk(f.ctx, match, a.FollowSymlink)
	if err != nil {
		return false, hideRoots(err, tree.Dir)
	}
	if !ordinary(m) {
		return false, nil
	}
	there, ok := room(m, dest)
	if !ok {
		return false, nil
	}
	top, err := f.e.takeIn(f.ctx, m, nil, true)
	if err != nil {
		return false, err
	}
	defer top.close()
	if err := fscopy.Copy(f.ctx, top.dir, m.Path, layer.root, cleanPath(a.Dest), copyOptions(a, nil, owner)); err != nil {
		return false, hideRoots(err, top.dir, layer.root)
	}
	g, err := f.newGraft(layer, tree, m, dest, owner, from)
	if g == nil {
		return false, err
	}
	if err := liftDirs(dest, there.dirs); err != nil {
		return false, hideRoots(err, layer.root)
	}
	if len(there.files) > 0 {
		f.spoil(layer)
	}
	g.mode, g.there = change, there
	return true, hideRoots(layer.aside(func() error { return g.do(f.ctx) }), tree.Dir, g.dir)
}

// newGraft gives the graft of which the directory is there already; nil if that is not
// in this layer.
func (f *fileJob) newGraft(layer *stepLayer, tree source.Tree, m *source.Match, dest string, owner *fscopy.User, from *fileRef) (*graft, error) {
	s, err := f.snapshot(from)
	if err != nil {
		return nil, err
	}
	lowers, err := f.e.lowerDirs(layer.id)
	if err != nil || len(lowers) == 0 {
		return nil, err
	}
	rel := strings.TrimPrefix(dest, layer.root)
	if info, err := os.Lstat(filepath.Join(lowers[0], rel)); err != nil || !info.IsDir() {
		return nil, nil //nolint:nilerr // it is not in this layer
	}
	g := &graft{match: m, owner: owner, dir: lowers[0], dest: rel}
	if len(lowers) == 1 || f.unpacks {
		return g, nil // COPY --link may put it on any other tree, and links its files there
	}
	lenders, err := f.e.lenders(s, lowers)
	if err != nil {
		return nil, err
	}
	below := strings.TrimPrefix(m.Root, tree.Dir)
	for _, l := range lenders {
		if info, err := os.Lstat(filepath.Join(l, below)); err == nil && info.IsDir() {
			g.from = append(g.from, filepath.Join(l, below))
		}
	}
	return g, nil
}

// lenders are the layers of a tree, the topmost first, whose files may be linked into
// another tree. What else links files of a layer puts them at the same path, where one
// hides the other; a graft does not. So it keeps away from layers that lie in both trees,
// from those that lie on nothing, which COPY --link puts on others, and from those that
// the next copy of the same context takes files over from.
func (e *Engine) lenders(s runner.Snapshot, others []string) (dirs []string, err error) {
	all, err := e.lowerDirs(string(s))
	if err != nil {
		return nil, err
	}
	chain, err := e.chain(s)
	if err != nil || len(chain) != len(all) {
		return nil, err
	}
	for i, dir := range all {
		l, err := e.store.Layer(string(chain[len(chain)-1-i]))
		if err != nil {
			return nil, err
		}
		if of, _ := l.Flags[contextFlag].(bool); !of && l.Parent != "" && !slices.Contains(others, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// do puts everything into the layer's directory, which is not mounted.
func (g *graft) do(ctx context.Context) error {
	top := filepath.Join(g.dir, g.dest)
	var was unix.Stat_t
	if err := unix.Lstat(top, &was); err != nil {
		return err
	}
	in, err := newIntake(g.match, top, g.owner)
	if err != nil {
		return err
	}
	defer in.close()
	in.frozen, in.mode, in.linker, in.there = true, g.mode, g.linker, g.there
	if err := in.contents(ctx); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, top, []unix.Timespec{was.Atim, was.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// linker gives a function that makes a file by linking it from the layer that it is in.
func (g *graft) linker() (link func(*source.File) bool, end func()) {
	pairs := make([]*dirPair, len(g.from))
	for i, place := range g.from {
		pairs[i] = newDirPair(place, filepath.Join(g.dir, g.dest))
	}
	link = func(f *source.File) bool {
		for i, p := range pairs {
			base, err := p.enter(f.Name)
			if err != nil {
				continue // the layer does not have the directory
			}
			var st unix.Stat_t
			if err := unix.Fstatat(p.from, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				continue
			}
			// What is shown is in the topmost layer that has it.
			return g.linkable(f, &st) && bare(filepath.Join(g.from[i], f.Name)) && linkOnce(p, base)
		}
		return false
	}
	return link, func() {
		for _, p := range pairs {
			p.leave()
		}
	}
}

// linkable reports whether a layer's file is the one that the view shows, has no other
// name anywhere, and the owner that it shall have.
func (g *graft) linkable(f *source.File, st *unix.Stat_t) bool {
	in := intake{owner: g.owner, mode: g.mode}
	owner := in.ownerOf(f)
	return st.Mode == unix.S_IFREG|in.modeOf(f) && st.Ino == f.ID.Ino && st.Size == f.Size && st.Mtim.Nano() == f.ID.Mtime &&
		st.Nlink == 1 && int(st.Uid) == owner.UID && int(st.Gid) == owner.GID
}

// bare reports whether a file has none of the overlay's own attributes, which would
// mean something else in another layer, or say that its content is elsewhere.
func bare(path string) bool {
	size, err := unix.Llistxattr(path, nil)
	if size == 0 || errors.Is(err, unix.ENOTSUP) {
		return true
	}
	if err != nil {
		return false
	}
	names := make([]byte, size)
	size, err = unix.Llistxattr(path, names)
	return err == nil && !strings.Contains(string(names[:size]), ".overlay.")
}

// linkOnce links a file that had one name. If somebody else did so at the same time,
// it has more than two now, and nobody knows which trees they are in: then it is copied
// after all.
func linkOnce(p *dirPair, base string) bool {
	if err := p.link(base); err != nil {
		return false
	}
	var st unix.Stat_t
	if err := unix.Fstatat(p.to, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Nlink == 2 {
		return true
	}
	_ = unix.Unlinkat(p.to, base, 0) // if that fails the copy does, too
	return false
}
