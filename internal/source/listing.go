package source

// Listing a tree is what every build does, changed or not, so it is made of as few
// system calls as there can be: one look at each file, none at what is ignored, on
// all cores.

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/moby/patternmatcher"
	"golang.org/x/sync/errgroup"

	"github.com/zbuild/zbuild/internal/beneath"
)

// Listing is what a selection takes, as it was when it was digested. It is
// immutable.
type Listing struct {
	State
	Matches []Match
}

// Match is one of the places that a selection starts from.
type Match struct {
	// Path is where it is in the tree, Root where that is on the host.
	Path, Root string
	// Files begins with the match itself; a directory comes before what is in it.
	Files []File

	dir string // the tree's
	rel string // the path from there to Root
}

// Dir is the directory of the tree that the match is in.
func (m *Match) Dir() string { return m.dir }

// below is the path of one of the match's files from the tree's directory. There
// are no links in it.
func (m *Match) below(name string) string { return filepath.Join(m.rel, filepath.FromSlash(name)) }

// Real is the place of a file on the host.
func (m *Match) Real(f *File) string {
	if f.Name == "." {
		return m.Root
	}
	return m.Root + string(filepath.Separator) + filepath.FromSlash(f.Name)
}

// File is one file, directory or link of a selection.
type File struct {
	// Name is its path from the match; the match's own is ".".
	Name string
	Mode fs.FileMode
	// UID and GID are the owner's, where the system has such.
	UID, GID uint32
	nlink    uint32
	Size     int64
	// ID tells one state of a file from another; it is zero where the system does
	// not say enough.
	ID identity
	// Link is the target of a symbolic link, Twin the name of an earlier hard link
	// to the same file.
	Link, Twin string
	// Digest is the SHA-256 of a regular file's content, unless it has a Twin.
	Digest [32]byte
	// Device is which device a device is.
	Device uint64
	attrs  []string // the extended attributes that are part of the digest

	// Attrs says that the file may have extended attributes.
	Attrs bool
	// Implied says that a directory is ignored or not selected, and is here for
	// something in it that is.
	Implied bool
	read    bool // attrs has been
	known   bool // Digest and Attrs are right
	young   bool // it may have changed since it was digested, and look the same
}

// setAttrs fills in the extended attributes of what a path leads to, or of the link
// that it is.
func (f *File) setAttrs(path string, link bool) (err error) {
	f.attrs, f.Attrs, err = xattrs(path, link)
	f.read = true
	return err
}

// walker lists what is at and below one match.
type walker struct {
	ctx              context.Context
	include, exclude []string
	index            *FileIndex
	group            *errgroup.Group
	matchers         sync.Pool // of *matchers
	since            *pastMatch
	root             *beneath.Dir // the tree's directory
	match            *Match
}

// matchers are patterns for one goroutine: they compile themselves when they are
// used first.
type matchers struct {
	include, exclude *patternmatcher.PatternMatcher
	buf              []byte // for reading directories
}

// matched is what is known of a directory when its contents are matched.
type matched struct{ include, exclude patternmatcher.MatchInfo }

// node is a directory that has been read.
type node struct{ entries []nodeEntry }

type nodeEntry struct {
	file *File // may be that of an earlier listing
	out  bool  // the directory itself is not selected
	sub  *node // what is in the directory
}

// Walk lists what is at and below a path of the tree and digests nothing. If there is
// nothing, the error is a *NotFoundError.
func (t Tree) Walk(ctx context.Context, p string, followLinks bool) (*Match, error) {
	root, err := beneath.Open(t.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	m, err := t.walk(ctx, root, p, Selection{Path: p, FollowLinks: followLinks}, nil, nil)
	if err != nil {
		return nil, err
	}
	return &m, nil
}

// walk lists what is selected at and below one match, sorted by name. root is the
// tree's directory.
func (t Tree) walk(ctx context.Context, root *beneath.Dir, match string, sel Selection, index *FileIndex, since *past) (Match, error) {
	m := Match{Path: match, dir: t.Dir}
	var err error
	if m.Root, err = t.real(match, sel.FollowLinks); err != nil {
		return m, err
	}
	if m.rel, err = filepath.Rel(t.Dir, m.Root); err != nil {
		return m, err
	}
	first, err := statBelow(root, m.below("."), m.Root)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = &NotFoundError{Path: match}
		}
		return m, err
	}
	first.Name, first.Attrs = ".", true
	if first.Mode&fs.ModeSymlink != 0 {
		if first.Link, err = readlinkBelow(root, m.below("."), m.Root); err != nil {
			return m, err
		}
	}
	if first.Mode.IsRegular() && index != nil {
		dir, base := filepath.Split(m.Root)
		index.dir(filepath.Clean(dir)).fill(base, &first)
	}
	m.Files = []File{first}
	if first.Mode.IsDir() {
		w := &walker{
			ctx: ctx, index: index, group: new(errgroup.Group),
			include: sel.Include, exclude: slices.Concat(t.Below(match), sel.Exclude),
			since: since.of(&m), root: root, match: &m,
		}
		w.group.SetLimit(runtime.GOMAXPROCS(0))
		mt, err := w.newMatchers()
		if err != nil {
			return m, err
		}
		top := &node{}
		err = w.dir(visit{node: top, self: first, real: m.Root, info: &matched{}, was: w.since.top()}, mt)
		if err = errors.Join(err, w.group.Wait()); err != nil {
			return m, err
		}
		m.Files = top.flatten(make([]File, 0, 1+top.count()), first)
	}
	m.findTwins()
	return m, nil
}

