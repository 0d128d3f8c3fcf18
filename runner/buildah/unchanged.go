//go:build linux

package buildah

// What lies in a step's own directory is not all changed. A process that makes a file
// and removes it again leaves its directory as it was, but for the time; so does a
// runtime that makes a mount point. A file that is made to be what it is already
// (chown -R, chmod, the same COPY once more) is in the directory with all that is in it.
// As with BuildKit none of this is in an image's layer: were it otherwise, RUN true
// would make one with /etc. For the steps that follow it is there all the same. What was
// merged (COPY --link) is another matter.

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

// unchanged are paths from a tree's root. What lies in a directory of it is unchanged,
// too.
type unchanged map[string]bool

// unchanged finds what a snapshot's own directory has that says nothing which the
// snapshot below does not.
func (e *Engine) unchanged(below, s runner.Snapshot) (unchanged, error) {
	if below == "" || !e.canStage(below, s) {
		return nil, nil
	}
	l, err := e.store.Layer(string(s))
	if err != nil {
		return nil, err
	}
	if merged, _ := l.Flags[mergedFlag].(bool); merged {
		return nil, nil
	}
	dir, err := e.upperDir(string(s))
	if err != nil {
		return nil, err
	}
	base, err := e.view(below)
	if err != nil {
		return nil, err
	}
	defer base.close()
	c := &comparison{upper: dir, lower: base.root, same: make(unchanged)}
	_, err = c.directory("")
	return c.same, err
}

// comparison compares an overlay's upper directory with what lies below it. It goes
// into a directory only if there is one below, too: so it comes to no path below that
// leads through a link.
type comparison struct {
	upper, lower string
	same         unchanged
}

// directory reports whether anything in a directory has changed.
func (c *comparison) directory(name string) (bool, error) {
	entries, err := os.ReadDir(filepath.Join(c.upper, name))
	if err != nil {
		return false, err
	}
	changed := false
	for _, entry := range entries {
		is, err := c.entry(filepath.Join(name, entry.Name()))
		if err != nil {
			return false, err
		}
		changed = changed || is
	}
	return changed, nil
}

// entry reports whether a file has changed, or a directory or anything in it.
func (c *comparison) entry(name string) (bool, error) {
	upper, lower := filepath.Join(c.upper, name), filepath.Join(c.lower, name)
	var above, below unix.Stat_t
	if err := unix.Lstat(lower, &below); errors.Is(err, fs.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, &fs.PathError{Op: "lstat", Path: lower, Err: err}
	}
	if err := unix.Lstat(upper, &above); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: upper, Err: err}
	}
	same, err := sameFile(upper, lower, &above, &below)
	if err != nil {
		return false, err
	}
	changed := !same
	if isDir(&above) && isDir(&below) {
		hides, err := isOpaque(upper)
		if err != nil || hides {
			return true, err
		}
		inside, err := c.directory(name)
		if err != nil {
			return false, err
		}
		changed = changed || inside
	}
	if !changed {
		c.same[name] = true
	}
	return changed, nil
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// sameFile reports whether two files are the same in what a layer says of them. A
// directory's time does not count: it is that of the last change of what is in it.
func sameFile(upper, lower string, a, b *unix.Stat_t) (bool, error) {
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev {
		return false, nil
	}
	if !isDir(a) && (a.Size != b.Size || a.Mtim != b.Mtim) {
		return false, nil
	}
	mine, err := capability(upper)
	if err != nil {
		return false, err
	}
	theirs, err := capability(lower)
	if err != nil || !bytes.Equal(mine, theirs) {
		return false, err
	}
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return sameContent(upper, lower)
	case unix.S_IFLNK:
		x, err := os.Readlink(upper)
		if err != nil {
			return false, err
		}
		y, err := os.Readlink(lower)
		return x == y, err
	}
	return true, nil
}

// capability is the one extended attribute that layers have.
func capability(p string) ([]byte, error) {
	value, err := sysx.LGetxattr(p, "security.capability")
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	return value, err
}

// isOpaque reports whether a directory of an overlay's upper one hides what is below
// it.
func isOpaque(p string) (bool, error) {
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		value, err := sysx.LGetxattr(p, name)
		switch {
		case err == nil && string(value) == "y":
			return true, nil
		case err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP):
			return false, err
		}
	}
	return false, nil
}

func sameContent(a, b string) (bool, error) {
	f, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer g.Close()
	const piece = 256 << 10
	x, y := make([]byte, piece), make([]byte, piece)
	for {
		n, err := io.ReadFull(f, x)
		m, err2 := io.ReadFull(g, y)
		switch {
		case !bytes.Equal(x[:n], y[:m]):
			return false, nil
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return true, nil
		case err != nil || err2 != nil:
			return false, errors.Join(err, err2)
		}
	}
}
