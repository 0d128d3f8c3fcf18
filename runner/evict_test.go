package runner

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// inventory is a SnapshotStore without files: what there is is a list.
type inventory struct {
	snapshots []SnapshotInfo
	kept      map[Snapshot]bool
	disk      Disk
	measured  int // how often
	locked    bool
}

func (s *inventory) Exclusive() (func(), bool, error) { return func() {}, !s.locked, nil }

func (s *inventory) Kept(context.Context) (map[Snapshot]bool, error) { return s.kept, nil }

func (s *inventory) Has(_ context.Context, id Snapshot) bool {
	return slices.ContainsFunc(s.snapshots, func(i SnapshotInfo) bool { return i.ID == id })
}

func (s *inventory) Snapshots(context.Context) ([]SnapshotInfo, error) {
	s.measured++
	all := slices.Clone(s.snapshots)
	for i := range all {
		all[i].Busy = s.kept[all[i].ID]
	}
	return all, nil
}

func (s *inventory) Usage(_ context.Context, id Snapshot) (int64, error) {
	for _, i := range s.snapshots {
		if i.ID == id {
			return i.Size, nil
		}
	}
	return 0, fmt.Errorf("no snapshot %s", id)
}

func (s *inventory) Discard(_ context.Context, ids ...Snapshot) error {
	s.snapshots = slices.DeleteFunc(s.snapshots, func(i SnapshotInfo) bool { return slices.Contains(ids, i.ID) })
	return nil
}

func (s *inventory) CacheMounts(context.Context) ([]CacheMount, error) { return nil, nil }

func (s *inventory) DiscardCacheMount(context.Context, string) (bool, error) { return false, nil }

func (s *inventory) Fetched(context.Context) ([]Fetched, error) { return nil, nil }

func (s *inventory) DiscardFetched(context.Context, Fetched) (bool, error) { return false, nil }

func (s *inventory) Disk(context.Context) (Disk, error) { return s.disk, nil }

func (s *inventory) Tidy(context.Context) error { return nil }

func TestEvict(t *testing.T) {
	dir := t.TempDir()
	cache := NewDirCache(filepath.Join(dir, "cache"))
	store := &inventory{disk: Disk{Total: 1000, Used: 500}, kept: map[Snapshot]bool{}}
	now := noon
	cache.Now = func() time.Time { return now }
	add := func(i int) {
		t.Helper()
		id := Snapshot(fmt.Sprint("s", i))
		key := digest.FromString(string(id))
		if err := cache.Put(key, Entry{Snapshots: []Snapshot{id}}); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := cache.Get(key); !ok || err != nil { // used now
			t.Fatal(ok, err)
		}
		store.snapshots = append(store.snapshots, SnapshotInfo{ID: id, Size: 10, Created: now})
		store.disk.Used += 10
		now = now.Add(2 * time.Minute)
	}
	evict := func(l Limits, measured bool, left ...Snapshot) {
		t.Helper()
		store.measured = 0
		if _, err := Evict(t.Context(), cache, store, l, filepath.Join(dir, "note"), now); err != nil {
			t.Fatal(err)
		}
		if (store.measured > 0) != measured {
			t.Errorf("measured %d times", store.measured)
		}
		var got []Snapshot
		for _, s := range store.snapshots {
			got = append(got, s.ID)
		}
		if !slices.Equal(got, left) {
			t.Errorf("left are %v, want %v", got, left)
		}
	}
	limit := Limits{MaxShare: 4} // 40 bytes
	for i := range 4 {
		add(i)
	}
	evict(Limits{}, false, "s0", "s1", "s2", "s3")
	evict(limit, true, "s0", "s1", "s2", "s3")
	evict(limit, false, "s0", "s1", "s2", "s3")
	add(4)
	store.locked = true // another process prunes
	evict(limit, false, "s0", "s1", "s2", "s3", "s4")
	store.locked = false
	store.kept["s1"] = true // a build uses it
	evict(limit, true, "s1", "s3", "s4")
	add(5)
	evict(limit, false, "s1", "s3", "s4", "s5")
	evict(Limits{MaxSize: 25, MaxShare: 4}, true, "s1", "s5")
	store.kept = map[Snapshot]bool{}
	now = now.Add(2 * time.Hour)
	evict(Limits{MaxAge: time.Hour}, true)
	now = noon // before all that: what was measured in the future is not relied on
	evict(limit, true)
}
