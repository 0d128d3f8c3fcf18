package source

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/moby/patternmatcher"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Hasher digests selections. It may be used from several goroutines.
type Hasher struct {
	// Index remembers the digests of files between calls; nil remembers nothing.
	Index Index
	// Owners says that owners and the numbers of devices are part of a digest. They
	// are where a copy keeps them, as it does of an image's files and not of the
	// host's.
	Owners bool

	buffers sync.Pool

	mu   sync.Mutex
	read []fileRead
}

// fileRead is a file whose content was not known and had to be read.
type fileRead struct {
	path    string
	changed time.Time // at the latest
}

// Changed lists the files that were read since the Hasher was made because their
// content may have changed after since, in the order of their paths. A file that
// the index knows to have the same content as before is not among them.
func (h *Hasher) Changed(since time.Time) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, f := range h.read {
		if f.changed.After(since) {
			out = append(out, f.path)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// note remembers that a file was read.
func (h *Hasher) note(e *entry) {
	if x, ok := h.Index.(*FileIndex); ok {
		if d, ok := x.last(e.real); ok && d == e.digest {
			return
		}
	}
	f := fileRead{path: e.real, changed: e.info.ModTime()}
	if id, ok := identify(e.info); ok {
		f.changed = time.Unix(0, max(id.Mtime, id.Ctime))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.read = append(h.read, f)
}

// Index maps the identity of a file's content to its digest.
type Index interface {
	Lookup(path string, info fs.FileInfo) (digest.Digest, bool)
	Store(path string, info fs.FileInfo, d digest.Digest)
}

// entry is one file, directory or link of a selection.
type entry struct {
	name   string // from the root of the match
	real   string
	info   fs.FileInfo
	link   string // target of a symbolic link
	twin   string // name of an earlier hard link to the same file
	digest digest.Digest
}

// Hash digests what a selection takes: paths, types, modes, link targets,
// extended attributes and bytes, but neither times nor owners.
func (h *Hasher) Hash(ctx context.Context, t Tree, sel Selection) (digest.Digest, error) {
	matches, err := t.Resolve(sel)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, m := range matches {
		entries, err := t.walk(ctx, m, sel)
		if err != nil {
			return "", err
		}
		if err := h.hashFiles(ctx, entries); err != nil {
			return "", err
		}
		field(sum, path.Base(m))
		for _, e := range entries {
			if err := e.write(sum, h.Owners); err != nil {
				return "", err
			}
		}
	}
	return digest.NewDigest(digest.SHA256, sum), nil
}

func (e *entry) write(sum hash.Hash, owners bool) error {
	field(sum, e.name)
	var mode [4]byte
	binary.BigEndian.PutUint32(mode[:], uint32(e.info.Mode()))
	sum.Write(mode[:])
	field(sum, e.link)
	field(sum, e.twin)
	field(sum, string(e.digest))
	if owners {
		field(sum, ownership(e.info))
	}
	attrs, err := xattrs(e.real)
	if err != nil {
		return err
	}
	for _, a := range attrs {
		field(sum, a)
	}
	sum.Write([]byte{0xff})
	return nil
}

// field writes a string so that two fields can never be taken for one.
func field(sum hash.Hash, s string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(s)))
	sum.Write(n[:])
	io.WriteString(sum, s) //nolint:errcheck // a hash never fails
}

// walk lists what is selected at and below one match, sorted by name.
func (t Tree) walk(ctx context.Context, match string, sel Selection) ([]*entry, error) {
	root, err := t.real(match, sel.FollowLinks)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(root)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &NotFoundError{Path: match}
		}
		return nil, err
	}
	w := &walker{ctx: ctx, links: make(map[fileID]string)}
	if w.exclude, err = newMatcher(slices.Concat(t.Below(match), sel.Exclude)); err != nil {
		return nil, err
	}
	if w.include, err = newMatcher(sel.Include); err != nil {
		return nil, err
	}
	first := &entry{name: ".", real: root, info: info}
	if err := w.add(first); err != nil {
		return nil, err
	}
	if info.IsDir() {
		if err := w.dir(root, "", patternmatcher.MatchInfo{}, patternmatcher.MatchInfo{}); err != nil {
			return nil, err
		}
	}
	return w.entries, nil
}

