package beneath

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is a directory that is open. It may be used from several goroutines.
type Dir struct {
	fd   int
	path string
}

// Open opens a directory. Links in its own path are followed: it is its user's
// choice.
func Open(path string) (*Dir, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{fd: fd, path: path}, nil
}

// Close closes the directory.
func (d *Dir) Close() error { return unix.Close(d.fd) }

// Descriptor opens a name below the directory with flags of open(2) and gives the
// file descriptor, which is the caller's to close. A link at the end is opened
// itself with O_PATH, and is an error otherwise.
func (d *Dir) Descriptor(name string, flags int) (int, error) {
	if !filepath.IsLocal(name) {
		return -1, &fs.PathError{Op: "open", Path: d.join(name), Err: fs.ErrInvalid}
	}
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := retry(func() (int, error) {
		return unix.Openat2(d.fd, name, &unix.OpenHow{
			Flags: uint64(flags), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
	})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		fd, err = d.stepwise(name, flags) // an old kernel, or a filter of system calls that does not know this one
	}
	if errors.Is(err, unix.EXDEV) {
		err = unix.ELOOP // a link that would have led outside
	}
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: d.join(name), Err: err}
	}
	return fd, nil
}

// stepwise does what openat2(2) does, one directory at a time.
func (d *Dir) stepwise(name string, flags int) (int, error) {
	names := strings.Split(filepath.Clean(name), "/")
	at := d.fd
	for _, n := range names[:len(names)-1] {
		next, err := retry(func() (int, error) {
			return unix.Openat(at, n, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		})
		if at != d.fd {
			_ = unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at = next
	}
	if at != d.fd {
		defer unix.Close(at)
	}
	return retry(func() (int, error) { return unix.Openat(at, names[len(names)-1], flags, 0) })
}

// retry calls again for as long as the kernel was only interrupted. Openat2 says
// EAGAIN when something was renamed somewhere at the same time.
func retry(call func() (int, error)) (int, error) {
	for again := 0; ; {
		fd, err := call()
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && again < 100:
			again++
		default:
			return fd, err
		}
	}
}

func (d *Dir) join(name string) string { return filepath.Join(d.path, name) }

// File opens a regular file for reading. The error wraps ErrNotRegular if it is
// something else.
func (d *Dir) File(name string) (*File, error) {
	fd, err := d.Descriptor(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if errors.Is(err, unix.ENXIO) { // a socket
		err = &fs.PathError{Op: "open", Path: d.join(name), Err: ErrNotRegular}
	}
	if err != nil {
		return nil, err
	}
	f := &File{fd: fd, path: d.join(name)}
	st, err := f.Stat()
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = &fs.PathError{Op: "open", Path: f.path, Err: ErrNotRegular}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Lstat says what a name below the directory is, links being links.
func (d *Dir) Lstat(name string) (unix.Stat_t, error) {
	h, err := d.Handle(name)
	if err != nil {
		return unix.Stat_t{}, err
	}
	defer h.Close()
	return h.Stat()
}

// Readlink reads a link below the directory. The error wraps ErrNotLink if it is
// something else.
func (d *Dir) Readlink(name string) (string, error) {
	h, err := d.Handle(name)
	if err != nil {
		return "", err
	}
	defer h.Close()
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(h.fd, "", buf)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) { // what the kernel says of it
			err = ErrNotLink
		}
		if err != nil {
			return "", &fs.PathError{Op: "readlink", Path: h.path, Err: err}
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// Handle holds on to whatever a name below the directory is, a link too. It cannot
// be read.
func (d *Dir) Handle(name string) (*File, error) {
	fd, err := d.Descriptor(name, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	return &File{fd: fd, path: d.join(name)}, nil
}

// File is an open file.
type File struct {
	fd   int
	path string
}

// Name is the path that the file was opened by, for people.
func (f *File) Name() string { return f.path }

// Fd is the file's descriptor, for as long as it is not closed.
func (f *File) Fd() int { return f.fd }

// Through is a path that leads to the very same file whatever becomes of its name,
// for system calls that take paths only and follow links.
func (f *File) Through() string { return "/proc/self/fd/" + strconv.Itoa(f.fd) }

// Close closes the file.
func (f *File) Close() error { return unix.Close(f.fd) }

// Stat says what the file is.
func (f *File) Stat() (st unix.Stat_t, err error) {
	if err = unix.Fstat(f.fd, &st); err != nil {
		err = &fs.PathError{Op: "fstat", Path: f.path, Err: err}
	}
	return st, err
}

// Read is for io.Reader.
func (f *File) Read(p []byte) (int, error) {
	n, err := retry(func() (int, error) { return unix.Read(f.fd, p) })
	switch {
	case err != nil:
		return 0, &fs.PathError{Op: "read", Path: f.path, Err: err}
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// OS gives the file to package os. It is to be closed there, and not here.
func (f *File) OS() *os.File { return os.NewFile(uintptr(f.fd), f.path) }

// FileMode is the mode of a file, as stat(2) gives it, in the form of package os.
func FileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	}
	if m&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if m&unix.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if m&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}
