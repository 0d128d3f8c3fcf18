//go:build linux

package buildah

// One pass over the directory of a layer that links its files into another one and
// makes the tar of them, the very same that the store's driver would: for its digest
// and its tar-split. Files are looked at and read on all cores, and what they come
// to is put together in their order.

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	digest "github.com/opencontainers/go-digest"
	tarsplit "github.com/vbatts/tar-split/tar/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/system"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// pieceFiles is how many files one worker takes at a time.
	pieceFiles = 64
	// pieceSize is how much of a tar a piece may be. What is more of its files is read
	// when it is its turn.
	pieceSize = 2 << 20
)

// linkTar links a tree and makes its tar.
type linkTar struct {
	ctx       context.Context
	src, dest string // without dest only the tar is made
	convert   archive.TarWhiteoutConverter
	skip      unchanged // has no place in either
	to        io.Writer // gets the tar; without it the tar is digested

	size  int64
	split tarsplit.Packer
	seen  map[uint64]string // the name that a file with several has in the tar

	uids, gids map[uint32]bool
	dirs       []madeDir

	buffers sync.Pool // of *bytes.Buffer
}

// madeDir is a directory that gets its attributes when all is in it.
type madeDir struct {
	path string
	stat *syscall.Stat_t
}

// piece is some files of the tree.
type piece struct {
	names []string // from the root of the tree
	dirs  []bool   // which of them are directories
	tar   *bytes.Buffer
	files []pieceFile // parallel to names
	done  chan error
}

func newPiece() *piece { return &piece{done: make(chan error, 1)} }

// pieceFile is what one file comes to.
type pieceFile struct {
	info  fs.FileInfo
	head  *tar.Header
	extra *tar.Header // of a file that says of a directory that it hides what is below
	// header and body are where its header and content end in the piece's tar, next is
	// where that of the next file begins. A body of -1 has not been read.
	header, body, next int
	crc                uint64
}

// run fills the tree, and out with what is known of it.
func (l *linkTar) run(split io.Writer, out *graphdriver.DriverWithDifferOutput) error {
	sum := digest.Canonical.Digester()
	if l.to == nil {
		l.to = sum.Hash()
	}
	l.seen = make(map[uint64]string)
	l.uids, l.gids = make(map[uint32]bool), make(map[uint32]bool)
	w := bufio.NewWriterSize(split, 256<<10)
	if l.dest != "" {
		l.split = tarsplit.NewJSONPacker(w)
	}

	cores := runtime.GOMAXPROCS(0)
	todo, order := make(chan *piece), make(chan *piece, 2*cores)
	g, ctx := errgroup.WithContext(l.ctx)
	g.Go(func() error {
		defer close(todo)
		defer close(order)
		return l.walk(ctx, todo, order)
	})
	for range cores {
		g.Go(func() error {
			var content []byte
			for p := range todo {
				var err error
				content, err = l.make(ctx, p, content)
				p.done <- err
			}
			return nil
		})
	}
	g.Go(func() error { return l.collect(ctx, order) })
	if err := g.Wait(); err != nil {
		return err
	}
	var end bytes.Buffer
	if err := tar.NewWriter(&end).Close(); err != nil {
		return err
	}
	if err := errors.Join(l.segment(end.Bytes()), w.Flush(), finishDirs(l.dirs)); err != nil {
		return err
	}
	out.UncompressedDigest, out.Size = sum.Digest(), l.size
	out.UIDs, out.GIDs = sortedKeys(l.uids), sortedKeys(l.gids)
	return nil
}

