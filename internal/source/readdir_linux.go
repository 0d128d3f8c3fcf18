package source

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/beneath"
)

// openedDir is a directory that is being read. Its files are looked at from it,
// which spares the kernel the way down to them.
type openedDir struct {
	fd   int
	path string
	dirs map[string]bool // names whose type the directory tells, if it is not a plain file
}

// openDir opens a directory below a root.
func openDir(root *beneath.Dir, rel, path string) (*openedDir, error) {
	fd, err := root.Descriptor(rel, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return &openedDir{fd: fd, path: path}, nil
}

func (d *openedDir) close() { _ = unix.Close(d.fd) }

// through is a path that leads to the very file that is open.
func through(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// names lists the directory, sorted; buf is room to work in.
func (d *openedDir) names(buf []byte) ([]string, error) {
	var names []string
	for {
		n, err := unix.Getdents(d.fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: d.path, Err: err}
		}
		if n == 0 {
			slices.Sort(names)
			return names, nil
		}
		names = d.parse(buf[:n], names)
	}
}

// parse reads directory entries as getdents64(2) lays them out.
func (d *openedDir) parse(b []byte, names []string) []string {
	const (
		reclen = int(unsafe.Offsetof(unix.Dirent{}.Reclen))
		typ    = int(unsafe.Offsetof(unix.Dirent{}.Type))
		name   = int(unsafe.Offsetof(unix.Dirent{}.Name))
	)
	for len(b) > name {
		n := int(binary.NativeEndian.Uint16(b[reclen:]))
		if n <= name || n > len(b) {
			break
		}
		entry := b[name:n]
		if i := bytes.IndexByte(entry, 0); i >= 0 {
			entry = entry[:i]
		}
		if s := string(entry); s != "." && s != ".." {
			names = append(names, s)
			if t := b[typ]; t == unix.DT_DIR || t == unix.DT_UNKNOWN {
				if d.dirs == nil {
					d.dirs = make(map[string]bool)
				}
				d.dirs[s] = true
			}
		}
		b = b[n:]
	}
	return names
}

// mayBeDir reports whether a name may be that of a directory.
func (d *openedDir) mayBeDir(name string) bool { return d.dirs[name] }

// stat fills in what the system says of a file of the directory, and where a link
// leads.
func (d *openedDir) stat(name string, f *File) error {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "lstat", Path: d.path + "/" + name, Err: err}
		}
		break
	}
	fill(f, &st)
	if f.Mode.IsRegular() {
		return nil
	}
	if err := f.setAttrs(through(d.fd)+"/"+name, true); err != nil || f.Mode&fs.ModeSymlink == 0 {
		return err
	}
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(d.fd, name, buf)
		if err == unix.EINVAL {
			err = beneath.ErrNotLink
		}
		if err != nil {
			return &fs.PathError{Op: "readlink", Path: d.path + "/" + name, Err: err}
		}
		if n < size {
			f.Link = string(buf[:n])
			return nil
		}
	}
}

func statFile(path string) (File, error) {
	var f File
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return f, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	fill(&f, &st)
	return f, nil
}

// statBelow says what lies below a root.
func statBelow(root *beneath.Dir, rel, _ string) (File, error) {
	var f File
	st, err := root.Lstat(rel)
	if err == nil {
		fill(&f, &st)
	}
	return f, err
}

func readlinkBelow(root *beneath.Dir, rel, _ string) (string, error) { return root.Readlink(rel) }

// attrsBelow lists the extended attributes of what lies below a root.
func attrsBelow(root *beneath.Dir, rel, _ string) ([]string, error) {
	h, err := root.Handle(rel)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	attrs, _, err := xattrs(h.Through(), false)
	return attrs, err
}

// statOpen says what an open file is.
func statOpen(o *beneath.File) (File, error) {
	var f File
	st, err := o.Stat()
	if err == nil {
		fill(&f, &st)
	}
	return f, err
}

// attrsOpen fills in the extended attributes of an open file.
func attrsOpen(o *beneath.File, f *File) error {
	n, err := unix.Flistxattr(o.Fd(), nil)
	if err == nil && n > 0 {
		return f.setAttrs(o.Through(), false)
	}
	f.Attrs, f.read = false, true
	return nil // a file system without attributes
}

func fill(f *File, st *unix.Stat_t) {
	f.Mode, f.Size, f.nlink = beneath.FileMode(st.Mode), st.Size, uint32(min(uint64(st.Nlink), math.MaxUint32)) //nolint:unconvert // bounded; the types differ by architecture
	f.UID, f.GID, f.Device = st.Uid, st.Gid, uint64(st.Rdev)                                                    //nolint:unconvert // the types differ by architecture
	f.ID = identity{
		Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, //nolint:unconvert // the types differ by architecture
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}
}
