package source

// The index on disk spares reading files that have not changed: what a file was,
// by everything that the system says of it, and the digest that its content had.
// It is a cache: whatever is wrong with it costs time and nothing else.
//
// It is kept by directory, in the order of the names. What belongs to directories
// that nobody asks for is never decoded, and goes back to disk as it came.

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zbuild/zbuild/internal/sealed"
)

const (
	indexMagic = "zbuild hash index 2\n"
	// racy is how young a file may not be: one that changes twice within a tick of
	// the file system's clock looks the same both times.
	racy = 50 * time.Millisecond
	// coarse is the same where times are whole seconds: on ext3, on ext4 with small inodes
	// and on FAT, where it is two.
	coarse = 2 * time.Second
	// maxIndex bounds what a damaged file can make us read.
	maxIndex = 1 << 30
	// recordSize is what a record takes besides its name.
	recordSize = 5*8 + 32 + 1
)

// TempPrefix begins the names of indexes that are being written.
const TempPrefix = ".index-"

// identity is what changes when a file's content does.
type identity struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64 // nanoseconds since 1970
}

type record struct {
	name   string
	id     identity
	digest [32]byte
	attrs  bool
	used   bool // looked up or stored since the index was read
}

// indexDir is what is known of the files of one directory.
type indexDir struct {
	mu     sync.Mutex
	raw    string   // as it is on disk
	count  int      // of records in raw
	recs   []record // raw, decoded, in the order of the names
	fresh  map[string]record
	used   bool // since the index was read
	opened bool // recs are there
	whole  bool // when they were there last, each was asked for: none is of a file that has gone
}

// FileIndex is an index of file digests, in a file. It may be used from several
// goroutines.
type FileIndex struct {
	file string
	now  func() time.Time

	mu      sync.Mutex
	dirs    map[string]*indexDir
	changed bool
}

// OpenIndex reads an index. A file that is not there, or that is damaged, gives an
// empty one; the error then says what was wrong with it, and is no reason to stop.
func OpenIndex(file string, now func() time.Time) (*FileIndex, error) {
	x := &FileIndex{file: file, now: now, dirs: make(map[string]*indexDir)}
	raw, err := readIndex(file)
	if errors.Is(err, fs.ErrNotExist) {
		return x, nil
	}
	if err == nil {
		err = x.decode(raw)
	}
	if err != nil {
		x.dirs = make(map[string]*indexDir)
		x.changed = true
		return x, fmt.Errorf("the index of file digests is damaged and made anew: %w", err)
	}
	return x, nil
}

