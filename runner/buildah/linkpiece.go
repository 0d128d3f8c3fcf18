//go:build linux

package buildah

// Some files of a layer, one after the other: linked, read, and made into their part
// of the tar.

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	tarsplit "github.com/vbatts/tar-split/tar/storage"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/system"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/beneath"
)

const (
	// pieceFiles is how many files one worker takes at a time.
	pieceFiles = 64
	// pieceSize is how much of a tar a piece may be. What is more of its files is read
	// when it is its turn.
	pieceSize = 2 << 20
)

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

// pieceMaker makes pieces, one at a time.
type pieceMaker struct {
	l *linkTar

	dirs *dirPair // in the tree, and in the one that is made

	fd      int    // the regular file at hand, if that is one; else -1
	content []byte // room to read into
}

// end closes what is open.
func (m *pieceMaker) end() {
	m.closeFile()
	m.dirs.leave()
}

// make links the files of a piece, and makes the tar of them as far as they do not
// depend on those before.
func (m *pieceMaker) make(ctx context.Context, p *piece) error {
	p.files = make([]pieceFile, len(p.names))
	if p.tar, _ = m.l.buffers.Get().(*bytes.Buffer); p.tar == nil {
		p.tar = new(bytes.Buffer)
	}
	p.tar.Reset()
	w := tar.NewWriter(p.tar)
	for i, name := range p.names {
		if err := ctx.Err(); err != nil {
			return err
		}
		f := &p.files[i]
		f.header, f.body, f.next = p.tar.Len(), p.tar.Len(), p.tar.Len()
		if err := m.file(f, name, p.dirs[i]); err != nil {
			return err
		}
		if f.head == nil || f.info.Mode()&fs.ModeCharDevice != 0 {
			continue // has no place in a tar; or may be a whiteout, and that depends on those before
		}
		if err := w.WriteHeader(f.head); err != nil {
			return err
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
		if err := m.read(name, f.head.Size); err != nil {
			return err
		}
		f.crc = crc64.Checksum(m.content, tarsplit.CRCTable)
		if _, err := w.Write(m.content); err != nil {
			return err
		}
		f.body = p.tar.Len()
		if err := w.Flush(); err != nil {
			return err
		}
		f.next = p.tar.Len()
	}
	return nil
}

// file looks at a file and links it.
func (m *pieceMaker) file(f *pieceFile, name string, dir bool) (err error) {
	m.closeFile()
	base := ""
	if dir {
		f.info, err = os.Lstat(m.l.path(name))
	} else if base, err = m.dirs.enter(name); err == nil {
		if f.info, err = lstatAt(m.dirs.from, base); err != nil {
			err = &fs.PathError{Op: "lstat", Path: m.l.path(name), Err: err}
		}
	}
	if err != nil {
		return err
	}
	switch {
	case m.l.dest == "":
	case dir:
		err = copyDirXattrs(m.l.path(name), filepath.Join(m.l.dest, name))
	default:
		if err = m.dirs.link(base); err != nil {
			err = &os.LinkError{Op: "link", Old: m.l.path(name), New: filepath.Join(m.l.dest, name), Err: err}
		}
	}
	if err != nil || name == "" || f.info.Mode()&fs.ModeSocket != 0 {
		return err
	}
	if f.info.Mode().IsRegular() {
		if m.fd, err = unix.Openat(m.dirs.from, base, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err != nil {
			return &fs.PathError{Op: "open", Path: m.l.path(name), Err: err}
		}
	}
	attributes, err := m.attributes(name)
	if err != nil {
		return err
	}
	if f.head, err = m.l.header(name, f.info, attributes); err != nil {
		return err
	}
	if dir {
		f.extra, err = m.l.convert.ConvertWrite(f.head, m.l.path(name), f.info)
	}
	return err
}

func (m *pieceMaker) closeFile() {
	if m.fd >= 0 {
		_ = unix.Close(m.fd)
	}
	m.fd = -1
}

// attributes lists a file's extended attributes. Nearly none has any: an open one is
// asked in passing.
func (m *pieceMaker) attributes(name string) ([]string, error) {
	if m.fd >= 0 {
		if n, err := unix.Flistxattr(m.fd, nil); err == nil && n == 0 {
			return nil, nil
		}
	}
	names, err := system.Llistxattr(m.l.path(name))
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	return names, err
}

// header makes a file's header as the store's archive package does, with what of the
// named attributes belongs there. Attributes that stay behind can do so only if the
// file is not linked.
func (l *linkTar) header(name string, info fs.FileInfo, attributes []string) (*tar.Header, error) {
	var link string
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(l.path(name)); err != nil {
			return nil, err
		}
	}
	h, err := archive.FileInfoHeader(name, info, link)
	if err != nil {
		return nil, err
	}
	for _, n := range attributes {
		if leftBehind(n) && l.dest != "" {
			return nil, errAttributes
		}
		if !inTar(n) || leftBehind(n) {
			continue
		}
		value, err := system.Lgetxattr(l.path(name), n)
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

// read reads the file at hand.
func (m *pieceMaker) read(name string, size int64) error {
	m.content = slices.Grow(m.content[:0], int(size))[:size]
	for have := 0; have < len(m.content); {
		n, err := unix.Read(m.fd, m.content[have:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0:
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return &fs.PathError{Op: "read", Path: m.l.path(name), Err: err}
		}
		have += n
	}
	return nil
}

// lstatAt is Lstat of a name in an open directory; the error is the system's.
func lstatAt(dir int, name string) (fs.FileInfo, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	return &statInfo{name, syscall.Stat_t{
		Dev: st.Dev, Ino: st.Ino, Nlink: st.Nlink, Mode: st.Mode, Uid: st.Uid, Gid: st.Gid, Rdev: st.Rdev, Size: st.Size,
		Blksize: st.Blksize, Blocks: st.Blocks,
		Atim: syscall.Timespec(st.Atim), Mtim: syscall.Timespec(st.Mtim), Ctim: syscall.Timespec(st.Ctim),
	}}, nil
}

// statInfo is what the kernel says of a file.
type statInfo struct {
	name string
	st   syscall.Stat_t
}

// Name is for fs.FileInfo.
func (i *statInfo) Name() string { return i.name }

// Size is for fs.FileInfo.
func (i *statInfo) Size() int64 { return i.st.Size }

// ModTime is for fs.FileInfo.
func (i *statInfo) ModTime() time.Time { return time.Unix(i.st.Mtim.Unix()) }

// IsDir is for fs.FileInfo.
func (i *statInfo) IsDir() bool { return i.Mode().IsDir() }

// Sys gives a *syscall.Stat_t, as that of os.Lstat does.
func (i *statInfo) Sys() any { return &i.st }

// Mode is for fs.FileInfo.
func (i *statInfo) Mode() fs.FileMode { return beneath.FileMode(i.st.Mode) }
