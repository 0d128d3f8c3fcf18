// Package source is the file tree that a build reads: what a context's ignore
// rules leave of a directory, what one copy selects of that, and the digest of
// the selection's content. Hashing, copying and watching all take their rules
// from here, so that they cannot disagree.
//
// It only reads, and never leaves the directory that it is given: links are
// resolved as if the directory were the root of the file system.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/moby/patternmatcher"
	"github.com/tonistiigi/fsutil"
	fscopy "github.com/tonistiigi/fsutil/copy"
)

// Tree is a directory with ignore rules.
type Tree struct {
	// Dir is an absolute path.
	Dir string
	// Exclude are patterns as in a .dockerignore file, in their order.
	Exclude []string
}

// Selection is what one COPY, ADD or bind mount takes of a tree.
type Selection struct {
	// Path is where it starts, from the root of the tree.
	Path string
	// Wildcard says that Path is a pattern, FollowLinks that a link at its end is
	// followed.
	Wildcard    bool
	FollowLinks bool
	// Include and Exclude are patterns relative to each match of Path.
	Include, Exclude []string
}

// Check returns an error if one of the selection's patterns is none for a build context.
// Those are more than of other trees: BuildKit matches a context's as it does an ignore
// file's, for which [z-a] is not a class that is empty, but a mistake.
func (s Selection) Check() error {
	patterns := slices.Concat(s.Include, s.Exclude)
	if s.Wildcard {
		patterns = append(patterns, clean(s.Path)[1:])
	}
	for _, p := range patterns {
		if !strings.Contains(p, "[") {
			continue
		}
		matcher, err := patternmatcher.New([]string{strings.TrimPrefix(p, "!")})
		if err == nil {
			_, err = matcher.MatchesOrParentMatches("name") // it looks at the pattern no sooner
		}
		if err != nil {
			return noPattern(p, err)
		}
	}
	return nil
}

func noPattern(p string, err error) error {
	return fmt.Errorf("%q cannot be matched: %w; a [ that stands for itself is written [[]", p, err)
}

// NotFoundError says that a selection matches nothing.
type NotFoundError struct {
	Path string // from the root of the tree
	// Ignored is the ignore file's pattern that hides it, if one does.
	Ignored string
	// Pattern says that Path is a pattern, which nothing matches.
	Pattern bool
	// In says what was looked through; empty means the build context.
	In string
}

func (e *NotFoundError) Error() string {
	if e.Ignored != "" {
		return fmt.Sprintf("%q not found: the ignore file's pattern %q leaves it out", e.Path, e.Ignored)
	}
	in := e.In
	if in == "" {
		in = "the build context"
	}
	if e.Pattern {
		return fmt.Sprintf("nothing in %s matches %q", in, e.Path)
	}
	return fmt.Sprintf("%q not found in %s", e.Path, in)
}

// Is makes errors.Is(err, fs.ErrNotExist) hold.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// Resolve lists the paths that a selection's Path stands for, from the tree's
// root, without those that are ignored. If there is none, the error is a
// *NotFoundError.
func (t Tree) Resolve(sel Selection) ([]string, error) {
	p := clean(sel.Path)
	matches := []string{p}
	if sel.Wildcard {
		// What is no pattern would only match nothing.
		if _, err := path.Match(p, ""); err != nil {
			return nil, noPattern(p, err)
		}
		var err error
		matches, err = t.expand(p, sel.FollowLinks)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &NotFoundError{Path: BeforeWildcard(p)}
		}
		if err != nil {
			return nil, err
		}
	}
	matcher, err := newMatcher(t.Exclude)
	if err != nil {
		return nil, err
	}
	var kept []string
	var hidden string
	for _, m := range matches {
		m = clean(m)
		by, err := t.hidden(m, matcher)
		if err != nil {
			return nil, err
		}
		if by != "" {
			hidden = by
			continue
		}
		real, err := t.real(m, sel.FollowLinks)
		if err != nil {
			return nil, err
		}
		if _, err := os.Lstat(real); errors.Is(err, fs.ErrNotExist) {
			// A link that a pattern matches and that leads nowhere is missing, as it is
			// when it is named.
			if itself, err := t.real(m, false); sel.FollowLinks && err == nil {
				if _, err := os.Lstat(itself); err == nil {
					return nil, &NotFoundError{Path: m}
				}
			}
			continue
		}
		kept = append(kept, m)
	}
	if len(kept) == 0 {
		return nil, &NotFoundError{Path: p, Ignored: hidden, Pattern: sel.Wildcard && strings.ContainsAny(p, "*?[")}
	}
	return kept, nil
}

