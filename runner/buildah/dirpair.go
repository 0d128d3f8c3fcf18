//go:build linux

package buildah

import (
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dirPair is a directory of one tree together with that of the same name in another,
// both open. Where many files are linked from one tree to the other they are looked up
// in there: their paths are long, and each directory of them would be looked up for
// every file, and for every single thing that is asked of it. Both trees are the
// engine's own, and nobody else writes to them.
type dirPair struct {
	fromTree, toTree string // toTree may be empty: then there is only the one

	dir      string // of the trees; only valid while from is open
	from, to int    // -1 if not open
}

func newDirPair(fromTree, toTree string) *dirPair {
	return &dirPair{fromTree: fromTree, toTree: toTree, from: -1, to: -1}
}

// enter opens the directories that a name is in, unless they are open already, and
// gives the name in them.
func (p *dirPair) enter(name string) (base string, err error) {
	dir, base := filepath.Split(name)
	if p.from >= 0 && dir == p.dir {
		return base, nil
	}
	p.leave()
	if p.from, err = openDir(filepath.Join(p.fromTree, dir)); err != nil {
		return "", err
	}
	if p.toTree != "" {
		if p.to, err = openDir(filepath.Join(p.toTree, dir)); err != nil {
			p.leave()
			return "", err
		}
	}
	p.dir = dir
	return base, nil
}

// link gives a file of the one the same name in the other. Its directories have been
// entered.
func (p *dirPair) link(base string) error { return unix.Linkat(p.from, base, p.to, base, 0) }

// leave closes what is open.
func (p *dirPair) leave() {
	for _, fd := range []*int{&p.from, &p.to} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
		}
		*fd = -1
	}
}

func openDir(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}
