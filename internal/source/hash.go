package source

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/maphash"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/zbuild/zbuild/internal/beneath"
)

// State is what a selection was when it was looked at.
type State struct {
	// Digest is that of its content.
	Digest digest.Digest
	// Stamp is the same for as long as no file of it is touched, by whatever the
	// system says of one. It means nothing outside of this process.
	Stamp uint64
}

// stamps is where the stamps of this process start from.
var stamps = maphash.MakeSeed()

// Hasher digests selections. It may be used from several goroutines.
type Hasher struct {
	// Index remembers the digests of files between calls; nil remembers nothing.
	Index *FileIndex
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
func (h *Hasher) note(real string, f *File) {
	if h.Index != nil {
		if d, ok := h.Index.last(real); ok && d == f.Digest {
			return
		}
	}
	r := fileRead{path: real, changed: time.Unix(0, max(f.ID.Mtime, f.ID.Ctime))}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.read = append(h.read, r)
}

// Hash digests what a selection takes: paths, types, modes, link targets,
// extended attributes and bytes, but neither times nor owners.
func (h *Hasher) Hash(ctx context.Context, t Tree, sel Selection) (digest.Digest, error) {
	l, err := h.List(ctx, t, sel)
	if err != nil {
		return "", err
	}
	return l.Digest, nil
}

// List lists what a selection takes and digests it, as Hash does. If files come and
// go while it looks, it looks again.
func (h *Hasher) List(ctx context.Context, t Tree, sel Selection) (*Listing, error) {
	return h.list(ctx, t, sel, nil)
}

// list is List, with what was known before: nil if that is nothing.
func (h *Hasher) list(ctx context.Context, t Tree, sel Selection, since *past) (*Listing, error) {
	for try := 1; ; try++ {
		l, err := h.listOnce(ctx, t, sel, since)
		if err == nil || !Moved(err) || try == 5 || ctx.Err() != nil {
			return l, err
		}
		since = nil
	}
}

// Moved reports whether an error may come of a file that was taken away, or became
// another kind of file, while it was being read.
func Moved(err error) bool {
	var none *NotFoundError
	if errors.As(err, &none) {
		return false
	}
	for _, e := range []error{fs.ErrNotExist, syscall.ELOOP, syscall.ENOTDIR, beneath.ErrNotRegular, beneath.ErrNotLink} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (h *Hasher) listOnce(ctx context.Context, t Tree, sel Selection, since *past) (*Listing, error) {
	paths, err := t.Resolve(sel)
	if err != nil {
		return nil, err
	}
	root, err := beneath.Open(t.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	l := &Listing{}
	sum := &fields{hash: sha256.New(), owners: h.Owners}
	for _, p := range paths {
		m, err := t.walk(ctx, root, p, sel, h.Index, since)
		if err != nil {
			return nil, err
		}
		if err := h.hashFiles(ctx, root, &m); err != nil {
			return nil, err
		}
		sum.add(path.Base(p))
		for i := range m.Files {
			if err := sum.file(root, &m, &m.Files[i]); err != nil {
				return nil, err
			}
		}
		l.Matches = append(l.Matches, m)
	}
	l.Digest, l.Stamp = sum.digest(), l.stamp()
	return l, nil
}

// stamp tells one state of the files from another. Directories count by what is
// in them: their times change with what is ignored, too.
func (l *Listing) stamp() uint64 {
	var sum maphash.Hash
	sum.SetSeed(stamps)
	for i := range l.Matches {
		for j := range l.Matches[i].Files {
			f := &l.Matches[i].Files[j]
			id := f.ID
			if f.Mode.IsDir() {
				id = identity{}
			}
			maphash.WriteComparable(&sum, f.Name)
			maphash.WriteComparable(&sum, f.Mode)
			maphash.WriteComparable(&sum, id)
		}
	}
	return sum.Sum64()
}

// fields writes to a hash so that two fields can never be taken for one.
type fields struct {
	hash   hash.Hash
	buf    []byte
	owners bool
}

func (w *fields) add(s string) {
	w.buf = binary.AppendUvarint(w.buf, uint64(len(s)))
	w.buf = append(w.buf, s...)
}

func (w *fields) file(root *beneath.Dir, m *Match, f *File) error {
	w.add(f.Name)
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(f.Mode))
	w.add(f.Link)
	w.add(f.Twin)
	w.buf = append(w.buf, f.Digest[:]...)
	if w.owners {
		for _, n := range []uint64{uint64(f.UID), uint64(f.GID), f.Device} {
			w.buf = binary.AppendUvarint(w.buf, n)
		}
	}
	if f.Attrs {
		if !f.read {
			var err error
			if f.attrs, err = attrsBelow(root, m.below(f.Name), m.Real(f)); err != nil {
				return err
			}
			f.read = true
		}
		for _, a := range f.attrs {
			w.add(a)
		}
	}
	w.buf = append(w.buf, 0xff)
	if len(w.buf) > 32<<10 {
		w.hash.Write(w.buf)
		w.buf = w.buf[:0]
	}
	return nil
}

func (w *fields) digest() digest.Digest {
	w.hash.Write(w.buf)
	return digest.NewDigest(digest.SHA256, w.hash)
}

// hashFiles digests the content of the regular files, on all cores.
func (h *Hasher) hashFiles(ctx context.Context, root *beneath.Dir, m *Match) error {
	var todo []*File
	for i := range m.Files {
		if f := &m.Files[i]; f.Mode.IsRegular() && f.Twin == "" && !f.known {
			todo = append(todo, f)
		}
	}
	// The big ones first: the last worker to finish then has little left to do.
	slices.SortStableFunc(todo, func(a, b *File) int { return int(min(max(b.Size-a.Size, -1), 1)) })
	const batch = 32 // files a worker takes at once, when they are small
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for len(todo) > 0 {
		n := 1
		if todo[0].Size < 64<<10 {
			n = min(batch, len(todo))
		}
		some := todo[:n]
		todo = todo[n:]
		g.Go(func() error {
			for _, f := range some {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := h.hashFile(root, m, f); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// hashFile digests one file. A file that changes while it is read is read again,
// so that its digest belongs to what the system says of it.
func (h *Hasher) hashFile(root *beneath.Dir, m *Match, f *File) error {
	real := m.Real(f)
	for range 5 {
		now, err := h.readFile(root, m.below(f.Name))
		if err != nil {
			return err
		}
		same := now.ID == f.ID
		now.Name = f.Name
		*f = now
		f.known, f.young = true, h.Index == nil || h.Index.young(f)
		if same {
			h.note(real, f)
			if h.Index != nil {
				h.Index.store(real, f)
			}
			return nil
		}
	}
	return fmt.Errorf("%s keeps changing while it is read", real)
}

// readFile reads a file and says what it is afterwards.
func (h *Hasher) readFile(root *beneath.Dir, name string) (File, error) {
	o, err := root.File(name)
	if err != nil {
		return File{}, err
	}
	defer o.Close()
	buf, _ := h.buffers.Get().(*[]byte)
	if buf == nil {
		b := make([]byte, 128<<10)
		buf = &b
	}
	defer h.buffers.Put(buf)
	sum := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{o}, *buf); err != nil {
		return File{}, fmt.Errorf("reading %s: %w", o.Name(), err)
	}
	f, err := statOpen(o)
	if err == nil {
		sum.Sum(f.Digest[:0])
		err = attrsOpen(o, &f)
	}
	return f, err
}

// isIgnoredXattr leaves out what belongs to the host and not to the file.
func isIgnoredXattr(name string) bool {
	return strings.HasPrefix(name, "system.") || name == "security.selinux" || strings.HasPrefix(name, "trusted.overlay.") ||
		strings.HasPrefix(name, "user.overlay.")
}
