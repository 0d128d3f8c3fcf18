package watch

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxLinks is how many links are followed on the way to one path.
const maxLinks = 255

// whereabouts is where a path leads to, and what would make it lead elsewhere.
type whereabouts struct {
	// real is the path without links, as far as it exists; the rest is appended.
	real string
	// exists says that there is something at the end.
	exists bool
	// pivots are the paths, without links above them, of the links on the way, of
	// the first component that is missing, and of the end itself: where one
	// appears, goes or changes, the path may lead elsewhere. Their parents exist.
	pivots []string
}

// locate follows a path's links. A loop of links is something missing.
func locate(path string) whereabouts {
	path = filepath.Clean(path)
	volume := filepath.VolumeName(path)
	root := volume + string(filepath.Separator)
	w := whereabouts{real: root}
	rest := components(path[len(volume):])
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			w.real = filepath.Dir(w.real)
			continue
		}
		next := filepath.Join(w.real, name)
		info, err := os.Lstat(next)
		if err == nil && info.Mode()&fs.ModeSymlink != 0 && links < maxLinks {
			links++
			w.pivots = append(w.pivots, next)
			target, err := os.Readlink(next)
			if err == nil {
				if filepath.IsAbs(target) {
					w.real = root
					target = target[len(filepath.VolumeName(target)):]
				}
				rest = append(components(target), rest...)
				continue
			}
		}
		w.real = next
		if err != nil || len(rest) > 0 && !info.IsDir() {
			w.pivots = append(w.pivots, next)
			if w.real = filepath.Dir(next); w.real != root {
				w.pivots = append(w.pivots, w.real)
			}
			w.real = filepath.Join(append([]string{next}, rest...)...)
			return w
		}
	}
	w.exists = true
	if w.real != root {
		w.pivots = append(w.pivots, w.real)
	}
	return w
}

// locatePoint follows all links of a path but one at its end.
func locatePoint(path string) whereabouts {
	path = filepath.Clean(path)
	dir, base := filepath.Split(path)
	w := locate(dir)
	if !w.exists || base == "" {
		w.real = filepath.Join(w.real, base)
		return w
	}
	w.real = filepath.Join(w.real, base)
	_, err := os.Lstat(w.real)
	w.exists = err == nil
	w.pivots = append(w.pivots, w.real)
	return w
}

func components(path string) []string {
	return strings.Split(filepath.ToSlash(path), "/")
}

// same reports whether two whereabouts are the same place.
func (w whereabouts) same(o whereabouts) bool {
	return w.real == o.real && w.exists == o.exists && slices.Equal(w.pivots, o.pivots)
}

// moving are the paths whose coming or going may make it another place: the pivots, and
// directories above them and above the end.
func (w whereabouts) moving(top string) []string {
	out := slices.Clone(w.pivots)
	for _, p := range append(slices.Clone(w.pivots), w.real) {
		out = append(out, ancestors(p, top)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ancestors are the directories above a real path: the nearest one, and those in
// top, top included.
func ancestors(real, top string) []string {
	var out []string
	for dir := filepath.Dir(real); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if len(out) > 0 && (top == "" || !within(dir, top)) {
			break
		}
		out = append(out, dir)
	}
	return out
}

// within reports whether a path is a directory or lies in it.
func within(path, dir string) bool {
	if path == dir {
		return true
	}
	if !strings.HasSuffix(dir, string(filepath.Separator)) {
		dir += string(filepath.Separator)
	}
	return strings.HasPrefix(path, dir)
}
