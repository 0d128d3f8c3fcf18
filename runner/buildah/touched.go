//go:build linux

package buildah

// A process that makes a file and removes it again leaves its directory as it was,
// but for the time of the last change; and so does a runtime that makes a mount
// point. For BuildKit such a directory has not changed, and is not in the step's
// layer. Were it otherwise, RUN true would make a layer with /etc.
//
// A file that is made to be what it is already (chown -R, chmod) is copied up by the
// overlay, with all that is in it. It has not changed either.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/containerd/continuity/sysx"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/beneath"
	"github.com/zbuild/zbuild/runner"
)

// forgetTouched removes from a snapshot's own directory files that are what they are
// below, and directories that are on the way to no change and differ from what lies
// below in times only.
func (e *Engine) forgetTouched(s runner.Snapshot) error {
	lowers, err := e.lowerDirs(string(s))
	if err != nil || len(lowers) < 2 {
		return err // an empty tree below, or a driver that keeps whole trees
	}
	upper := lowers[0]
	own, err := listUpper(upper)
	if err != nil || len(own.copied) == 0 && len(own.barren()) == 0 {
		return err
	}
	layer, err := e.store.Layer(string(s))
	if err != nil {
		return err
	}
	below, err := e.view(runner.Snapshot(layer.Parent))
	if err != nil {
		return err
	}
	defer below.close()
	lower, err := beneath.Open(below.root)
	if err != nil {
		return err
	}
	defer lower.Close()
	for _, p := range own.copied {
		same, err := sameFile(filepath.Join(upper, p), lower, p)
		if err == nil && same {
			err = os.Remove(filepath.Join(upper, p))
		} else {
			own.full[filepath.Dir(p)] = true
		}
		if err != nil {
			return err
		}
	}
	for _, p := range own.barren() {
		same, err := sameDirectory(filepath.Join(upper, p), lower, p)
		if err != nil {
			return err
		}
		if !same {
			continue
		}
		// A directory that still has one that did change stays with it.
		if err := os.Remove(filepath.Join(upper, p)); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	return nil
}

// upperFiles are what lies in a layer's own directory, by paths below it.
type upperFiles struct {
	dirs   []string        // the outermost first
	copied []string        // files that the overlay has copied from below
	full   map[string]bool // directories with other files
}

func listUpper(root string) (*upperFiles, error) {
	u := &upperFiles{full: make(map[string]bool)}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p, root), "/")
		switch {
		case d.IsDir():
			u.dirs = append(u.dirs, rel)
		case d.Type().IsRegular() && copiedUp(p):
			u.copied = append(u.copied, rel)
		default:
			u.full[filepath.Dir(rel)] = true
		}
		return nil
	})
	return u, err
}

// copiedUp reports whether the overlay notes of a file that it came from below.
func copiedUp(p string) bool {
	for _, name := range []string{"trusted.overlay.origin", "user.overlay.origin"} {
		if n, err := unix.Lgetxattr(p, name, nil); err == nil && n > 0 {
			return true
		}
	}
	return false
}

// barren lists the directories that have nothing in them but such directories, the
// innermost first.
func (u *upperFiles) barren() []string {
	full := maps.Clone(u.full)
	var out []string
	for _, d := range slices.Backward(u.dirs) {
		switch {
		case d == "":
		case full[d]:
			full[filepath.Dir(d)] = true
		default:
			out = append(out, d)
		}
	}
	return out
}

// sameFile reports whether a file of an overlay's upper layer is the one below it:
// type, mode, owner, time, attributes and content.
func sameFile(upper string, lower *beneath.Dir, name string) (bool, error) {
	below, err := lower.Handle(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer below.Close()
	b, err := below.Stat()
	if err != nil {
		return false, err
	}
	var a unix.Stat_t
	if err := unix.Lstat(upper, &a); err != nil {
		return false, err
	}
	// With one name less the others would be another file.
	if a.Nlink != 1 || a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Size != b.Size || a.Mtim != b.Mtim {
		return false, nil
	}
	ours, _, err := attributes(upper)
	if err != nil {
		return false, err
	}
	place, err := os.Readlink(below.Through()) // attributes are asked for by name
	if err != nil {
		return false, err
	}
	theirs, _, err := attributes(place)
	if err != nil || !maps.Equal(ours, theirs) {
		return false, err
	}
	return sameContent(upper, place)
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

// sameDirectory reports whether a directory of an overlay's upper layer says
// nothing that the one below it does not. What is a link there is not the directory
// that it leads to.
func sameDirectory(upper string, lower *beneath.Dir, name string) (bool, error) {
	below, err := lower.Handle(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer below.Close()
	b, err := below.Stat()
	if err != nil {
		return false, err
	}
	var a unix.Stat_t
	if err := unix.Lstat(upper, &a); err != nil {
		return false, err
	}
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid {
		return false, nil
	}
	ours, opaque, err := attributes(upper)
	if err != nil || opaque {
		return false, err
	}
	theirs, _, err := attributes(below.Through() + "/.")
	return maps.Equal(ours, theirs), err
}

// attributes are a file's extended attributes without the overlay's own, and
// whether those say that it hides what is below it.
func attributes(p string) (attrs map[string]string, opaque bool, err error) {
	names, err := sysx.LListxattr(p)
	if err != nil {
		return nil, false, err
	}
	attrs = make(map[string]string)
	for _, n := range names {
		if strings.Contains(n, ".overlay.") {
			opaque = opaque || strings.HasSuffix(n, ".overlay.opaque")
			continue
		}
		value, err := sysx.LGetxattr(p, n)
		if err != nil {
			return nil, false, err
		}
		attrs[n] = string(value)
	}
	return attrs, opaque, nil
}

// makeCwd makes the working directory if an earlier step has removed it. It
// belongs to the process, which the runtime's own would not.
func makeCwd(p *specs.Process, root string) error {
	dir, err := rootfs.RootPath(root, p.Cwd)
	if err != nil {
		return fmt.Errorf("the working directory %s: %w", p.Cwd, err)
	}
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := user.MkdirAllAndChown(dir, 0o755, int(p.User.UID), int(p.User.GID)); err != nil {
		return fmt.Errorf("making the working directory %s: %w", p.Cwd, hideRoots(err, root))
	}
	return nil
}
