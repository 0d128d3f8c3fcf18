package source

// Listing again what was listed before, and of which it is known what has changed
// since. Directories tell by their times whether anything came or went, so each is
// looked at, and read if it is not what it was; of files only those are looked at
// that have changed, or that lie beside one.

import (
	"path"
	"path/filepath"
	"strings"
)

// past is what is known of a selection: what it was, and what has changed since.
type past struct {
	listing *Listing
	dirty   []string // on the host
}

// pastMatch is what is known of one match.
type pastMatch struct {
	files []File
	// changed are the paths from the match that may have changed, with all that is
	// below them, and read the directories that have to be read for it.
	changed, read map[string]bool
}

// of gives what is known of a match: nil if that is nothing.
func (p *past) of(m *Match) *pastMatch {
	if p == nil {
		return nil
	}
	for i := range p.listing.Matches {
		was := &p.listing.Matches[i]
		if was.Path != m.Path || was.Root != m.Root || !was.Files[0].Mode.IsDir() {
			continue
		}
		k := &pastMatch{files: was.Files, changed: make(map[string]bool), read: make(map[string]bool)}
		if len(p.dirty) > 0 {
			k.mark(m.Root, p.dirty)
		}
		return k
	}
	return nil
}

// mark notes changes. What appears in a directory that was not listed is found from
// the one above it that was.
func (k *pastMatch) mark(root string, dirty []string) {
	dirs := make(map[string]bool)
	for i := range k.files {
		if f := &k.files[i]; f.Mode.IsDir() {
			dirs[f.Name] = true
		}
	}
	for _, p := range dirty {
		rel, err := filepath.Rel(root, p)
		if err != nil || !filepath.IsLocal(rel) || rel == "." {
			continue
		}
		rel = filepath.ToSlash(rel)
		k.changed[rel] = true
		dir := path.Dir(rel)
		for !dirs[dir] {
			dir = path.Dir(dir)
		}
		k.read[dir] = true
	}
}

// top is all that is known.
func (k *pastMatch) top() []File {
	if k == nil {
		return nil
	}
	return k.files
}

// inside divides what is known of a directory among the directories in it.
func (k *pastMatch) inside(was []File) map[string][]File {
	if k == nil || len(was) == 0 {
		return nil
	}
	out := make(map[string][]File)
	for rest := was[1:]; len(rest) > 0; {
		n := extent(rest)
		if f := &rest[0]; f.Mode.IsDir() && !k.changed[f.Name] {
			out[f.Name] = rest[:n]
		}
		rest = rest[n:]
	}
	return out
}

// extent is how many of some files are the first and what is in it.
func extent(files []File) int {
	if !files[0].Mode.IsDir() {
		return 1
	}
	dir := files[0].Name
	n := 1
	for n < len(files) && len(files[n].Name) > len(dir) && files[n].Name[len(dir)] == '/' && strings.HasPrefix(files[n].Name, dir) {
		n++
	}
	return n
}

// recall fills in what was in a directory, if it is the same still. It gives the
// directories in it.
func (w *walker) recall(v *visit) (dirs []visit, ok bool) {
	if len(v.was) == 0 || v.was[0].ID != v.self.ID || v.self.ID == (identity{}) {
		return nil, false
	}
	name := v.rel
	if name == "" {
		name = "."
	}
	if w.since.read[name] {
		return nil, false
	}
	v.node.entries = make([]nodeEntry, 0, len(v.was)-1)
	for rest := v.was[1:]; len(rest) > 0; {
		n := extent(rest)
		e := nodeEntry{file: &rest[0], out: rest[0].Implied}
		switch {
		case e.file.Mode.IsDir():
			now, ok := w.again(v, e.file)
			if !ok || !now.Mode.IsDir() {
				return nil, false
			}
			if now.ID == e.file.ID && e.file.read {
				now.attrs, now.Attrs, now.read = e.file.attrs, e.file.Attrs, true
			}
			e.file, e.sub = &now, &node{}
			dirs = append(dirs, visit{
				node: e.sub, self: now, real: filepath.Join(v.real, path.Base(now.Name)), rel: now.Name, was: rest[:n],
			})
		case e.file.nlink > 1:
			// It may have been written to by another of its names.
			now, ok := w.again(v, e.file)
			if !ok || now.Mode.Type() != e.file.Mode.Type() {
				return nil, false
			}
			if now.ID != e.file.ID {
				e.file = &now
			}
		}
		v.node.entries = append(v.node.entries, e)
		rest = rest[n:]
	}
	return dirs, true
}

// again looks at a file of a directory that is not read.
func (w *walker) again(v *visit, f *File) (now File, ok bool) {
	base := path.Base(f.Name)
	now, err := statFile(filepath.Join(v.real, base))
	if err != nil {
		return now, false
	}
	now.Name, now.Attrs = f.Name, true
	if now.Mode.IsRegular() && w.index != nil {
		w.index.dir(v.real).fill(base, &now)
	}
	return now, true
}
