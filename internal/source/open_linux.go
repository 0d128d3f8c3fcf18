package source

import (
	"path/filepath"

	"github.com/zbuild/zbuild/internal/beneath"
)

// Opened is a match whose files can be read. Whatever becomes of the tree
// meanwhile, nothing outside of it is read, and no link is followed.
type Opened struct {
	root  *beneath.Dir
	match *Match
}

// Open opens the tree that a match lies in.
func (m *Match) Open() (*Opened, error) {
	root, err := beneath.Open(m.dir)
	if err != nil {
		return nil, err
	}
	return &Opened{root: root, match: m}, nil
}

// Close closes the tree.
func (o *Opened) Close() error { return o.root.Close() }

// File opens a regular file of the match.
func (o *Opened) File(f *File) (*beneath.File, error) { return o.root.File(o.match.below(f.Name)) }

// Handle holds on to a file of the match, whatever it is.
func (o *Opened) Handle(f *File) (*beneath.File, error) {
	return o.root.Handle(o.match.below(f.Name))
}

// Open opens a regular file of the tree, links being resolved inside of it. The
// error wraps beneath.ErrNotRegular if it is something else.
func (t Tree) Open(name string) (*beneath.File, error) {
	real, err := t.real(clean(name), true)
	if err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(t.Dir, real)
	if err != nil {
		return nil, err
	}
	root, err := beneath.Open(t.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.File(rel)
}
