package source

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
)

// Footprint is what a selection looks at: where something has to appear, go or
// change for the selection to become another one. What is outside of it has no
// part in the selection's digest. It is inert.
type Footprint struct {
	// Points are single paths, existing or not, on the host. Of a link it is the
	// link that counts, and of a directory whether there is one.
	Points []string
	// Trees are directories of which parts are looked at.
	Trees []*Subtree
}

// Subtree is the part of a directory that a selection looks at.
type Subtree struct {
	// Root is a path on the host without links below the tree's directory.
	Root string

	include, exclude *patternmatcher.PatternMatcher
	// pattern are the components of the names that a wildcard is looked for with;
	// nil for a tree whose content is selected.
	pattern []string
}

// Match reports whether a path is selected, or would be if it existed: whether a
// change to it can matter.
func (s *Subtree) Match(path string) bool {
	match, _ := s.looks(path)
	return match
}

// Descend reports whether something below a directory can matter.
func (s *Subtree) Descend(dir string) bool {
	_, below := s.looks(dir)
	return below
}

func (s *Subtree) looks(path string) (match, below bool) {
	if path == s.Root {
		return true, true
	}
	rel, ok := strings.CutPrefix(path, strings.TrimSuffix(s.Root, string(filepath.Separator))+string(filepath.Separator))
	if !ok {
		return false, false
	}
	parts := strings.Split(rel, string(filepath.Separator))
	if s.pattern != nil {
		return s.wildcard(parts)
	}
	return s.content(parts)
}

// wildcard compares a path's components with those of the pattern.
func (s *Subtree) wildcard(parts []string) (match, below bool) {
	for i, part := range parts {
		if i >= len(s.pattern) {
			return false, false // a match's content is a tree of its own
		}
		if ok, err := filepath.Match(s.pattern[i], part); err != nil || !ok {
			return false, false
		}
	}
	return true, len(parts) < len(s.pattern)
}

// content applies the rules as walking does, one directory after the other.
func (s *Subtree) content(parts []string) (match, below bool) {
	var in, ex patternmatcher.MatchInfo
	for i := range parts {
		name := filepath.Join(parts[:i+1]...)
		match = true
		var excluded bool
		var err error
		if s.include != nil {
			if match, in, err = s.include.MatchesUsingParentResults(name, in); err != nil {
				return true, true // walking will say what is wrong with it
			}
		}
		if s.exclude != nil {
			if excluded, ex, err = s.exclude.MatchesUsingParentResults(name, ex); err != nil {
				return true, true
			}
		}
		if excluded && !s.exclude.Exclusions() {
			return false, false
		}
		match = match && !excluded
	}
	return match, true
}

// Footprint says what a selection looks at. It needs nothing to exist.
func (t Tree) Footprint(sel Selection) (Footprint, error) {
	var f Footprint
	p := clean(sel.Path)
	names := strings.Split(strings.Trim(p, "/"), "/")
	fixed := len(names)
	if sel.Wildcard {
		for i, n := range names {
			if strings.ContainsAny(n, "*?[\\") {
				fixed = i
				break
			}
		}
	}
	real, exists := f.way(t.Dir, names[:fixed], sel.FollowLinks)
	if fixed == len(names) {
		if !exists {
			return f, nil
		}
		err := f.add(t, p, real, sel)
		return f, err
	}
	f.Trees = append(f.Trees, &Subtree{Root: real, pattern: names[fixed:]})
	if !exists {
		return f, nil
	}
	matches, err := expand(real, names[fixed:])
	if err != nil {
		return f, err
	}
	for _, m := range matches {
		rel, err := filepath.Rel(t.Dir, m)
		if err != nil {
			return f, err
		}
		real, exists := f.way(t.Dir, strings.Split(filepath.ToSlash(rel), "/"), sel.FollowLinks)
		if !exists {
			continue
		}
		if err := f.add(t, clean(rel), real, sel); err != nil {
			return f, err
		}
	}
	return f, nil
}

// expand lists what is below a directory and matches a pattern, component by
// component. Only directories that match so far are read.
func expand(dir string, pattern []string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil //nolint:nilerr // it has gone meanwhile, or is none
	}
	var out []string
	for _, e := range entries {
		ok, err := filepath.Match(pattern[0], e.Name())
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, e.Name())
		switch {
		case !ok:
		case len(pattern) == 1:
			out = append(out, path)
		case e.IsDir():
			deeper, err := expand(path, pattern[1:])
			if err != nil {
				return nil, err
			}
			out = append(out, deeper...)
		}
	}
	return out, nil
}

// equal reports whether two footprints of one selection are the same.
func (f *Footprint) equal(o *Footprint) bool {
	return slices.Equal(f.Points, o.Points) &&
		slices.EqualFunc(f.Trees, o.Trees, func(a, b *Subtree) bool { return a.Root == b.Root })
}

// add adds what is selected at and below one match.
func (f *Footprint) add(t Tree, match, real string, sel Selection) error {
	info, err := os.Lstat(real)
	if err != nil || !info.IsDir() {
		// A file is a point; what has gone meanwhile was one, too. The tree's own
		// directory is none as long as it is there.
		if real == t.Dir {
			f.Points = append(f.Points, real)
		}
		return nil
	}
	s := &Subtree{Root: real}
	if s.exclude, err = newMatcher(append(append([]string(nil), t.Below(match)...), sel.Exclude...)); err != nil {
		return err
	}
	if s.include, err = newMatcher(sel.Include); err != nil {
		return err
	}
	f.Trees = append(f.Trees, s)
	return nil
}

// way walks from a directory down a path, as if the directory were the root of
// the file system, and notes every step. At the first one that is missing it
// ends.
func (f *Footprint) way(root string, names []string, followLast bool) (real string, exists bool) {
	const maxLinks = 255
	real = root
	for links := 0; len(names) > 0; {
		name := names[0]
		names = names[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if real != root {
				real = filepath.Dir(real)
			}
			continue
		}
		next := filepath.Join(real, name)
		f.Points = append(f.Points, next)
		info, err := os.Lstat(next)
		if err != nil {
			return next, false
		}
		if info.Mode()&fs.ModeSymlink != 0 && (len(names) > 0 || followLast) {
			target, err := os.Readlink(next)
			if links++; err != nil || links > maxLinks {
				return next, false
			}
			if filepath.IsAbs(target) {
				real = root
			}
			names = append(strings.Split(filepath.ToSlash(target), "/"), names...)
			continue
		}
		real = next
	}
	return real, true
}
