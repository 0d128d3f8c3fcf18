//go:build linux

package buildah

// Files of a build context are taken in before anything else is done with them: into
// a directory that nobody else can write to. The context is somebody's working
// directory, and what is a directory now may be a link the next moment, or a pipe
// that nobody writes to. So its files are opened from the directory that the context
// is, following no link on the way; what is done with them after that may go by
// their names.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/continuity/sysx"
	fscopy "github.com/tonistiigi/fsutil/copy"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/source"
)

// stagedName is the directory below the state directory that files are taken into,
// each time into one of its own.
const stagedName = "staged"

// intake copies the files of a match.
type intake struct {
	match *source.Match
	from  *source.Opened
	owner *fscopy.User // nil if every file keeps its own
	top   string       // where the match itself comes to lie
	// mode makes of a file's mode the copy's; nil leaves it as it is.
	mode func(fs.FileMode) fs.FileMode
	// now says that directories that are only there for what is in them have the time
	// of the copy, and if they were there before, their owner.
	now bool
	// frozen says that nobody changes the files, and that they have no digests.
	frozen bool
	// there is what exists already where it comes to lie.
	there occupied
	// linker gives a function that makes files in a cheaper way, if it can; nil if there
	// is none.
	linker func() (link func(*source.File) bool, end func())

	changed atomic.Bool // something is not what was listed
}

// newIntake opens a match for copying.
func newIntake(m *source.Match, top string, owner *fscopy.User) (*intake, error) {
	from, err := m.Open()
	if err != nil {
		return nil, err
	}
	return &intake{match: m, from: from, top: top, owner: owner}, nil
}

func (c *intake) close() { _ = c.from.Close() }

