package runner

// After a build that did something the cache is brought back under its limits.
// Measuring it takes time where it is big. So what it took the last time is noted,
// with what the whole disk did then, and as long as the disk has not filled up by
// as much as is left to the limit nothing is measured.

import (
	"context"
	"time"

	"github.com/zbuild/zbuild/internal/sealed"
)

// Limits bound what the cache keeps between builds. The zero value bounds nothing.
type Limits struct {
	// MaxAge is how long a step or a cache mount may go unused; 0 means for ever.
	MaxAge time.Duration
	// MaxSize is how many bytes the results of steps may take on disk; 0 means as
	// many as there are. Cache mounts do not count.
	MaxSize int64
	// MaxShare is the same as percent of the disk that they are on; the smaller of
	// the two counts.
	MaxShare int
}

// bytes is the limit on a disk; 0 if there is none.
func (l Limits) bytes(d Disk) int64 {
	limit := l.MaxSize
	if l.MaxShare > 0 && d.Total > 0 {
		if share := d.Total / 100 * int64(l.MaxShare); limit == 0 || share < limit {
			limit = share
		}
	}
	return limit
}

// measured is what was known the last time that the cache was measured.
type measured struct {
	At   time.Time `json:"at"`
	Size int64     `json:"size"` // of the results of steps
	Used int64     `json:"used"` // of the disk, by everything
}

// remeasured is how long a measure is relied on: something else may have freed as
// much of the disk as builds have filled.
const remeasured = time.Hour

// Evict removes from the cache, the least recently used first, until it is within
// its limits, and what is of no use to anybody. note is the file in which it
// remembers what it saw. If nothing can be over a limit, or another process prunes,
// it does nothing. What builds use it leaves alone.
func Evict(ctx context.Context, cache *DirCache, store SnapshotStore, limits Limits, note string, now time.Time) (*Pruning, error) {
	none := &Pruning{}
	if limits == (Limits{}) {
		return none, nil
	}
	disk, err := store.Disk(ctx)
	if err != nil {
		return none, err
	}
	limit := limits.bytes(disk)
	var last measured
	if _, err := sealed.Read(note, &last); err == nil && now.Sub(last.At) >= 0 && now.Sub(last.At) < remeasured {
		if limit == 0 || last.Size+max(0, disk.Used-last.Used) <= limit {
			return none, nil
		}
	}
	release, ok, err := store.Exclusive()
	if err != nil || !ok {
		return none, err
	}
	defer release()
	inv, err := TakeInventory(ctx, cache, store)
	if err != nil {
		return none, err
	}
	policy := PrunePolicy{OlderThan: limits.MaxAge}
	size := (&Inventory{Snapshots: inv.Snapshots}).Size()
	if limit > 0 && size > limit {
		keep := limit - limit/10 // so that the next build need not do this again
		policy.KeepSize = &keep
	}
	done, err := remove(ctx, cache, store, inv, policy.Decide(inv, now), now)
	if err != nil {
		return done, err
	}
	last = measured{At: now, Size: size - (&Inventory{Snapshots: done.Snapshots}).Size()}
	if disk, err = store.Disk(ctx); err == nil {
		last.Used = disk.Used
		err = sealed.Write(note, last)
	}
	return done, err
}
