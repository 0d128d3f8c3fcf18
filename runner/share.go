package runner

// What steps use besides their inputs, and more than one of them: a build context that
// is mounted into several RUNs, now and by the next build. It is found by what it is,
// as a step's result is, and goes with the least recently used like one.

import (
	"context"
	"fmt"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"
)

// shares are the shared snapshots of one run. Its zero value has none.
type shares struct {
	mu   sync.Mutex
	byID map[digest.Digest]*shared
}

// shared is one of them. Who holds its mutex is getting it.
type shared struct {
	mu       sync.Mutex
	snapshot Snapshot
	got      bool
}

func (s *shares) of(key digest.Digest) *shared {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = make(map[digest.Digest]*shared)
	}
	if s.byID[key] == nil {
		s.byID[key] = &shared{}
	}
	return s.byID[key]
}

// share gives the snapshot that a key stands for: this run's, an earlier one's, or what
// fill makes now. name is for people.
func (r *run) share(ctx context.Context, key digest.Digest, name string, fill func() (Snapshot, error)) (Snapshot, error) {
	one := r.shares.of(key)
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.got && r.opt.Engine.Has(ctx, one.snapshot) {
		return one.snapshot, nil
	}
	s, ok := r.sharedBefore(ctx, key)
	if !ok {
		var err error
		if s, err = fill(); err != nil {
			return "", err
		}
		if r.opt.Cache != nil {
			e := Entry{Snapshots: []Snapshot{s}, Created: r.opt.Now().UTC(), Step: name}
			if err := r.opt.Cache.Put(key, e); err != nil {
				r.warn(nil, fmt.Errorf("%s will not be found again: %w", name, err))
			}
		}
	}
	one.snapshot, one.got = s, true
	return s, nil
}

// sharedBefore finds what an earlier run made.
func (r *run) sharedBefore(ctx context.Context, key digest.Digest) (Snapshot, bool) {
	if r.opt.Cache == nil {
		return "", false
	}
	e, ok, err := r.opt.Cache.Get(key)
	if err != nil {
		r.warn(nil, err)
	}
	if !ok || len(e.Snapshots) != 1 {
		return "", false
	}
	r.opt.Engine.Keep(e.Snapshots...)
	// As with steps: what is still named after it was kept stays.
	again, ok, _ := r.opt.Cache.Get(key)
	if !ok || !slices.Equal(again.Snapshots, e.Snapshots) || !r.opt.Engine.Has(ctx, e.Snapshots[0]) {
		return "", false
	}
	return e.Snapshots[0], true
}