// all copies the match itself and everything in it.
func (c *intake) all(ctx context.Context) error {
	first := &c.match.Files[0]
	if !first.Mode.IsDir() {
		return c.file(first, c.top, nil)
	}
	if err := os.Mkdir(c.top, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := c.contents(ctx); err != nil {
		return err
	}
	return c.attributes(first, c.top)
}

// contents copies what is in a match that is a directory. Where that comes to lie
// nothing is yet but what is said to be there.
func (c *intake) contents(ctx context.Context) error {
	files := c.match.Files[1:]
	for i := range files {
		if f := &files[i]; f.Mode.IsDir() {
			err := os.Mkdir(c.path(f), 0o700)
			if errors.Is(err, fs.ErrExist) && c.there.dirs[f.Name] {
				err = nil
			}
			if err != nil {
				return err
			}
		}
	}
	if err := c.files(ctx, files); err != nil {
		return err
	}
	for i := range c.match.Files {
		if f := &c.match.Files[i]; f.Twin != "" {
			if err := c.clear(f); err != nil {
				return err
			}
			if err := os.Link(filepath.Join(c.top, f.Twin), c.path(f)); err != nil {
				return err
			}
		}
	}
	// Directories last, innermost first: making files changes their times.
	for i := len(c.match.Files) - 1; i > 0; i-- {
		if f := &c.match.Files[i]; f.Mode.IsDir() {
			if err := c.directory(f); err != nil {
				return err
			}
			c.compare(f)
		}
	}
	return nil
}

// files makes all that are no directories and no second names, on all cores.
func (c *intake) files(ctx context.Context, files []source.File) error {
	const batch = 128
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for some := range slices.Chunk(files, batch) {
		g.Go(func() error {
			var link func(*source.File) bool
			if c.linker != nil {
				var end func()
				link, end = c.linker()
				defer end()
			}
			for i := range some {
				f := &some[i]
				if f.Mode.IsDir() || f.Twin != "" {
					continue
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := c.clear(f); err != nil {
					return err
				}
				if err := c.file(f, c.path(f), link); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// directory gives a directory that is complete its attributes.
func (c *intake) directory(f *source.File) error {
	target := c.path(f)
	if !c.now || !f.Implied {
		return c.attributes(f, target)
	}
	if c.there.dirs[f.Name] {
		return unix.Chmod(target, unixMode(f.Mode))
	}
	return c.allButTime(f, target)
}

// clear makes room for a file.
func (c *intake) clear(f *source.File) error {
	if !c.there.files[f.Name] {
		return nil
	}
	if err := os.Remove(c.path(f)); !errors.Is(err, fs.ErrNotExist) { // it may be in a layer below
		return err
	}
	return nil
}

// compare looks whether a file is what was listed still.
func (c *intake) compare(f *source.File) {
	if !c.frozen && !f.Still(c.match) {
		c.changed.Store(true)
	}
}

func (c *intake) path(f *source.File) string { return filepath.Join(c.top, f.Name) }

// file makes what is no directory. link is one of the linker's, or nil.
func (c *intake) file(f *source.File, target string, link func(*source.File) bool) error {
	switch {
	case f.Mode&fs.ModeSymlink != 0:
		if err := os.Symlink(f.Link, target); err != nil {
			return err
		}
	case !f.Mode.IsRegular():
		if err := unix.Mknod(target, unixType(f.Mode)|0o600, int(f.Device)); err != nil { // the number that stat gave
			return &fs.PathError{Op: "mknod", Path: target, Err: err}
		}
	case link != nil && link(f):
		return nil
	default:
		return c.content(f, target)
	}
	c.compare(f)
	return c.attributes(f, target)
}

// content copies a regular file and looks whether it got what was listed.
func (c *intake) content(f *source.File, target string) error {
	opened, err := c.from.File(f)
	if err != nil {
		return err
	}
	in := opened.OS()
	defer in.Close()
	out, err := os.OpenFile(target, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = out.ReadFrom(in); err == nil {
		err = c.attributes(f, target)
	}
	if err == nil && !c.frozen {
		var same bool
		if same, err = f.Copied(c.match, out); !same {
			c.changed.Store(true)
		}
	}
	return errors.Join(err, out.Close())
}

// ownerOf is who a copy belongs to.
func (c *intake) ownerOf(f *source.File) fscopy.User {
	if c.owner != nil {
		return *c.owner
	}
	return fscopy.User{UID: int(f.UID), GID: int(f.GID)}
}

// attributes gives a copy everything of its original but the content.
func (c *intake) attributes(f *source.File, target string) error {
	if err := c.allButTime(f, target); err != nil {
		return err
	}
	mtime := unix.NsecToTimespec(f.ID.Mtime)
	return unix.UtimesNanoAt(unix.AT_FDCWD, target, []unix.Timespec{mtime, mtime}, unix.AT_SYMLINK_NOFOLLOW)
}

func (c *intake) allButTime(f *source.File, target string) error {
	if f.Attrs {
		if err := c.copyXattrs(f, target); err != nil {
			return err
		}
	}
	owner := c.ownerOf(f)
	if err := os.Lchown(target, owner.UID, owner.GID); err != nil {
		return err
	}
	if f.Mode&fs.ModeSymlink != 0 {
		return nil
	}
	return unix.Chmod(target, c.modeOf(f))
}

// modeOf are the bits of a copy's mode.
func (c *intake) modeOf(f *source.File) uint32 {
	if c.mode != nil {
		return unixMode(c.mode(f.Mode))
	}
	return unixMode(f.Mode)
}

// copyXattrs copies attributes, as far as the file system takes them. The
// overlay's own would mean something where they come to lie.
func (c *intake) copyXattrs(f *source.File, target string) error {
	h, err := c.from.Handle(f)
	if err != nil {
		return err
	}
	defer h.Close()
	names, err := sysx.Listxattr(h.Through())
	if err != nil {
		return nil // a file system without attributes
	}
	for _, n := range names {
		if strings.Contains(n, ".overlay.") {
			continue
		}
		if value, err := sysx.Getxattr(h.Through(), n); err == nil {
			_ = sysx.LSetxattr(target, n, value, 0) // a file system that cannot hold it is no reason to fail
		}
	}
	return nil
}

// unixMode gives the bits that chmod takes.
func unixMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		bits |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		bits |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		bits |= unix.S_ISVTX
	}
	return bits
}

// unixType gives the bits that say what a special file is.
func unixType(m fs.FileMode) uint32 {
	switch {
	case m&fs.ModeNamedPipe != 0:
		return unix.S_IFIFO
	case m&fs.ModeSocket != 0:
		return unix.S_IFSOCK
	case m&fs.ModeCharDevice != 0:
		return unix.S_IFCHR
	}
	return unix.S_IFBLK
}

// staged is a tree that has a match at the place where its own tree has it, and
// nothing else.
type staged struct {
	dir string
	tmp string
}

func (s *staged) close() {
	if s != nil {
		_ = os.RemoveAll(s.tmp)
	}
}

// takeIn takes a match in, or of a directory only the directory itself. Everything
// comes to belong to owner, or keeps its own if that is nil.
func (e *Engine) takeIn(ctx context.Context, m *source.Match, owner *fscopy.User, empty bool) (s *staged, err error) {
	tmp, err := e.stagingDir()
	if err != nil {
		return nil, fmt.Errorf("taking in %s: %w", m.Path, err)
	}
	s = &staged{dir: filepath.Join(tmp, "tree"), tmp: tmp}
	defer func() {
		if err != nil {
			s.close()
			s, err = nil, hideRoots(err, m.Dir(), filepath.Join(tmp, "tree"))
		}
	}()
	top := filepath.Join(s.dir, m.Path)
	if err = os.MkdirAll(filepath.Dir(top), 0o700); err != nil {
		return s, err
	}
	in, err := newIntake(m, top, owner)
	if err != nil {
		return s, err
	}
	defer in.close()
	if !empty {
		return s, in.all(ctx)
	}
	if err = os.Mkdir(top, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return s, err
	}
	return s, in.attributes(&m.Files[0], top)
}

// stagingDir makes a directory beside the layers, where what is taken in can be as
// big as they. If nothing can be kept there it is one of the process's own.
func (e *Engine) stagingDir() (string, error) {
	dir := filepath.Join(e.StateDir(), stagedName)
	if err := os.MkdirAll(dir, 0o700); err == nil {
		if tmp, err := os.MkdirTemp(dir, newPrefix); err == nil {
			return tmp, nil
		}
	}
	return os.MkdirTemp(e.proc.path(bundlesName), newPrefix)
}
