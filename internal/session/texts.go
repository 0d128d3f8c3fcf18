package session

// What loading and planning have read is remembered as it was read, so that a file
// that is written meanwhile is read again, and one that says the same is not.

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/planner"
)

// texts say of files what was read from them, so that it can be told whether they
// say something else by now.
type texts map[string]digest.Digest

// absent stands for a file that does not exist.
const absent = digest.Digest("absent")

// textOf says what is in a file.
func textOf(path string) digest.Digest {
	raw, err := planner.ReadFile(path)
	return textID(raw, err)
}

func textID(raw []byte, err error) digest.Digest {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return absent
	case err != nil:
		return digest.Digest("unreadable: " + err.Error())
	}
	return digest.FromBytes(raw)
}

// changed lists the files among or below some paths that say something else than
// they did; all is true to look at every file.
func (t texts) changed(paths []string, all bool) []string {
	var out []string
	for file, was := range t {
		if (all || slices.ContainsFunc(paths, func(p string) bool { return contains(p, file) })) && textOf(file) != was {
			out = append(out, file)
		}
	}
	slices.Sort(out)
	return out
}

// reads remembers what a plan is made of, as it was read.
type reads struct {
	mu    sync.Mutex
	texts texts
}

func (r *reads) note(path string, id digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.texts[path] = id
}

// file reads a Dockerfile or an ignore file.
func (r *reads) file(path string) ([]byte, error) {
	raw, err := planner.ReadFile(path)
	r.note(path, textID(raw, err))
	return raw, err
}

// context looks at a context. There is no plan before it is a directory; what is in
// that is not the plan's.
func (r *reads) context(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
	case errors.Is(err, fs.ErrNotExist):
		r.note(path, absent)
	default:
		r.note(path, textOf(path))
	}
	return info, err
}