// readIndex reads a file into the string that all of an index goes on to point into.
func readIndex(file string) (string, error) {
	// To open what is no file may wait for somebody.
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() || info.Size() > maxIndex {
		return "", cmp.Or(err, errIndex)
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	// What does not begin like one is not read at all: it may be big.
	magic := make([]byte, len(indexMagic))
	if _, err := io.ReadFull(f, magic); err != nil || string(magic) != indexMagic {
		return "", errIndex
	}
	var b strings.Builder
	b.Grow(int(info.Size()))
	b.Write(magic)
	_, err = io.Copy(&b, io.LimitReader(f, info.Size()-int64(len(magic))))
	return b.String(), err
}

// dir gives what is known of a directory's files.
func (x *FileIndex) dir(path string) *indexDir {
	x.mu.Lock()
	defer x.mu.Unlock()
	d, ok := x.dirs[path]
	if !ok {
		d = &indexDir{}
		x.dirs[path] = d
	}
	return d
}

// fill completes what is known of a file by the digest that it had when it was
// exactly what it is now.
func (d *indexDir) fill(name string, f *File) {
	if !f.Mode.IsRegular() || f.ID.Ctime == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.find(name); r != nil && r.id == f.ID {
		r.used = true
		f.Digest, f.Attrs, f.known = r.digest, r.attrs, true
	} else if r, ok := d.fresh[name]; ok && r.id == f.ID {
		f.Digest, f.Attrs, f.known = r.digest, r.attrs, true
	}
}

// find gives the record that was read of a file.
func (d *indexDir) find(name string) *record {
	d.open()
	i, ok := slices.BinarySearchFunc(d.recs, name, func(r record, n string) int { return strings.Compare(r.name, n) })
	if !ok {
		return nil
	}
	return &d.recs[i]
}

// last is the digest that a file had when it was stored last, whatever it is now.
func (x *FileIndex) last(path string) ([32]byte, bool) {
	dir, name := filepath.Split(path)
	d := x.dir(filepath.Clean(dir))
	d.mu.Lock()
	defer d.mu.Unlock()
	if r, ok := d.fresh[name]; ok {
		return r.digest, true
	}
	if r := d.find(name); r != nil {
		return r.digest, true
	}
	return [32]byte{}, false
}

// store remembers a digest, unless the file is so young that it may change without
// looking different.
func (x *FileIndex) store(path string, f *File) {
	if x.young(f) {
		return
	}
	dir, name := filepath.Split(path)
	d := x.dir(filepath.Clean(dir))
	d.mu.Lock()
	if d.fresh == nil {
		d.fresh = make(map[string]record)
	}
	d.fresh[name] = record{name: name, id: f.ID, digest: f.Digest, attrs: f.Attrs, used: true}
	d.mu.Unlock()
	x.mu.Lock()
	x.changed = true
	x.mu.Unlock()
}

// young reports whether a file may change without looking different, also because it
// is from the future.
func (x *FileIndex) young(f *File) bool {
	tick := racy
	if whole := int64(time.Second); f.ID.Mtime%whole == 0 && f.ID.Ctime%whole == 0 {
		tick = coarse
	}
	return f.ID.Ctime == 0 || x.now().Sub(time.Unix(0, max(f.ID.Mtime, f.ID.Ctime))) < tick
}

// Save writes the index, if it has changed, whole or not at all. Files that
// nobody asked for in this run stay in it as long as their directory exists.
func (x *FileIndex) Save() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	defer func() {
		for _, d := range x.dirs {
			d.close()
		}
	}()
	if !x.changed {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(x.file), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(x.file), TempPrefix)
	if err != nil {
		return err
	}
	if err = errors.Join(x.encode(tmp), tmp.Close()); err == nil {
		err = sealed.Replace(tmp.Name(), x.file)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return err
	}
	x.changed = false
	return nil
}

// encode writes the directories in the order of their paths, with a checksum at the
// end.
func (x *FileIndex) encode(file io.Writer) error {
	w := bufio.NewWriterSize(file, 64<<10)
	sum := crc32.New(castagnoli())
	out := io.MultiWriter(w, sum)
	_, err := io.WriteString(out, indexMagic)
	var head []byte
	for _, p := range slices.Sorted(maps.Keys(x.dirs)) {
		raw, count := x.dirs[p].encoded(p)
		if count == 0 {
			continue
		}
		head = binary.AppendUvarint(head[:0], uint64(len(p)))
		head = append(head, p...)
		head = binary.AppendUvarint(head, uint64(count))
		head = binary.AppendUvarint(head, uint64(len(raw)))
		_, err1 := out.Write(head)
		_, err2 := io.WriteString(out, raw)
		if err = errors.Join(err, err1, err2); err != nil {
			return err
		}
	}
	return errors.Join(err, binary.Write(w, binary.LittleEndian, sum.Sum32()), w.Flush())
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// checksum is that of a string, which may be big, without a second copy of it.
func checksum(s string) uint32 {
	sum := crc32.New(castagnoli())
	_, _ = io.CopyBuffer(sum, struct{ io.Reader }{strings.NewReader(s)}, make([]byte, 64<<10)) // neither can fail
	return sum.Sum32()
}

// encoded is what is known of a directory that is still there, as it goes to disk. Others
// may ask for it meanwhile.
func (d *indexDir) encoded(dir string) (raw string, count int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.used {
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			return "", 0
		}
	}
	d.merge(dir)
	return d.raw, d.count
}