type walker struct {
	ctx              context.Context
	include, exclude *patternmatcher.PatternMatcher
	entries          []*entry
	links            map[fileID]string
}

func (w *walker) dir(real, rel string, inParent, exParent patternmatcher.MatchInfo) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	names, err := os.ReadDir(real)
	if err != nil {
		return err
	}
	for _, d := range names {
		name := path.Join(rel, d.Name())
		included, excluded := true, false
		var in, ex patternmatcher.MatchInfo
		if w.include != nil {
			if included, in, err = w.include.MatchesUsingParentResults(filepath.FromSlash(name), inParent); err != nil {
				return err
			}
		}
		if w.exclude != nil {
			if excluded, ex, err = w.exclude.MatchesUsingParentResults(filepath.FromSlash(name), exParent); err != nil {
				return err
			}
		}
		if excluded && (!d.IsDir() || !w.exclude.Exclusions()) {
			continue
		}
		sub := filepath.Join(real, d.Name())
		if included && !excluded {
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted since it was listed
			}
			if err != nil {
				return err
			}
			if err := w.add(&entry{name: name, real: sub, info: info}); err != nil {
				return err
			}
		}
		if d.IsDir() {
			if err := w.dir(sub, name, in, ex); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walker) add(e *entry) error {
	switch {
	case e.info.Mode()&fs.ModeSymlink != 0:
		link, err := os.Readlink(e.real)
		if err != nil {
			return err
		}
		e.link = link
	case e.info.Mode().IsRegular():
		if id, ok := hardLinked(e.info); ok {
			if first, ok := w.links[id]; ok {
				e.twin = first
			} else {
				w.links[id] = e.name
			}
		}
	}
	w.entries = append(w.entries, e)
	return nil
}

// hashFiles digests the content of the regular files, on all cores.
func (h *Hasher) hashFiles(ctx context.Context, entries []*entry) error {
	var todo []*entry
	for _, e := range entries {
		if !e.info.Mode().IsRegular() || e.twin != "" {
			continue
		}
		if h.Index != nil {
			if d, ok := h.Index.Lookup(e.real, e.info); ok {
				e.digest = d
				continue
			}
		}
		todo = append(todo, e)
	}
	// The big ones first: the last worker to finish then has little left to do.
	sort.SliceStable(todo, func(i, j int) bool { return todo[i].info.Size() > todo[j].info.Size() })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, e := range todo {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return h.hashFile(e)
		})
	}
	return g.Wait()
}

// hashFile digests one file. A file that changes while it is read is read again,
// so that its digest belongs to what the system says of it.
func (h *Hasher) hashFile(e *entry) error {
	for range 5 {
		d, info, err := h.digest(e.real)
		if err != nil {
			return err
		}
		same := info.Size() == e.info.Size() && info.ModTime().Equal(e.info.ModTime())
		e.info, e.digest = info, d
		if same {
			h.note(e)
			if h.Index != nil {
				h.Index.Store(e.real, e.info, d)
			}
			return nil
		}
	}
	return fmt.Errorf("%s keeps changing while it is read", e.real)
}

// digest reads a file and says what it is afterwards.
func (h *Hasher) digest(name string) (digest.Digest, fs.FileInfo, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	buf, _ := h.buffers.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, 64<<10)
		buf = &b
	}
	defer h.buffers.Put(buf)
	sum := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{f}, *buf); err != nil {
		return "", nil, fmt.Errorf("reading %s: %w", name, err)
	}
	info, err := f.Stat()
	return digest.NewDigest(digest.SHA256, sum), info, err
}

// isIgnoredXattr leaves out what belongs to the host and not to the file.
func isIgnoredXattr(name string) bool {
	return strings.HasPrefix(name, "system.") || name == "security.selinux" || strings.HasPrefix(name, "trusted.overlay.") ||
		strings.HasPrefix(name, "user.overlay.")
}
