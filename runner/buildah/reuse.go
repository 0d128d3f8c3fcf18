//go:build linux

package buildah

// Copying a directory of a build context to where nothing of it is yet. What that
// makes is known without looking at the tree below: so the files are put into the
// layer's own directory, on all cores and past the overlay. Files that an earlier
// result of the same copy has are not copied but linked. Neither layer is ever
// written to again: a RUN that changes such a file gets a copy of its own from the
// overlay.

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/sealed"
	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/runner"
)

// filling is a copy that waits for its layer to be unmounted.
type filling struct {
	e     *Engine
	list  *source.Listing
	match *source.Match // the only one of it
	owner fscopy.User
	dir   string   // the layer's own directory
	dest  string   // in that; it exists
	there []string // directories of the match that exist in that
	note  string   // file about the result
	had   map[string][32]byte
	from  string // where the earlier result has its files, if there is one
}

// copied is what is remembered of a copy's result.
type copied struct {
	Snapshot runner.Snapshot `json:"snapshot"`
	Dest     string          `json:"dest"`    // in the snapshot's layer
	Names    []byte          `json:"names"`   // of its files, each with a 0 at its end
	Digests  []byte          `json:"digests"` // of their contents, parallel to Names
}

// copiesName is the directory of notes about copies, below the state directory.
const copiesName = "copies"

// fillable says whether a copy of a match of a build context can be done into the
// layer's own directory, or has to be done file by file, with an eye on what is
// there.
func (f *fileJob) fillable(layer *stepLayer, a *pb.FileActionCopy, m *source.Match) (there []string, ok bool) {
	if !f.single || f.list == nil || !unaltered(a) || !f.e.native || !plain(m) {
		return nil, false
	}
	dest, err := rootfs.RootPath(layer.root, filepath.Clean(a.Dest))
	if err != nil {
		return nil, false
	}
	return room(m, dest)
}

// filling gives the filling that does the rest of a copy of which only the directory
// itself was made; nil if that is not in this layer.
func (f *fileJob) filling(layer *stepLayer, a *pb.FileActionCopy, tree source.Tree, list *source.Listing, owner *fscopy.User, there []string) (*filling, error) {
	m := &list.Matches[0]
	lowers, err := f.e.lowerDirs(layer.id)
	if err != nil || len(lowers) == 0 {
		return nil, err
	}
	dest, err := rootfs.RootPath(layer.root, filepath.Clean(a.Dest))
	if err != nil {
		return nil, err
	}
	rel := strings.TrimPrefix(dest, layer.root)
	if info, err := os.Lstat(filepath.Join(lowers[0], rel)); err != nil || !info.IsDir() {
		return nil, nil //nolint:nilerr // it is not in this layer
	}
	if err := liftDirs(dest, there); err != nil {
		return nil, hideRoots(err, layer.root)
	}
	what, err := a.MarshalVT()
	if err != nil {
		return nil, err
	}
	id := digest.FromString(tree.Dir + "\x00" + m.Path + "\x00" + strings.Join(tree.Exclude, "\n") + "\x00" + string(what)).Encoded()
	fill := &filling{e: f.e, list: list, match: m, owner: *owner, dir: lowers[0], dest: rel, there: there, note: filepath.Join(f.e.StateDir(), copiesName, id[:2], id)}
	fill.recall()
	return fill, nil
}

// plain reports whether a match is a directory of nothing but files that have one
// name, links and directories, all of them selected: those that are there for what is
// in them have the time of the build.
func plain(m *source.Match) bool {
	if !m.Files[0].Mode.IsDir() {
		return false
	}
	for i := range m.Files {
		f := &m.Files[i]
		if f.Twin != "" || f.Implied || f.Mode&fs.ModeType&^(fs.ModeDir|fs.ModeSymlink) != 0 {
			return false
		}
	}
	return true
}

