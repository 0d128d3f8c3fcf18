package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// Cache remembers what steps have left. What it says may be out of date: a
// snapshot may be gone. Its methods may be called from several goroutines.
type Cache interface {
	// Get looks an entry up; whatever goes wrong is a miss.
	Get(key digest.Digest) (Entry, bool)
	// Put replaces an entry.
	Put(key digest.Digest, e Entry) error
}

// Entry is what a step left.
type Entry struct {
	Snapshots []Snapshot `json:"snapshots"` // one per output
	// Created is when the step ended. Images take their times from it, so that
	// the same steps make the same image.
	Created time.Time `json:"created"`
	// Step is the instruction, for people.
	Step string `json:"step"`
}

// DirCache keeps one small file per entry in a directory. Files appear whole, so
// a process that dies or another that writes at the same time does no harm.
type DirCache struct {
	// Now is the clock; nil is the machine's.
	Now func() time.Time
	dir string
}

// NewDirCache makes a cache in a directory, which need not exist.
func NewDirCache(dir string) *DirCache { return &DirCache{dir: dir} }

func (c *DirCache) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

func (c *DirCache) file(key digest.Digest) string {
	hex := key.Encoded()
	return filepath.Join(c.dir, hex[:2], hex)
}

// Get looks an entry up.
func (c *DirCache) Get(key digest.Digest) (Entry, bool) {
	name := c.file(key)
	e, used, err := readEntry(name)
	if err != nil {
		return Entry{}, false
	}
	// The file's time says when it was used last. It need not be exact, and
	// writing it at every use would cost.
	const exactness = time.Hour
	if now := c.now(); now.Sub(used) > exactness {
		_ = os.Chtimes(name, now, now) // the cache may be somebody else's to write
	}
	return e, true
}

// readEntry reads an entry and when it was used last.
func readEntry(name string) (e Entry, used time.Time, err error) {
	f, err := os.Open(name)
	if err != nil {
		return e, used, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return e, used, err
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return e, used, err
	}
	if json.Unmarshal(raw, &e) != nil || len(e.Snapshots) == 0 {
		return Entry{}, used, errEntry
	}
	return e, info.ModTime(), nil
}

var errEntry = errors.New("half a file, or one from another time")

// List reads all entries. Files that are no entries are left out.
func (c *DirCache) List() ([]CachedStep, error) {
	var all []CachedStep
	err := c.files(func(name string, _ fs.DirEntry) error {
		key := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(name))
		if key.Validate() != nil || c.file(key) != name {
			return nil //nolint:nilerr // no entry, and so no error
		}
		if e, used, err := readEntry(name); err == nil {
			all = append(all, CachedStep{Key: key, Entry: e, LastUsed: used})
		}
		return nil
	})
	return all, err
}

// Remove forgets an entry; one that is not there is no error.
func (c *DirCache) Remove(key digest.Digest) error {
	if err := os.Remove(c.file(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("an entry of the cache cannot be removed: %w", err)
	}
	return nil
}

// tidy removes what processes that died while they were writing have left, and
// files that are no entries.
func (c *DirCache) tidy(now time.Time) error {
	return c.files(func(name string, d fs.DirEntry) error {
		info, err := d.Info()
		if err != nil || now.Sub(info.ModTime()) < time.Hour {
			return nil //nolint:nilerr // it has gone meanwhile
		}
		if _, _, err := readEntry(name); errors.Is(err, errEntry) || strings.HasPrefix(d.Name(), tmpPrefix) {
			return os.Remove(name)
		}
		return nil
	})
}

// files calls fn for every file of the cache, in the order of their names.
func (c *DirCache) files(fn func(name string, d fs.DirEntry) error) error {
	return filepath.WalkDir(c.dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // not yet, or not any more
		case err != nil || d.IsDir():
			return err
		}
		return fn(name, d)
	})
}

const tmpPrefix = ".new-"

// Put replaces an entry.
func (c *DirCache) Put(key digest.Digest, e Entry) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	name := c.file(key)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("the cache cannot be written: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), tmpPrefix)
	if err != nil {
		return fmt.Errorf("the cache cannot be written: %w", err)
	}
	_, err = tmp.Write(raw)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("the cache cannot be written: %w", err)
	}
	return nil
}
