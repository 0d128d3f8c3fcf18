package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
type DirCache struct{ dir string }

// NewDirCache makes a cache in a directory, which need not exist.
func NewDirCache(dir string) *DirCache { return &DirCache{dir: dir} }

func (c *DirCache) file(key digest.Digest) string {
	hex := key.Encoded()
	return filepath.Join(c.dir, hex[:2], hex)
}

// Get looks an entry up.
func (c *DirCache) Get(key digest.Digest) (Entry, bool) {
	raw, err := os.ReadFile(c.file(key))
	if err != nil {
		return Entry{}, false
	}
	var e Entry
	if json.Unmarshal(raw, &e) != nil || len(e.Snapshots) == 0 {
		return Entry{}, false // half a file, or one from another time
	}
	return e, true
}

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
	tmp, err := os.CreateTemp(filepath.Dir(name), ".new-")
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
