package runner

import (
	"cmp"
	"context"
	"os"
	"runtime"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// SnapshotStore is an engine whose snapshots can be listed, measured and given
// up. It never names what it did not make itself.
type SnapshotStore interface {
	// Exclusive makes this process the only one that prunes, until release is
	// called. If another one does ok is false. It does not wait, and builds go on.
	Exclusive() (release func(), ok bool, err error)
	// Kept lists the snapshots that builds use, as Engine.Use says.
	Kept(ctx context.Context) (map[Snapshot]bool, error)
	// Has reports whether a snapshot is whole; see Engine.
	Has(ctx context.Context, s Snapshot) bool
	// Snapshots lists the snapshots that steps have left, in the order of their
	// names. Those of base images are not among them.
	Snapshots(ctx context.Context) ([]SnapshotInfo, error)
	// Usage is how many bytes a snapshot takes on disk, those below it not counted.
	Usage(ctx context.Context, s Snapshot) (int64, error)
	// Discard gives up snapshots; see Engine.
	Discard(ctx context.Context, s ...Snapshot) error
	// CacheMounts lists the directories of cache mounts, in the order of their
	// names.
	CacheMounts(ctx context.Context) ([]CacheMount, error)
	// DiscardCacheMount removes a directory of a cache mount, unless a RUN is using
	// it.
	DiscardCacheMount(ctx context.Context, name string) (removed bool, err error)
	// Fetched lists what is kept of what came from URLs and git repositories.
	Fetched(ctx context.Context) ([]Fetched, error)
	// DiscardFetched gives up something of that, unless it was used since it was listed.
	DiscardFetched(ctx context.Context, f Fetched) (removed bool, err error)
	// Disk says how big the file system is that the snapshots are on.
	Disk(ctx context.Context) (Disk, error)
	// Tidy removes notes about snapshots that are gone.
	Tidy(ctx context.Context) error
}

// SnapshotInfo is what a SnapshotStore knows of a snapshot.
type SnapshotInfo struct {
	ID Snapshot
	// Parent is what it lies on; empty for none.
	Parent  Snapshot
	Created time.Time
	// Busy says that a build uses it, or is still working in it.
	Busy bool
	// Size is in bytes; see SnapshotStore.Usage. Inventory sets it.
	Size int64
}

// Disk is a file system's size in bytes.
type Disk struct{ Total, Used int64 }

// CacheMount is the directory that a cache mount shows to a RUN.
type CacheMount struct {
	Name string // of the directory
	// ID is what the project calls it; empty if that is not known.
	ID       string
	Size     int64 // bytes on disk
	LastUsed time.Time
	InUse    bool // by a RUN, now
}

// Fetched is something that came from elsewhere and is kept. Who needs it and does not find
// it fetches it again.
type Fetched struct {
	Name     string
	Size     int64 // bytes
	LastUsed time.Time
}

// CachedStep is an entry of a DirCache.
type CachedStep struct {
	Key digest.Digest
	Entry
	// LastUsed is when the entry was written or last found, to the minute.
	LastUsed time.Time
	// Gone says that a snapshot of the entry is not in the store any more, or the
	// entry that it points to not in the cache.
	Gone bool
}

// Inventory is everything that the cache keeps. It is inert: decisions about it
// need neither store nor disk.
type Inventory struct {
	Steps     []CachedStep   // in the order of their keys
	Snapshots []SnapshotInfo // in the order of their names
	Mounts    []CacheMount   // in the order of their names
	Fetched   []Fetched
}

// Size is what all of it takes, in bytes.
func (inv *Inventory) Size() int64 {
	var n int64
	for _, s := range inv.Snapshots {
		n += s.Size
	}
	for _, m := range inv.Mounts {
		n += m.Size
	}
	for _, f := range inv.Fetched {
		n += f.Size
	}
	return n
}

// TakeInventory lists what the cache keeps. What others remove meanwhile is
// listed or not.
func TakeInventory(ctx context.Context, cache *DirCache, store SnapshotStore) (*Inventory, error) {
	inv := &Inventory{}
	var err error
	if inv.Steps, err = cache.List(); err != nil {
		return nil, err
	}
	if inv.Snapshots, err = store.Snapshots(ctx); err != nil {
		return nil, err
	}
	for i := range inv.Steps {
		e := &inv.Steps[i]
		e.Gone = slices.ContainsFunc(e.Snapshots, func(s Snapshot) bool { return !store.Has(ctx, s) })
		if e.SameAs != "" {
			_, err := os.Stat(cache.file(e.SameAs))
			e.Gone = err != nil
		}
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range inv.Snapshots {
		g.Go(func() error {
			size, err := store.Usage(ctx, inv.Snapshots[i].ID)
			if err == nil { // otherwise it has gone meanwhile, or cannot be measured
				inv.Snapshots[i].Size = size
			}
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, context.Cause(ctx)
	}
	if inv.Mounts, err = store.CacheMounts(ctx); err != nil {
		return nil, err
	}
	if inv.Fetched, err = store.Fetched(ctx); err != nil {
		return nil, err
	}
	slices.SortFunc(inv.Steps, func(a, b CachedStep) int { return cmp.Compare(a.Key, b.Key) })
	return inv, nil
}