// collect puts together what becomes of the pieces.
func (l *linkTar) collect(ctx context.Context, order <-chan *piece) error {
	for p := range order {
		select {
		case err := <-p.done:
			if err == nil {
				err = l.append(p)
			}
			if err != nil {
				return err
			}
			l.buffers.Put(p.tar)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// walk hands out the files in the order of the tar, and makes the directories.
func (l *linkTar) walk(ctx context.Context, todo, order chan<- *piece) error {
	p := newPiece()
	send := func() error {
		for _, c := range []chan<- *piece{order, todo} {
			select {
			case c <- p:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		p = newPiece()
		return nil
	}
	err := filepath.WalkDir(l.src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(path, l.src), "/")
		switch {
		case l.skip[name] && d.IsDir():
			return fs.SkipDir
		case l.skip[name]:
			return nil
		case name != "" && d.IsDir() && l.dest != "":
			if err := os.Mkdir(filepath.Join(l.dest, name), 0o700); err != nil {
				return err
			}
		}
		p.names, p.dirs = append(p.names, name), append(p.dirs, d.IsDir())
		if len(p.names) < pieceFiles {
			return nil
		}
		return send()
	})
	if err != nil {
		return err
	}
	return send()
}

// make links the files of a piece, and makes the tar of them as far as they do not
// depend on those before. content is room to work in, and comes back.
func (l *linkTar) make(ctx context.Context, p *piece, content []byte) ([]byte, error) {
	p.files = make([]pieceFile, len(p.names))
	if p.tar, _ = l.buffers.Get().(*bytes.Buffer); p.tar == nil {
		p.tar = new(bytes.Buffer)
	}
	p.tar.Reset()
	w := tar.NewWriter(p.tar)
	for i, name := range p.names {
		if err := ctx.Err(); err != nil {
			return content, err
		}
		f := &p.files[i]
		f.header, f.body, f.next = p.tar.Len(), p.tar.Len(), p.tar.Len()
		src := filepath.Join(l.src, name)
		var err error
		if f.info, err = os.Lstat(src); err != nil {
			return content, err
		}
		if err := l.link(src, name, p.dirs[i]); err != nil {
			return content, err
		}
		if name == "" || f.info.Mode()&fs.ModeSocket != 0 {
			continue // has no place in a tar
		}
		if f.head, err = l.header(src, name, f.info); err != nil {
			return content, err
		}
		if f.info.Mode()&fs.ModeCharDevice != 0 {
			continue // may be a whiteout, and that depends on those before
		}
		if f.info.IsDir() {
			if f.extra, err = l.convert.ConvertWrite(f.head, src, f.info); err != nil {
				return content, err
			}
		}
		if err := w.WriteHeader(f.head); err != nil {
			return content, err
		}
		f.header, f.body, f.next = p.tar.Len(), p.tar.Len(), p.tar.Len()
		if f.head.Typeflag != tar.TypeReg || f.head.Size == 0 {
			continue
		}
		if int64(p.tar.Len())+f.head.Size > pieceSize {
			f.body = -1
			w = tar.NewWriter(p.tar) // the other waits for the content
			continue
		}
		if content, err = readSmall(src, f.head.Size, content); err != nil {
			return content, err
		}
		f.crc = crc64.Checksum(content, tarsplit.CRCTable)
		if _, err := w.Write(content); err != nil {
			return content, err
		}
		f.body = p.tar.Len()
		if err := w.Flush(); err != nil {
			return content, err
		}
		f.next = p.tar.Len()
	}
	return content, nil
}

// link links a file, or gives the directory that was made for it its attributes.
func (l *linkTar) link(src, name string, dir bool) error {
	switch {
	case l.dest == "":
		return nil
	case dir:
		return copyDirXattrs(src, filepath.Join(l.dest, name))
	}
	return os.Link(src, filepath.Join(l.dest, name))
}

// header makes a file's header as the store's archive package does. Attributes that
// stay behind can do so only if the file is not linked.
func (l *linkTar) header(path, name string, info fs.FileInfo) (*tar.Header, error) {
	var link string
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(path); err != nil {
			return nil, err
		}
	}
	h, err := archive.FileInfoHeader(name, info, link)
	if err != nil {
		return nil, err
	}
	names, err := system.Llistxattr(path)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return nil, err
	}
	for _, n := range names {
		if leftBehind(n) && l.dest != "" {
			return nil, errAttributes
		}
		if !inTar(n) || leftBehind(n) {
			continue
		}
		value, err := system.Lgetxattr(path, n)
		if errors.Is(err, unix.E2BIG) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[archive.PaxSchilyXattr+n] = string(value)
	}
	h.ModTime = h.ModTime.Truncate(time.Second)
	return h, nil
}

// readSmall reads a file into buf, or into a larger one.
func readSmall(path string, size int64, buf []byte) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return buf, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf = slices.Grow(buf[:0], int(size))[:size]
	for have := 0; have < len(buf); {
		n, err := unix.Read(fd, buf[have:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return buf, &fs.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return buf, &fs.PathError{Op: "read", Path: path, Err: io.ErrUnexpectedEOF}
		default:
			have += n
		}
	}
	return buf, nil
}

// append adds a piece to what there is.
func (l *linkTar) append(p *piece) error {
	raw := p.tar.Bytes()
	for i, name := range p.names {
		f := &p.files[i]
		st, ok := f.info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("no owner is known of %s", name)
		}
		l.uids[st.Uid], l.gids[st.Gid] = true, true
		if f.info.IsDir() && l.dest != "" {
			l.dirs = append(l.dirs, madeDir{filepath.Join(l.dest, name), st})
		}
		if f.head == nil {
			continue
		}
		start := 0
		if i > 0 {
			start = p.files[i-1].next
		}
		header := raw[start:f.header]
		first, again := l.seen[st.Ino]
		again = again && !f.info.IsDir() && st.Nlink > 1
		if device := f.info.Mode()&fs.ModeCharDevice != 0; again || device {
			if again {
				f.head.Typeflag, f.head.Linkname, f.head.Size = tar.TypeLink, first, 0
			}
			var err error
			if f.extra, err = l.convert.ConvertWrite(f.head, filepath.Join(l.src, name), f.info); err != nil {
				return err
			}
			if header, err = encode(f.head); err != nil {
				return err
			}
		}
		if err := l.file(p, f, header, filepath.Join(l.src, name)); err != nil {
			return err
		}
		if !again && !f.info.IsDir() && st.Nlink > 1 {
			l.seen[st.Ino] = f.head.Name
		}
		if f.extra != nil {
			header, err := encode(f.extra)
			if err != nil {
				return err
			}
			if err := errors.Join(l.segment(header), l.entry(f.extra, nil)); err != nil {
				return err
			}
		}
	}
	return nil
}

