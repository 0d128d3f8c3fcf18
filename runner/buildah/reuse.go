//go:build linux

package buildah

// Copying a directory of a build context straight into a layer's own directory. Files
// that an earlier result of the same copy has are not copied but linked. Neither layer
// is ever written to again: a RUN that changes such a file gets a copy of its own from
// the overlay.

import (
	"bytes"
	"context"
	"crypto/sha256"
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

// filling is a copy into a layer's own directory.
type filling struct {
	e     *Engine
	layer string
	list  *source.Listing
	match *source.Match // the only one of it
	owner fscopy.User
	mode  func(fs.FileMode) fs.FileMode // nil if every file keeps its own
	dir   string                        // the layer's own directory
	dest  string                        // in that; it exists
	there occupied
	note  string            // file about the result
	had   map[string]uint32 // which of the earlier result's digests is that of a file
	sums  []byte            // the digests
	from  string            // where the earlier result has its files, if there is one

	exact  bool // what is there now is what was listed
	spoilt bool // something was done since then to files that may be its own
}

// copied is what is remembered of a copy's result.
type copied struct {
	Snapshot runner.Snapshot `json:"snapshot"`
	Dest     string          `json:"dest"`    // in the snapshot's layer
	Names    []byte          `json:"names"`   // of its files, each with a 0 at its end
	Digests  []byte          `json:"digests"` // of their contents, parallel to Names
}

// contextFlag marks the layers that files of a build context were copied to. Later ones
// may have the same files.
const contextFlag = "zbuild.context"

// copiesName is the directory of notes about copies, below the state directory.
const copiesName = "copies"

// fillable says whether a copy of a match of a build context can be done into the
// layer's own directory, or has to be done file by file, with an eye on what is
// there.
func (f *fileJob) fillable(layer *stepLayer, a *pb.FileActionCopy, m *source.Match) (there occupied, ok bool) {
	if f.list == nil || !unaltered(a) || !f.e.native || !plain(m) {
		return there, false
	}
	dest, err := rootfs.RootPath(layer.root, filepath.Clean(a.Dest))
	if err != nil {
		return there, false
	}
	return room(m, dest)
}

// filling gives the filling that does the rest of a copy of which only the directory
// itself was made; nil if that is not in this layer.
func (f *fileJob) filling(layer *stepLayer, a *pb.FileActionCopy, tree source.Tree, list *source.Listing, owner *fscopy.User, there occupied) (*filling, error) {
	m := &list.Matches[0]
	dir, err := f.e.upperDir(layer.id)
	if err != nil || dir == "" {
		return nil, err
	}
	dest, err := rootfs.RootPath(layer.root, filepath.Clean(a.Dest))
	if err != nil {
		return nil, err
	}
	rel := strings.TrimPrefix(dest, layer.root)
	if info, err := os.Lstat(filepath.Join(dir, rel)); err != nil || !info.IsDir() {
		return nil, nil //nolint:nilerr // it is not in this layer
	}
	if err := liftDirs(dest, there.dirs); err != nil {
		return nil, hideRoots(err, layer.root)
	}
	change, err := modeChange(a)
	if err != nil {
		return nil, err
	}
	what, err := a.MarshalVT()
	if err != nil {
		return nil, err
	}
	id := digest.FromString(tree.Dir + "\x00" + m.Path + "\x00" + strings.Join(tree.Exclude, "\n") + "\x00" + string(what)).Encoded()
	fill := &filling{e: f.e, layer: layer.id, list: list, match: m, owner: *owner, mode: change, dir: dir, dest: rel, there: there, note: filepath.Join(f.e.StateDir(), copiesName, id[:2], id)}
	if !f.unpacks {
		fill.recall()
	}
	return fill, nil
}

// recall finds the earlier result of the same copy. Whatever is wrong with it
// costs time and nothing else.
func (c *filling) recall() {
	var last copied
	// At another path one of the two trees could come to be on the other.
	if _, err := sealed.Read(c.note, &last); err != nil || last.Dest != c.dest {
		return
	}
	l, err := c.e.store.Layer(string(last.Snapshot))
	if err != nil || !isStepLayer(l) {
		return
	}
	dir, err := c.e.upperDir(string(last.Snapshot))
	if err != nil || dir == "" {
		return
	}
	count := bytes.Count(last.Names, []byte{0})
	if len(last.Digests) != sha256.Size*count {
		return
	}
	c.from, c.sums = filepath.Join(dir, c.dest), last.Digests
	c.had = make(map[string]uint32, count)
	for names := string(last.Names); names != ""; {
		var name string
		name, names, _ = strings.Cut(names, "\x00")
		c.had[name] = uint32(len(c.had))
	}
	if len(c.had) != count {
		c.had = nil // two of one name
	}
}

// was is the digest that a file of the earlier result has.
func (c *filling) was(name string) (sum [sha256.Size]byte, ok bool) {
	i, ok := c.had[name]
	if ok {
		sum = [sha256.Size]byte(c.sums[sha256.Size*i:])
	}
	return sum, ok
}

// remember notes the result for the next copy.
func (c *filling) remember(s runner.Snapshot) {
	now := copied{Snapshot: s, Dest: c.dest}
	kept := func(f *source.File) bool { return f.Mode.IsRegular() && !f.Attrs }
	count, size := 0, 0
	for i := range c.match.Files {
		if f := &c.match.Files[i]; kept(f) {
			count, size = count+1, size+len(f.Name)+1
		}
	}
	now.Names, now.Digests = make([]byte, 0, size), make([]byte, 0, sha256.Size*count)
	for i := range c.match.Files {
		if f := &c.match.Files[i]; kept(f) {
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

// fill puts everything into the layer's directory, which is not mounted, and finds out
// whether that is exactly what was listed.
func (c *filling) fill(ctx context.Context) error {
	top := filepath.Join(c.dir, c.dest)
	var was unix.Stat_t
	if err := unix.Lstat(top, &was); err != nil {
		return err
	}
	in, err := newIntake(c.match, top, &c.owner)
	if err != nil {
		return err
	}
	defer in.close()
	in.mode, in.linker, in.there, in.now = c.mode, c.linker, c.there, true
	err = in.contents(ctx)
	c.had, c.sums = nil, nil // the layer may be worked in for long
	if err != nil {
		return err
	}
	c.exact = !in.changed.Load()
	return unix.UtimesNanoAt(unix.AT_FDCWD, top, []unix.Timespec{was.Atim, was.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// fillWith does a filling.
func (f *fileJob) fillWith(layer *stepLayer, fill *filling) error {
	if len(fill.there.files) > 0 {
		f.spoil(layer)
	}
	f.fills = append(f.fills, fill)
	return hideRoots(layer.aside(func() error { return fill.fill(f.ctx) }), fill.match.Dir(), fill.dir)
}

// exactly is the listing that is all that was copied of build contexts, if that is
// known.
func (f *fileJob) exactly() *source.Listing {
	if len(f.fills) == 1 && f.fills[0].exact && !f.others {
		return f.fills[0].list
	}
	return nil
}

// spoil makes sure that nobody takes files over that are not what fillings have made.
func (f *fileJob) spoil(layer *stepLayer) {
	for _, c := range f.fills {
		if c.layer == layer.id {
			c.spoilt = true
		}
	}
}

// spoilAt does so if a copy of a match takes the place of something.
func (f *fileJob) spoilAt(layer *stepLayer, tree source.Tree, match, dest string) {
	if len(f.fills) == 0 {
		return
	}
	from, err := rootfs.RootPath(tree.Dir, match)
	if err == nil {
		var info fs.FileInfo
		if info, err = os.Lstat(from); err == nil && info.IsDir() {
			err = fs.ErrExist
		}
	}
	var to string
	if err == nil {
		to, err = rootfs.RootPath(layer.root, dest)
	}
	if info, err2 := os.Lstat(to); err == nil && err2 == nil && info.IsDir() {
		to = filepath.Join(to, path.Base(match))
	}
	if err == nil {
		if _, err = os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
	f.spoil(layer)
}

// remember notes the fillings of a layer that is frozen now. Where files changed while
// they were copied, the listing does not say what is there.
func (f *fileJob) remember(s runner.Snapshot) {
	for _, c := range f.fills {
		if c.layer == string(s) && c.exact && !c.spoilt {
			c.remember(s)
		}
	}
}

// linker gives a function that makes a file by linking what the earlier result has, if
// that is the same in every respect.
func (c *filling) linker() (link func(*source.File) bool, end func()) {
	dirs := newDirPair(c.from, filepath.Join(c.dir, c.dest))
	bits := (&intake{mode: c.mode}).modeOf
	return func(f *source.File) bool {
		if sum, ok := c.was(f.Name); !ok || f.Attrs || sum != f.Digest {
			return false
		}
		base, err := dirs.enter(f.Name)
		if err != nil {
			return false
		}
		var st unix.Stat_t
		if err := unix.Fstatat(dirs.from, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode != unix.S_IFREG|bits(f) ||
			st.Size != f.Size || int(st.Uid) != c.owner.UID || int(st.Gid) != c.owner.GID || st.Mtim.Nano() != f.ID.Mtime {
			return false
		}
		return dirs.link(base) == nil // a file can have so many names and no more
	}, dirs.leave
}
