package source

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
)

// Memory keeps what selections are from one generation of a build to the next, so
// that only what has changed is looked at. Whoever holds it must be told of all
// changes, or tell it to forget. It may be used from several goroutines.
type Memory struct {
	mu    sync.Mutex
	known map[string]*memorized
}

// maxDirty is how many changed paths of a selection are kept in mind. Beyond it all
// of it is looked at.
const maxDirty = 4096

// memorized is what is known of one selection.
type memorized struct {
	// work is held by whoever finds out what the selection is now.
	work sync.Mutex

	// Memory's mutex is held for what follows.

	// version counts the times when something may have changed, and forgot is the
	// last one when that was anything. The footprint is that of version looked, the
	// listing that of version listed.
	version, forgot, looked, listed int
	footprint                       *Footprint
	listing                         *Listing
	at                              *Footprint // the listing's
	dirty                           []string   // what has changed since version listed
	used                            bool       // since the last Sweep
}

// NewMemory makes a memory that knows nothing.
func NewMemory() *Memory { return &Memory{known: make(map[string]*memorized)} }

// Forget says that anything may have changed.
func (m *Memory) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.known {
		k.forget()
	}
}

func (k *memorized) forget() {
	k.version++
	k.forgot, k.dirty = k.version, nil
}

// Sweep drops what nobody has asked for since the last Sweep.
func (m *Memory) Sweep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, k := range m.known {
		if !k.used {
			delete(m.known, id)
		}
		k.used = false
	}
}

// Dirty says that what has these paths, and what is below them, may have changed,
// and nothing else has.
func (m *Memory) Dirty(paths []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	set := make(map[string]bool, len(paths))
	for _, p := range paths {
		set[p] = true
	}
	for _, k := range m.known {
		if k.footprint == nil {
			continue
		}
		moved, within := k.footprint.touched(set, paths)
		switch {
		case moved || len(k.dirty)+len(within) > maxDirty:
			k.forget()
		case len(within) > 0:
			k.version++
			k.dirty = append(k.dirty, within...)
		}
	}
}

// get gives what is known of a selection, under an identity that no other has.
func (m *Memory) get(t Tree, sel Selection) *memorized {
	id := fmt.Sprintf("%#v %#v", t, sel)
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.known[id]
	if k == nil {
		k = &memorized{version: 1, forgot: 1}
		m.known[id] = k
	}
	k.used = true
	return k
}

// Footprint says what a selection looks at. As long as it has not been touched it
// is the same pointer.
func (m *Memory) Footprint(t Tree, sel Selection) (*Footprint, error) {
	return m.footprint(m.get(t, sel), t, sel)
}

// Look looks whether a selection's footprint is still what it is known to be, touched or
// not. If it is another one, all of the selection is looked at anew.
func (m *Memory) Look(t Tree, sel Selection) (same bool, err error) {
	f, err := t.Footprint(sel)
	if err != nil {
		return false, err
	}
	k := m.get(t, sel)
	m.mu.Lock()
	defer m.mu.Unlock()
	if k.footprint != nil && k.footprint.equal(&f) {
		return true, nil
	}
	k.forget()
	return false, nil
}

func (m *Memory) footprint(k *memorized, t Tree, sel Selection) (*Footprint, error) {
	m.mu.Lock()
	version, looked, known := k.version, k.looked, k.footprint
	m.mu.Unlock()
	if version == looked {
		return known, nil
	}
	f, err := t.Footprint(sel)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if k.footprint == nil || !k.footprint.equal(&f) {
		k.footprint = &f
	}
	k.looked = version
	return k.footprint, nil
}

// List lists what a selection takes, as h does, but looks only at what may have
// changed. A nil Memory knows nothing, and remembers nothing.
func (m *Memory) List(ctx context.Context, h *Hasher, t Tree, sel Selection) (*Listing, error) {
	if m == nil {
		return h.List(ctx, t, sel)
	}
	k := m.get(t, sel)
	k.work.Lock()
	defer k.work.Unlock()
	// What is looked at is found out before it is looked at: then a change in
	// between is a change of the footprint.
	at, err := m.footprint(k, t, sel)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	version, dirty := k.version, k.dirty
	if k.listing != nil && version == k.listed {
		defer m.mu.Unlock()
		return k.listing, nil
	}
	var since *past
	if k.listing != nil && k.forgot <= k.listed && k.at == at {
		since = &past{listing: k.listing, dirty: dirty}
	}
	m.mu.Unlock()
	l, err := h.list(ctx, t, sel, since)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k.listing, k.listed, k.at = l, version, at
	if k.forgot <= version {
		k.dirty = append([]string(nil), k.dirty[len(dirty):]...)
	}
	return l, nil
}

// touched says what some changed paths are to a footprint: they may change what
// places it has, or else are within its trees. set has the same paths as the list.
func (f *Footprint) touched(set map[string]bool, paths []string) (moved bool, within []string) {
	above := func(path string) bool {
		for dir := path; ; dir = filepath.Dir(dir) {
			if set[dir] {
				return true
			}
			if dir == filepath.Dir(dir) {
				return false
			}
		}
	}
	for _, p := range f.Points {
		if above(p) {
			return true, nil
		}
	}
	for _, t := range f.Trees {
		if above(t.Root) {
			return true, nil
		}
		for _, p := range paths {
			if !strings.HasPrefix(p, t.Root) {
				continue
			}
			if match, below := t.looks(p); match || below {
				if t.pattern != nil {
					return true, nil // another match may appear
				}
				within = append(within, p)
			}
		}
	}
	return false, within
}

// Touched reports whether one of some paths lies in the footprint, or above a part
// of it. set has the same paths as the list.
func (f *Footprint) Touched(set map[string]bool, paths []string) bool {
	moved, within := f.touched(set, paths)
	return moved || len(within) > 0
}