// merge encodes what was stored with what was there.
func (d *indexDir) merge(dir string) {
	if len(d.fresh) == 0 {
		return
	}
	d.open()
	all := make([]record, 0, len(d.recs)+len(d.fresh))
	for i := range d.recs {
		r := &d.recs[i]
		if _, ok := d.fresh[r.name]; ok {
			continue
		}
		if !r.used && !d.whole {
			if _, err := os.Lstat(filepath.Join(dir, r.name)); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		all = append(all, *r)
	}
	for _, r := range d.fresh {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b record) int { return cmp.Compare(a.name, b.name) })
	var out []byte
	for i := range all {
		r := &all[i]
		out = binary.AppendUvarint(out, uint64(len(r.name)))
		out = append(out, r.name...)
		for _, n := range []uint64{r.id.Dev, r.id.Ino, uint64(r.id.Size), uint64(r.id.Mtime), uint64(r.id.Ctime)} {
			out = binary.LittleEndian.AppendUint64(out, n)
		}
		out = append(out, r.digest[:]...)
		attrs := byte(0)
		if r.attrs {
			attrs = 1
		}
		out = append(out, attrs)
	}
	d.raw, d.count, d.recs, d.fresh = string(out), len(all), all, nil
}

var errIndex = errors.New("not the index that was written")

// decode finds the directories.
func (x *FileIndex) decode(raw string) error {
	const sum = 4
	if len(raw) < len(indexMagic)+sum || raw[:len(indexMagic)] != indexMagic {
		return errIndex
	}
	body := raw[:len(raw)-sum]
	if checksum(body) != binary.LittleEndian.Uint32([]byte(raw[len(body):])) {
		return errIndex
	}
	rest := body[len(indexMagic):]
	for rest != "" {
		var path, block string
		var count uint64
		var ok bool
		if path, rest, ok = cutField(rest); !ok {
			return errIndex
		}
		if count, rest, ok = cutUvarint(rest); !ok {
			return errIndex
		}
		if block, rest, ok = cutField(rest); !ok || count > uint64(len(block)/recordSize) {
			return errIndex
		}
		x.dirs[path] = &indexDir{raw: block, count: int(count)}
	}
	return nil
}

// open decodes the records, up to the first that is damaged.
func (d *indexDir) open() {
	d.used = true
	if d.opened {
		return
	}
	d.opened = true
	d.recs = make([]record, 0, d.count)
	rest := d.raw
	for range d.count {
		var r record
		var ok bool
		if r.name, rest, ok = cutField(rest); !ok || len(rest) < recordSize {
			return
		}
		word := func(i int) uint64 { return binary.LittleEndian.Uint64([]byte(rest[8*i : 8*i+8])) }
		r.id = identity{Dev: word(0), Ino: word(1), Size: int64(word(2)), Mtime: int64(word(3)), Ctime: int64(word(4))}
		copy(r.digest[:], rest[5*8:])
		r.attrs = rest[recordSize-1] != 0
		d.recs = append(d.recs, r)
		rest = rest[recordSize:]
	}
}

// close forgets the records as long as nobody asks for them: they take as much room
// again as what they are read from.
func (d *indexDir) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opened {
		d.whole = !slices.ContainsFunc(d.recs, func(r record) bool { return !r.used })
	}
	d.recs, d.opened = nil, false
}

// cutField takes a length and as many bytes off a string.
func cutField(s string) (field, rest string, ok bool) {
	n, s, ok := cutUvarint(s)
	if !ok || n > uint64(len(s)) {
		return "", "", false
	}
	return s[:n], s[n:], true
}

func cutUvarint(s string) (n uint64, rest string, ok bool) {
	for i := 0; i < len(s) && i < binary.MaxVarintLen64; i++ {
		b := s[i]
		n |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return n, s[i+1:], true
		}
	}
	return 0, "", false
}