// encode gives the blocks of a header.
func encode(h *tar.Header) ([]byte, error) {
	var buf bytes.Buffer
	err := tar.NewWriter(&buf).WriteHeader(h)
	return buf.Bytes(), err
}

// file adds a file's header and content.
func (l *linkTar) file(p *piece, f *pieceFile, header []byte, path string) error {
	if err := l.segment(header); err != nil {
		return err
	}
	if f.head.Size == 0 || f.head.Typeflag != tar.TypeReg {
		return l.entry(f.head, nil)
	}
	crc := crc64.New(tarsplit.CRCTable)
	if f.body < 0 {
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		n, err := io.Copy(io.MultiWriter(l, crc), contextReader{l.ctx, in})
		if err != nil {
			return err
		}
		if n != f.head.Size {
			return &fs.PathError{Op: "read", Path: path, Err: io.ErrUnexpectedEOF}
		}
		if err := l.entry(f.head, crc.Sum(nil)); err != nil {
			return err
		}
		const block = 512
		return l.segment(make([]byte, (block-n%block)%block))
	}
	raw := p.tar.Bytes()
	if _, err := l.Write(raw[f.header:f.body]); err != nil {
		return err
	}
	if err := l.entry(f.head, binary.BigEndian.AppendUint64(nil, f.crc)); err != nil {
		return err
	}
	return l.segment(raw[f.body:f.next])
}

// Write adds bytes to the tar. It is for io.Writer.
func (l *linkTar) Write(b []byte) (int, error) {
	n, err := l.to.Write(b)
	l.size += int64(n)
	return n, err
}

// segment adds bytes that are no file's content.
func (l *linkTar) segment(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := l.Write(b); err != nil || l.split == nil {
		return err
	}
	_, err := l.split.AddEntry(tarsplit.Entry{Type: tarsplit.SegmentType, Payload: b})
	return err
}

// entry adds a file, with the checksum of its content.
func (l *linkTar) entry(h *tar.Header, sum []byte) error {
	if l.split == nil {
		return nil
	}
	e := tarsplit.Entry{Type: tarsplit.FileType, Payload: sum}
	if sum != nil {
		e.Size = h.Size
	}
	e.SetName(h.Name)
	_, err := l.split.AddEntry(e)
	return err
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	io.Reader
}

// Read is for io.Reader.
func (r contextReader) Read(b []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}