// room looks whether a match can be put into dest without an eye on what lies there: at
// the most, files take the place of files, and directories that of directories. Those
// are in there.
func room(m *source.Match, dest string) (there []string, ok bool) {
	info, err := os.Lstat(dest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true
	}
	if err != nil || !info.IsDir() {
		return nil, false
	}
	known := map[string]bool{".": true}
	for i := range m.Files[1:] {
		f := &m.Files[1+i]
		if !known[path.Dir(f.Name)] {
			continue // the directory that it is in comes with it
		}
		info, err := os.Lstat(filepath.Join(dest, f.Name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil || info.IsDir() != f.Mode.IsDir():
			return nil, false
		case info.IsDir():
			known[f.Name] = true
			there = append(there, f.Name)
		}
	}
	return there, true
}

// liftDirs brings directories into the layer that is mounted, as they are.
func liftDirs(dest string, names []string) error {
	for _, n := range names {
		p := filepath.Join(dest, n)
		var st unix.Stat_t
		err := unix.Lstat(p, &st)
		if err == nil {
			err = unix.Chmod(p, st.Mode&^unix.S_IFMT) // to what it is
		}
		if err != nil {
			return &fs.PathError{Op: "chmod", Path: p, Err: err}
		}
	}
	return nil
}

// recall finds the earlier result of the same copy. Whatever is wrong with it
// costs time and nothing else.
func (c *filling) recall() {
	var last copied
	if _, err := sealed.Read(c.note, &last); err != nil || !filepath.IsLocal(strings.TrimPrefix(path.Clean("/"+last.Dest), "/")+"/.") {
		return
	}
	l, err := c.e.store.Layer(string(last.Snapshot))
	if err != nil || !isStepLayer(l) {
		return
	}
	lowers, err := c.e.lowerDirs(string(last.Snapshot))
	if err != nil || len(lowers) == 0 {
		return
	}
	names := bytes.Split(bytes.TrimSuffix(last.Names, []byte{0}), []byte{0})
	if len(last.Digests) != 32*len(names) {
		return
	}
	c.from = filepath.Join(lowers[0], path.Clean("/"+last.Dest))
	c.had = make(map[string][32]byte, len(names))
	for i, n := range names {
		c.had[string(n)] = [32]byte(last.Digests[32*i:])
	}
}

// remember notes the result for the next copy.
func (c *filling) remember(s runner.Snapshot) {
	now := copied{Snapshot: s, Dest: c.dest}
	for i := range c.match.Files {
		if f := &c.match.Files[i]; f.Mode.IsRegular() && !f.Attrs {
			now.Names = append(append(now.Names, f.Name...), 0)
			now.Digests = append(now.Digests, f.Digest[:]...)
		}
	}
	if len(now.Names) == 0 {
		return
	}
	if err := sealed.Write(c.note, now); err != nil {
		c.e.log.Debug("a copy cannot be kept in mind", "error", err)
	}
}

// fill puts everything into the layer's directory, which is not mounted. It reports
// whether that is exactly what was listed.
func (c *filling) fill(ctx context.Context) (exact bool, err error) {
	top := filepath.Join(c.dir, c.dest)
	var was unix.Stat_t
	if err := unix.Lstat(top, &was); err != nil {
		return false, err
	}
	in, err := newIntake(c.match, top, &c.owner)
	if err != nil {
		return false, err
	}
	defer in.close()
	in.linker, in.there = c.linker, c.there
	if err := in.contents(ctx); err != nil {
		return false, err
	}
	return !in.changed.Load(), unix.UtimesNanoAt(unix.AT_FDCWD, top, []unix.Timespec{was.Atim, was.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// linker gives a function that makes a file by linking what the earlier result has, if
// that is the same in every respect.
func (c *filling) linker() (link func(*source.File) bool, end func()) {
	dirs := newDirPair(c.from, filepath.Join(c.dir, c.dest))
	return func(f *source.File) bool {
		if sum, ok := c.had[f.Name]; !ok || f.Attrs || sum != f.Digest {
			return false
		}
		base, err := dirs.enter(f.Name)
		if err != nil {
			return false
		}
		var st unix.Stat_t
		if err := unix.Fstatat(dirs.from, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode != unix.S_IFREG|unixMode(f.Mode) ||
			st.Size != f.Size || int(st.Uid) != c.owner.UID || int(st.Gid) != c.owner.GID || st.Mtim.Nano() != f.ID.Mtime {
			return false
		}
		return dirs.link(base) == nil // a file can have so many names and no more
	}, dirs.leave
}