// BeforeWildcard is the directory that the matches of a pattern are in, from the tree's
// root.
func BeforeWildcard(pattern string) string {
	pattern = clean(pattern)
	if i := strings.IndexAny(pattern, "*?["); i >= 0 {
		pattern = pattern[:i]
	}
	return clean(pattern[:strings.LastIndex(pattern, "/")+1])
}

// Named reports whether a directory is the root, or among what paths stand for, wildcards
// and links included, with all that leads there.
func (t Tree) Named(ctx context.Context, dir string, paths []string) (bool, error) {
	dir = strings.TrimPrefix(clean(dir), "/")
	if dir == "" {
		return true, nil
	}
	all, err := fsutil.NewFS(t.Dir)
	if err != nil {
		return false, err
	}
	some, err := fsutil.NewFilterFS(all, &fsutil.FilterOpt{ExcludePatterns: t.Exclude, FollowPaths: paths})
	if err != nil {
		return false, err
	}
	errFound := errors.New("found")
	err = some.Walk(ctx, "", func(p string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.ToSlash(p) == dir {
			return errFound
		}
		return err
	})
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}

// expand lists what a pattern matches. It reads the directories that can have
// matches, where the library reads the whole tree.
func (t Tree) expand(pattern string, followLinks bool) ([]string, error) {
	if strings.ContainsAny(pattern, `[\`) { // may match a slash, or hide one
		return fscopy.ResolveWildcards(t.Dir, pattern, followLinks)
	}
	parts := strings.Split(strings.Trim(pattern, "/"), "/")
	i := slices.IndexFunc(parts, func(s string) bool { return strings.ContainsAny(s, "*?") })
	if i < 0 {
		return []string{pattern}, nil
	}
	base := clean(strings.Join(parts[:i], "/"))
	dir, err := t.real(base, followLinks)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return nil, err
	}
	return expandBelow(nil, dir, base, parts[i:])
}

// expandBelow adds the paths below a directory that match the parts of a pattern,
// one part a level. Links are not followed.
func expandBelow(found []string, real, rel string, parts []string) ([]string, error) {
	names := []string{parts[0]}
	if strings.ContainsAny(parts[0], "*?") {
		entries, err := os.ReadDir(real)
		if err != nil {
			return nil, err
		}
		names = names[:0]
		for _, e := range entries {
			if ok, _ := filepath.Match(parts[0], e.Name()); ok {
				names = append(names, e.Name())
			}
		}
	}
	for _, n := range names {
		p := filepath.Join(real, n)
		info, err := os.Lstat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case len(parts) == 1:
			found = append(found, path.Join(rel, n))
		case info.IsDir():
			if found, err = expandBelow(found, p, path.Join(rel, n), parts[1:]); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// Require makes sure that a path is there and not ignored; if not, the error is a
// *NotFoundError.
func (t Tree) Require(p string) error {
	_, err := t.Resolve(Selection{Path: p})
	return err
}

// hidden names the pattern that leaves a path out, or "" if it stays. A
// directory that is left out stays as long as a pattern brings back something in
// it.
func (t Tree) hidden(p string, matcher *patternmatcher.PatternMatcher) (string, error) {
	rel := strings.TrimPrefix(p, "/")
	if matcher == nil || rel == "" {
		return "", nil
	}
	match, err := matcher.MatchesOrParentMatches(filepath.FromSlash(rel))
	if err != nil || !match {
		return "", err
	}
	if matcher.Exclusions() {
		back, err := t.bringsBack(p, matcher)
		if back || err != nil {
			return "", err
		}
	}
	for _, pattern := range t.Exclude {
		one, err := newMatcher([]string{pattern})
		if err != nil || one == nil {
			continue
		}
		if m, _ := one.MatchesOrParentMatches(filepath.FromSlash(rel)); m {
			return pattern, nil
		}
	}
	return "*", nil
}

// mayBringBack reports whether a pattern may bring back something in a directory
// that is left out.
func (t Tree) mayBringBack(dir string) bool {
	return slices.ContainsFunc(t.Below(dir), func(p string) bool { return strings.HasPrefix(p, "!") })
}

// bringsBack reports whether something in a directory that is left out is brought
// back by a pattern.
func (t Tree) bringsBack(dir string, matcher *patternmatcher.PatternMatcher) (bool, error) {
	if !t.mayBringBack(dir) {
		return false, nil
	}
	real, err := t.real(dir, false)
	if err != nil {
		return false, err
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return false, nil //nolint:nilerr // a file, or nothing: there is nothing in it
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		ignored, err := matcher.MatchesOrParentMatches(filepath.FromSlash(strings.TrimPrefix(p, "/")))
		if err != nil || !ignored {
			return !ignored, err
		}
		if back, err := t.bringsBack(p, matcher); back || err != nil {
			return back, err
		}
	}
	return false, nil
}

// Implied lists the directories that are left out and there all the same, for
// something in them: those at and below a path, by their paths from there. The
// path's own is ".".
func (t Tree) Implied(dir string) ([]string, error) {
	matcher, err := newMatcher(t.Exclude)
	if err != nil || matcher == nil || !matcher.Exclusions() {
		return nil, err
	}
	root, err := t.real(dir, true)
	if err != nil {
		return nil, err
	}
	var out []string
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		at := path.Join(clean(dir), filepath.ToSlash(rel))
		if at == "/" {
			return nil
		}
		ignored, err := matcher.MatchesOrParentMatches(filepath.FromSlash(at[1:]))
		switch {
		case err != nil || !ignored:
			return err
		case !t.mayBringBack(at):
			return filepath.SkipDir
		}
		out = append(out, filepath.ToSlash(rel))
		return nil
	})
	return out, err
}

// real is the path on the host, with links resolved inside the tree.
func (t Tree) real(p string, followLast bool) (string, error) {
	if p == "/" {
		return t.Dir, nil
	}
	if followLast {
		return rootfs.RootPath(t.Dir, p)
	}
	dir, base := path.Split(p)
	parent, err := rootfs.RootPath(t.Dir, dir)
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, base), nil
}

// Below gives the ignore patterns as they read from inside dir.
func (t Tree) Below(dir string) []string {
	patterns := t.Exclude
	for _, name := range strings.Split(strings.Trim(clean(dir), "/"), "/") {
		if name == "" {
			continue
		}
		patterns = descend(patterns, name)
	}
	return patterns
}

// descend takes patterns from a directory into its child called name. It is the
// derivative of each pattern: what must still match once name has matched.
func descend(patterns []string, name string) []string {
	var out []string
	for _, p := range patterns {
		sign, body := "", p
		if strings.HasPrefix(body, "!") {
			sign, body = "!", body[1:]
		}
		for _, d := range derive(strings.Split(strings.Trim(path.Clean("/"+body), "/"), "/"), name) {
			out = append(out, sign+d)
		}
	}
	return out
}

func derive(pattern []string, name string) []string {
	if len(pattern) == 0 || pattern[0] == "" {
		return nil
	}
	first, rest := pattern[0], pattern[1:]
	if first == "**" {
		// It may stand for this name and more, or end before it.
		out := []string{strings.Join(pattern, "/")}
		if len(rest) == 0 {
			return out
		}
		return append(out, derive(rest, name)...)
	}
	matcher, err := patternmatcher.New([]string{first})
	if err != nil {
		return nil
	}
	var out []string
	if strings.Contains(first, "**") {
		out = append(out, strings.Join(pattern, "/")) // "**.log" spans directories
	}
	if ok, err := matcher.MatchesOrParentMatches(name); err != nil || !ok {
		return out
	}
	if len(rest) == 0 {
		return append(out, "**") // the directory itself is meant: all that is in it
	}
	return append(out, strings.Join(rest, "/"))
}

func newMatcher(patterns []string) (*patternmatcher.PatternMatcher, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	return patternmatcher.New(patterns)
}

func clean(p string) string { return path.Clean("/" + filepath.ToSlash(p)) }
