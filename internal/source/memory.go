package source

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
)

// Memory keeps the digests of selections from one generation of a build to the
// next. Whoever holds it must be told of all changes, or tell it to forget. It may
// be used from several goroutines.
type Memory struct {
	mu    sync.Mutex
	known map[string]*memorized
}

// memorized is what is known of one selection.
type memorized struct {
	// version counts the times when something may have changed. The footprint is
	// that of version looked, the digest that of version hashed.
	version, looked, hashed int
	footprint               *Footprint
	state                   State
}

// NewMemory makes a memory that knows nothing.
func NewMemory() *Memory { return &Memory{known: make(map[string]*memorized)} }

// Forget says that anything may have changed.
func (m *Memory) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.known {
		k.version++
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
		if k.footprint != nil && k.footprint.Touched(set, paths) {
			k.version++
		}
	}
}

// get gives what is known of a selection, under an identity that no other has.
func (m *Memory) get(t Tree, sel Selection) *memorized {
	id := fmt.Sprintf("%#v %#v", t, sel)
	k := m.known[id]
	if k == nil {
		k = &memorized{version: 1}
		m.known[id] = k
	}
	return k
}

// Footprint says what a selection looks at. As long as it has not been touched it
// is the same pointer.
func (m *Memory) Footprint(t Tree, sel Selection) (*Footprint, error) {
	m.mu.Lock()
	k := m.get(t, sel)
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

// Look says what a selection is, as h does, unless it is known. A nil Memory knows
// nothing, and remembers nothing.
func (m *Memory) Look(ctx context.Context, h *Hasher, t Tree, sel Selection) (State, error) {
	if m == nil {
		return h.Look(ctx, t, sel)
	}
	// What is looked at is found out before it is looked at: then a change in
	// between is a change of the footprint.
	if _, err := m.Footprint(t, sel); err != nil {
		return State{}, err
	}
	m.mu.Lock()
	k := m.get(t, sel)
	version, hashed, known := k.version, k.hashed, k.state
	m.mu.Unlock()
	if version == hashed {
		return known, nil
	}
	s, err := h.Look(ctx, t, sel)
	if err != nil {
		return State{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k.state, k.hashed = s, version
	return s, nil
}

// Touched reports whether one of some paths lies in the footprint, or above a part
// of it. set has the same paths as the list.
func (f *Footprint) Touched(set map[string]bool, paths []string) bool {
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
			return true
		}
	}
	for _, t := range f.Trees {
		if above(t.Root) {
			return true
		}
		for _, p := range paths {
			if !strings.HasPrefix(p, t.Root) {
				continue
			}
			if match, below := t.looks(p); match || below {
				return true
			}
		}
	}
	return false
}
