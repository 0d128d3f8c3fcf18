//go:build !linux

package source

import (
	"io/fs"
	"os"
	"path/filepath"
)

// openedDir is a directory that is being read.
type openedDir struct {
	path    string
	entries map[string]fs.DirEntry
}

func openDir(path string) (*openedDir, error) {
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
	s, err := statFile(filepath.Join(d.path, name))
	s.Name, s.Attrs = f.Name, f.Attrs
	*f = s
	return err
}

// statFile says what a file is. Nothing reliable is known of its identity, so its
// digest is not remembered.
func statFile(path string) (File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return File{}, err
	}
	return fileOf(info), nil
}

func statOpen(o *os.File) (File, error) {
	info, err := o.Stat()
	if err != nil {
		return File{}, err
	}
	return fileOf(info), nil
}

func fileOf(info fs.FileInfo) File {
	f := File{Mode: info.Mode(), Size: info.Size()}
	f.ID.Size, f.ID.Mtime = info.Size(), info.ModTime().UnixNano()
	fillInode(&f, info)
	return f
}