func (w *walker) newMatchers() (*matchers, error) {
	if m, ok := w.matchers.Get().(*matchers); ok {
		return m, nil
	}
	m := matchers{buf: make([]byte, 32<<10)}
	var err error
	if m.include, err = newMatcher(w.include); err != nil {
		return nil, err
	}
	m.exclude, err = newMatcher(w.exclude)
	return &m, err
}

// visit is a directory whose turn it is.
type visit struct {
	node *node
	self File // as it is now
	// real is its place on the host, rel its path from the match, "" for that itself.
	real, rel string
	info      *matched // nil as long as it has not been needed
	was       []File   // itself and what was in it; nil if that is not known
}

// dir lists one directory. What is below it is listed by others if any are free.
func (w *walker) dir(v visit, mt *matchers) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	dirs, ok := w.recall(&v)
	if !ok {
		var err error
		if dirs, err = w.read(&v, mt); err != nil {
			return err
		}
	}
	for i, sub := range dirs {
		work := func() error {
			mt, err := w.newMatchers()
			if err != nil {
				return err
			}
			defer w.matchers.Put(mt)
			return w.dir(sub, mt)
		}
		if i < len(dirs)-1 && w.group.TryGo(work) {
			continue
		}
		if err := w.dir(sub, mt); err != nil {
			return err
		}
	}
	return nil
}

// read reads a directory and looks at what is in it. It gives the directories in
// it.
func (w *walker) read(v *visit, mt *matchers) (dirs []visit, err error) {
	if v.info == nil {
		if v.info, err = mt.way(v.rel); err != nil {
			return nil, err
		}
	}
	d, err := openDir(w.root, w.match.below(v.rel), v.real)
	if err != nil {
		return nil, err
	}
	defer d.close()
	names, err := d.names(mt.buf)
	if err != nil {
		return nil, err
	}
	var known *indexDir
	if w.index != nil {
		known = w.index.dir(v.real)
		defer known.close()
	}
	was := w.since.inside(v.was)
	v.node.entries = make([]nodeEntry, 0, len(names))
	files := make([]File, len(names))
	for i, name := range names {
		e := nodeEntry{file: &files[i]}
		e.file.Name = name
		if v.rel != "" {
			e.file.Name = v.rel + "/" + name
		}
		selected, ignored, info, err := mt.match(filepath.FromSlash(e.file.Name), *v.info)
		if err != nil {
			return nil, err
		}
		if ignored && (mt.exclude == nil || !mt.exclude.Exclusions()) {
			continue
		}
		e.out, e.file.Attrs = !selected || ignored, true
		if e.out && !d.mayBeDir(name) {
			continue
		}
		switch err := d.stat(name, e.file); {
		case errors.Is(err, fs.ErrNotExist):
			continue // deleted since it was listed
		case err != nil:
			return nil, err
		}
		switch {
		case e.file.Mode.IsDir():
			e.sub = &node{}
			dirs = append(dirs, visit{
				node: e.sub, self: *e.file, real: filepath.Join(v.real, name), rel: e.file.Name, info: &info, was: was[e.file.Name],
			})
		case e.out:
			continue
		case known != nil:
			known.fill(name, e.file)
		}
		v.node.entries = append(v.node.entries, e)
	}
	return dirs, nil
}

// match says of a path whether the include patterns select it and the exclude
// patterns ignore it.
func (m *matchers) match(name string, parent matched) (selected, ignored bool, info matched, err error) {
	selected = true
	if m.include != nil {
		if selected, info.include, err = m.include.MatchesUsingParentResults(name, parent.include); err != nil {
			return false, false, info, err
		}
	}
	if m.exclude != nil {
		ignored, info.exclude, err = m.exclude.MatchesUsingParentResults(name, parent.exclude)
	}
	return selected, ignored, info, err
}

// way is what is known of a directory that was not come to by matching all that
// are above it.
func (m *matchers) way(rel string) (*matched, error) {
	info := matched{}
	for i := range len(rel) + 1 {
		if i < len(rel) && rel[i] != '/' || rel == "" {
			continue
		}
		var err error
		if _, _, info, err = m.match(filepath.FromSlash(rel[:i]), info); err != nil {
			return nil, err
		}
	}
	return &info, nil
}

func (n *node) count() int {
	total := len(n.entries)
	for i := range n.entries {
		if s := n.entries[i].sub; s != nil {
			total += s.count()
		}
	}
	return total
}

// flatten appends a directory and all that is in it.
func (n *node) flatten(out []File, self File) []File {
	out = append(out, self)
	for i := range n.entries {
		e := &n.entries[i]
		switch {
		case e.sub == nil:
			out = append(out, *e.file)
		case !e.out:
			out = e.sub.flatten(out, *e.file)
		default:
			start := len(out)
			e.file.Implied = true
			if out = e.sub.flatten(out, *e.file); len(out) == start+1 {
				out = out[:start] // nothing in it is wanted
			}
		}
	}
	return out
}

// findTwins finds files that have more than one name here.
func (m *Match) findTwins() {
	type inode struct{ dev, ino uint64 }
	var first map[inode]string
	for i := range m.Files {
		f := &m.Files[i]
		f.Twin = ""
		if f.nlink < 2 || !f.Mode.IsRegular() {
			continue
		}
		id := inode{f.ID.Dev, f.ID.Ino}
		if name, ok := first[id]; ok {
			// What the index may know of it under this name makes no difference.
			f.Twin, f.Digest, f.Attrs, f.known, f.young = name, [32]byte{}, true, false, false
			f.attrs, f.read = nil, false
			continue
		}
		if first == nil {
			first = make(map[inode]string)
		}
		first[id] = f.Name
	}
}
