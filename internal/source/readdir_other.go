//go:build !linux

package source

import (
	"io/fs"
	"os"
	"path/filepath"

	"github.com/zbuild/zbuild/internal/beneath"
)

// openedDir is a directory that is being read.
type openedDir struct {
	path    string
	entries map[string]fs.DirEntry
}

func openDir(_ *beneath.Dir, _, path string) (*openedDir, error) {
	return &openedDir{path: path, entries: make(map[string]fs.DirEntry)}, nil
}

func (d *openedDir) close() {}

// names lists the directory, sorted.
func (d *openedDir) names([]byte) ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
		d.entries[e.Name()] = e
	}
	return names, nil
}

func (d *openedDir) mayBeDir(name string) bool { return d.entries[name].IsDir() }

func (d *openedDir) stat(name string, f *File) error {
	path := filepath.Join(d.path, name)
	s, err := statFile(path)
	s.Name, s.Attrs = f.Name, f.Attrs
	*f = s
	if err != nil || f.Mode.IsRegular() {
		return err
	}
	if err = f.setAttrs(path, true); err == nil && f.Mode&fs.ModeSymlink != 0 {
		f.Link, err = os.Readlink(path)
	}
	return err
}

func statBelow(_ *beneath.Dir, _, path string) (File, error) { return statFile(path) }

// statFile says what a file is. Nothing reliable is known of its identity, so its
// digest is not remembered.
func statFile(path string) (File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return File{}, err
	}
	return fileOf(info), nil
}

func readlinkBelow(_ *beneath.Dir, _, path string) (string, error) { return os.Readlink(path) }

func attrsBelow(_ *beneath.Dir, _, path string) ([]string, error) {
	attrs, _, err := xattrs(path, true)
	return attrs, err
}

func statOpen(o *os.File) (File, error) {
	info, err := o.Stat()
	if err != nil {
		return File{}, err
	}
	return fileOf(info), nil
}

// attrsOpen fills in the extended attributes of an open file.
func attrsOpen(o *os.File, f *File) error { return f.setAttrs(o.Name(), true) }

func fileOf(info fs.FileInfo) File {
	f := File{Mode: info.Mode(), Size: info.Size()}
	f.ID.Size, f.ID.Mtime = info.Size(), info.ModTime().UnixNano()
	fillInode(&f, info)
	return f
}
