//go:build !linux

package beneath

import (
	"io/fs"
	"os"
	"path/filepath"
)

// Dir is a directory that is open. It may be used from several goroutines.
type Dir struct {
	root *os.Root
	path string
}

// Open opens a directory. Links in its own path are followed: it is its user's
// choice.
func Open(path string) (*Dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &Dir{root: root, path: path}, nil
}

// Close closes the directory.
func (d *Dir) Close() error { return d.root.Close() }

// File opens a regular file for reading. The error wraps ErrNotRegular if it is
// something else.
func (d *Dir) File(name string) (*os.File, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: filepath.Join(d.path, name), Err: ErrNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
