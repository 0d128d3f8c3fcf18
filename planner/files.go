package planner

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/defaults"

	"github.com/zbuild/zbuild/internal/beneath"
)

// maxFile is the size of the largest Dockerfile or ignore file that is read, in
// bytes. The frontend has the same limit; it is enforced here so that nothing
// larger is ever in memory.
const maxFile = defaults.DefaultMaxRecvMsgSize

var errTooLarge = fmt.Errorf("is larger than %d MB", maxFile>>20)

// ReadFile reads a regular file of at most 16 MB. It never waits for a pipe or a
// device to yield something.
func ReadFile(path string) ([]byte, error) {
	data, err := beneath.ReadFile(path, maxFile)
	if errors.Is(err, beneath.ErrTooLarge) {
		err = &fs.PathError{Op: "read", Path: path, Err: errTooLarge}
	}
	return data, err
}

// files reads each file once, so that all targets see the same text, and keeps
// a list of what was read or looked for.
type files struct {
	dir  string // names are relative to it
	read func(string) ([]byte, error)

	known memo[string, []byte]
}

func newFiles(opt Options) *files { return &files{dir: opt.Dir, read: opt.ReadFile} }

func (f *files) get(path string) ([]byte, error) {
	path = filepath.Clean(path)
	return f.known.get(path, func() ([]byte, error) {
		data, err := f.read(path)
		if err == nil && len(data) > maxFile {
			return nil, &fs.PathError{Op: "read", Path: path, Err: errTooLarge}
		}
		return data, err
	})
}

// list is every file that was asked for, sorted.
func (f *files) list() []string {
	out := f.known.keys()
	slices.Sort(out)
	return out
}

// name is what people call a file: relative to the directory that names are
// relative to, if it lies in it; with slashes on every system.
func (f *files) name(path string) string {
	rel, err := filepath.Rel(f.dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		rel = path
	}
	return filepath.ToSlash(rel)
}
