package source

// The index on disk spares reading files that have not changed: what a file was,
// by everything that the system says of it, and the digest that its content had.
// It is a cache: whatever is wrong with it costs time and nothing else.

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
)

const (
	indexMagic = "zbuild hash index 1\n"
	// racy is how young a file may not be: one that changes twice within a tick of
	// the file system's clock looks the same both times.
	racy = 50 * time.Millisecond
	// maxIndex bounds what a damaged file can make us read.
	maxIndex = 1 << 30
)

// identity is what changes when a file's content does.
type identity struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64 // nanoseconds since 1970
}

type record struct {
	id     identity
	digest [sha256.Size]byte
	used   bool // looked up or stored since the index was read
}

// FileIndex is an Index in a file. It may be used from several goroutines.
type FileIndex struct {
	file string
	now  func() time.Time

	mu      sync.Mutex
	records map[string]*record
	changed bool
}

// OpenIndex reads an index. A file that is not there, or that is damaged, gives an
// empty one; the error then says what was wrong with it, and is no reason to stop.
func OpenIndex(file string, now func() time.Time) (*FileIndex, error) {
	x := &FileIndex{file: file, now: now, records: make(map[string]*record)}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return x, nil
	}
	if err == nil {
		err = x.decode(raw)
	}
	if err != nil {
		x.records = make(map[string]*record)
		x.changed = true
		return x, fmt.Errorf("the index of file digests is damaged and made anew: %w", err)
	}
	return x, nil
}

// Lookup gives the digest that a file had when it was exactly what it is now.
func (x *FileIndex) Lookup(path string, info fs.FileInfo) (digest.Digest, bool) {
	id, ok := identify(info)
	if !ok {
		return "", false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	r, ok := x.records[path]
	if !ok || r.id != id {
		return "", false
	}
	r.used = true
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(r.digest[:])), true
}

// last is the digest that a file had when it was stored last, whatever it is now.
func (x *FileIndex) last(path string) (digest.Digest, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r, ok := x.records[path]
	if !ok {
		return "", false
	}
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(r.digest[:])), true
}

// Store remembers a digest, unless the file is so young that it may change
// without looking different.
func (x *FileIndex) Store(path string, info fs.FileInfo, d digest.Digest) {
	id, ok := identify(info)
	if !ok || d.Algorithm() != digest.SHA256 {
		return
	}
	if x.now().Sub(time.Unix(0, max(id.Mtime, id.Ctime))) < racy {
		return // also where the file is from the future
	}
	r := &record{id: id, used: true}
	if n, err := hex.Decode(r.digest[:], []byte(d.Encoded())); err != nil || n != sha256.Size {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.records[path] = r
	x.changed = true
}

// Save writes the index, if it has changed, whole or not at all. Files that
// nobody asked for in this run stay in it as long as they exist.
func (x *FileIndex) Save() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.changed {
		return nil
	}
	for path, r := range x.records {
		if r.used {
			continue
		}
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			delete(x.records, path)
		}
	}
	if err := os.MkdirAll(filepath.Dir(x.file), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(x.file), ".index-")
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(tmp, 1<<20)
	_, err = w.Write(x.encode())
	if err = errors.Join(err, w.Flush(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), x.file)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return err
	}
	x.changed = false
	return nil
}

// encode lays the records out in the order of their paths, with a checksum at
// the end.
func (x *FileIndex) encode() []byte {
	paths := make([]string, 0, len(x.records))
	for p := range x.records {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	out := []byte(indexMagic)
	for _, p := range paths {
		r := x.records[p]
		out = binary.AppendUvarint(out, uint64(len(p)))
		out = append(out, p...)
		for _, n := range []uint64{r.id.Dev, r.id.Ino, uint64(r.id.Size), uint64(r.id.Mtime), uint64(r.id.Ctime)} {
			out = binary.LittleEndian.AppendUint64(out, n)
		}
		out = append(out, r.digest[:]...)
	}
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}

var errIndex = errors.New("not the index that was written")

func (x *FileIndex) decode(raw []byte) error {
	if len(raw) > maxIndex || len(raw) < len(indexMagic)+sha256.Size || !bytes.HasPrefix(raw, []byte(indexMagic)) {
		return errIndex
	}
	body, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return errIndex
	}
	body = body[len(indexMagic):]
	for len(body) > 0 {
		n, k := binary.Uvarint(body)
		const fixed = 5*8 + sha256.Size
		if k <= 0 || n > uint64(len(body)-k) || uint64(len(body)-k)-n < fixed {
			return errIndex
		}
		body = body[k:]
		path := string(body[:n])
		body = body[n:]
		word := func(i int) uint64 { return binary.LittleEndian.Uint64(body[8*i:]) }
		r := &record{id: identity{Dev: word(0), Ino: word(1), Size: int64(word(2)), Mtime: int64(word(3)), Ctime: int64(word(4))}}
		copy(r.digest[:], body[5*8:fixed])
		x.records[path] = r
		body = body[fixed:]
	}
	return nil
}
