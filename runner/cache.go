package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/sealed"
)

// Cache remembers what steps have left. What it says may be out of date: a
// snapshot may be gone. Its methods may be called from several goroutines.
type Cache interface {
	// Get looks an entry up. Whatever goes wrong is a miss; the error says what
	// was wrong with an entry that is there, and is no reason to stop.
	Get(key digest.Digest) (e Entry, ok bool, err error)
	// Put replaces an entry.
	Put(key digest.Digest, e Entry) error
	// Variants lists steps that differ in nothing but what they take of other
	// steps' outputs: rest identifies what they have in common. The newest is the
	// first.
	Variants(rest digest.Digest) []Variant
	// PutVariant remembers one, in place of one that has the same key.
	PutVariant(rest digest.Digest, v Variant) error
}

// Entry is what a step left.
type Entry struct {
	Snapshots []Snapshot `json:"snapshots,omitempty"` // one per output
	// On are the results of other steps that it was done on: of those inputs that it
	// takes as a whole. Together with others it is of no use.
	On []Snapshot `json:"on,omitempty"`
	// Took are the results of other steps that it took files of: of those inputs of
	// which it takes no more than what selections name. One that was made anew since
	// then may have other files under the same key.
	Took []Snapshot `json:"took,omitempty"`
	// Created is when the step ended. Images take their times from it, so that
	// the same steps make the same image.
	Created time.Time `json:"created,omitzero"`
	// Step is the instruction, for people.
	Step string `json:"step"`
	// SameAs is the key of the step whose result this one has, because what they
	// take of other steps has the same content. There are no Snapshots then.
	SameAs digest.Digest `json:"sameAs,omitempty"`
}

// Variant is a step that was done, and what it took of other steps' outputs.
type Variant struct {
	Key   digest.Digest `json:"key"`
	Taken []Taken       `json:"taken"` // in the order in which the step names them
}

// Taken is a selection's content. What the selection is belongs to the step that
// makes it.
type Taken struct {
	Snapshot Snapshot `json:"snapshot"`
	// Content is its digest; empty as long as nobody has wanted to know.
	Content digest.Digest `json:"content,omitempty"`
}

// maxVariants is how many steps are remembered that differ only in what they take:
// it is the last few that one comes back to.
const maxVariants = 8

// DirCache keeps one small file per entry in a directory. Files appear whole, so
// a process that dies or another that writes at the same time does no harm, and
// they carry a checksum, so that damage is noticed.
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

const variantsName = "variants"

func (c *DirCache) file(key digest.Digest) string {
	hex := key.Encoded()
	return filepath.Join(c.dir, hex[:2], hex)
}

func (c *DirCache) variantsFile(rest digest.Digest) string {
	hex := rest.Encoded()
	return filepath.Join(c.dir, variantsName, hex[:2], hex)
}

// Get looks an entry up.
func (c *DirCache) Get(key digest.Digest) (Entry, bool, error) {
	name := c.file(key)
	e, used, err := readEntry(name)
	switch {
	case errors.Is(err, sealed.ErrDamaged):
		// It goes at once: what is damaged is made anew, and told of once.
		err = errors.Join(fmt.Errorf("an entry of the cache is damaged and made anew: %s", name), os.RemoveAll(name))
		return Entry{}, false, err
	case err != nil:
		return Entry{}, false, nil //nolint:nilerr // what cannot be read is not there
	}
	// The file's time says when it was used last. It need not be exact, and
	// writing it at every use would cost. It may be of the future, if the clock was
	// set back.
	const exactness = time.Minute
	if now := c.now(); now.Sub(used).Abs() > exactness {
		_ = os.Chtimes(name, now, now) // the cache may be somebody else's to write
	}
	return e, true, nil
}

// readEntry reads an entry and when it was used last.
func readEntry(name string) (e Entry, used time.Time, err error) {
	if used, err = sealed.Read(name, &e); err != nil {
		return Entry{}, used, err
	}
	if len(e.Snapshots) == 0 && e.SameAs.Validate() != nil {
		return Entry{}, used, sealed.ErrDamaged
	}
	return e, used, nil
}

// List reads all entries. Files that are no entries are left out.
func (c *DirCache) List() ([]CachedStep, error) {
	var all []CachedStep
	err := c.files(func(name string, _ fs.DirEntry) error {
		key := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(name))
		if key.Validate() != nil || c.file(key) != name {
			return nil //nolint:nilerr // no entry, and so no error
		}
		if e, used, err := readEntry(name); err == nil {
			// One of the future, from before the clock was set back, would never grow old.
			if now := c.now(); used.After(now) {
				used = now
				_ = os.Chtimes(name, now, now)
			}
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

// tidy removes what processes that died while they were writing have left, files
// that are no entries, and variants of which no entry is left.
func (c *DirCache) tidy(now time.Time) error {
	return c.files(func(name string, d fs.DirEntry) error {
		info, err := d.Info()
		if err != nil || now.Sub(info.ModTime()).Abs() < time.Hour {
			return nil //nolint:nilerr // it has gone meanwhile
		}
		useless := strings.HasPrefix(d.Name(), sealed.TempPrefix) || !d.Type().IsRegular()
		if rest := digest.NewDigestFromEncoded(digest.SHA256, d.Name()); rest.Validate() == nil && c.variantsFile(rest) == name {
			useless = !slices.ContainsFunc(c.Variants(rest), func(v Variant) bool {
				_, err := os.Stat(c.file(v.Key))
				return err == nil
			})
		} else if _, _, err := readEntry(name); errors.Is(err, sealed.ErrDamaged) {
			useless = true
		}
		if useless {
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

// Put replaces an entry.
func (c *DirCache) Put(key digest.Digest, e Entry) error {
	if err := sealed.Write(c.file(key), e); err != nil {
		return fmt.Errorf("the cache cannot be written: %w", err)
	}
	return nil
}

// Variants lists what is known of steps that have something in common.
func (c *DirCache) Variants(rest digest.Digest) []Variant {
	var all []Variant
	if _, err := sealed.Read(c.variantsFile(rest), &all); err != nil {
		return nil // it only spares work
	}
	return slices.DeleteFunc(all, func(v Variant) bool { return v.Key.Validate() != nil })
}

// PutVariant remembers a step. Of two processes that do so at the same time one
// may be forgotten.
func (c *DirCache) PutVariant(rest digest.Digest, v Variant) error {
	all := slices.DeleteFunc(c.Variants(rest), func(o Variant) bool { return o.Key == v.Key })
	all = slices.Insert(all, 0, v)
	if err := sealed.Write(c.variantsFile(rest), all[:min(len(all), maxVariants)]); err != nil {
		return fmt.Errorf("the cache cannot be written: %w", err)
	}
	return nil
}
