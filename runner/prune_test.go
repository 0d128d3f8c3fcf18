package runner

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/sealed"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// cached is an entry that was used some hours before noon.
func cached(key string, hours int, snapshots ...Snapshot) CachedStep {
	return CachedStep{
		Key: digest.Digest(key), Entry: Entry{Snapshots: snapshots},
		LastUsed: noon.Add(-time.Duration(hours) * time.Hour),
	}
}

// made is a snapshot of ten bytes, made a day before noon.
func made(id, parent Snapshot) SnapshotInfo {
	return SnapshotInfo{ID: id, Parent: parent, Size: 10, Created: noon.Add(-24 * time.Hour)}
}

func limit(n int64) *int64 { return &n }

func TestPrunePolicy(t *testing.T) {
	// base <- a <- a2, base <- b; base lies on an image's layer.
	chain := Inventory{
		Steps: []CachedStep{
			cached("base", 100, "base"), cached("a", 90, "a"), cached("a2", 1, "a2"), cached("b", 50, "b"),
		},
		Snapshots: []SnapshotInfo{made("a", "base"), made("a2", "a"), made("b", "base"), made("base", "image")},
		Mounts: []CacheMount{
			{Name: "old", Size: 5, LastUsed: noon.Add(-60 * time.Hour)},
			{Name: "used", Size: 5, LastUsed: noon.Add(-60 * time.Hour), InUse: true},
		},
		Fetched: []Fetched{
			{Name: "old file", Size: 5, LastUsed: noon.Add(-60 * time.Hour)}, {Name: "new file", Size: 5, LastUsed: noon.Add(time.Hour)},
		},
	}
	young := made("young", "")
	young.Created = noon.Add(-time.Second)
	busy := made("busy", "")
	busy.Busy = true
	gone := cached("gone", 1, "a", "lost")
	gone.Gone = true
	for _, c := range []struct {
		name      string
		policy    PrunePolicy
		inv       Inventory
		keys      []digest.Digest
		snapshots []Snapshot
		mounts    []string
		fetched   []string
	}{
		{name: "nothing is useless", inv: chain},
		{name: "an empty cache", policy: PrunePolicy{All: true}},
		{
			name: "all, what lies on top first", policy: PrunePolicy{All: true}, inv: chain,
			keys:      []digest.Digest{"a", "a2", "b", "base"},
			snapshots: []Snapshot{"b", "a2", "a", "base"}, mounts: []string{"old"}, fetched: []string{"old file", "new file"},
		},
		{
			name: "what lies below a used step is used", policy: PrunePolicy{OlderThan: 48 * time.Hour}, inv: chain,
			keys: []digest.Digest{"b"}, snapshots: []Snapshot{"b"}, mounts: []string{"old"}, fetched: []string{"old file"},
		},
		{
			name: "size: the least recently used", policy: PrunePolicy{KeepSize: limit(30)}, inv: chain,
			keys: []digest.Digest{"b"}, snapshots: []Snapshot{"b"},
		},
		{
			name: "size: used at the same time, the top first", policy: PrunePolicy{KeepSize: limit(15)}, inv: chain,
			keys: []digest.Digest{"a", "a2", "b"}, snapshots: []Snapshot{"b", "a2", "a"},
		},
		{
			name: "size zero", policy: PrunePolicy{KeepSize: limit(0)}, inv: chain,
			keys: []digest.Digest{"a", "a2", "b", "base"}, snapshots: []Snapshot{"b", "a2", "a", "base"},
		},
		{
			name: "snapshots without an entry", inv: Inventory{
				Steps:     []CachedStep{cached("top", 1, "top")},
				Snapshots: []SnapshotInfo{busy, made("kept", ""), made("leaf", "root"), made("root", ""), made("top", "kept"), young},
			},
			snapshots: []Snapshot{"leaf", "root"},
		},
		{
			name: "all, even if it is young", policy: PrunePolicy{All: true}, inv: Inventory{
				Snapshots: []SnapshotInfo{busy, young},
			},
			snapshots: []Snapshot{"young"},
		},
		{
			name: "an entry whose snapshot is gone", inv: Inventory{
				Steps: []CachedStep{gone}, Snapshots: []SnapshotInfo{made("a", "")},
			},
			keys: []digest.Digest{"gone"}, snapshots: []Snapshot{"a"},
		},
		{
			name: "two entries name one snapshot", policy: PrunePolicy{OlderThan: 48 * time.Hour}, inv: Inventory{
				Steps: []CachedStep{cached("k1", 90, "a"), cached("k2", 1, "a")}, Snapshots: []SnapshotInfo{made("a", "")},
			},
		},
		{
			name: "the empty tree and an image's layer are no snapshots", policy: PrunePolicy{All: true}, inv: Inventory{
				Steps: []CachedStep{cached("k1", 90, "", "image")},
			},
			keys: []digest.Digest{"k1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.policy.Decide(&c.inv, noon)
			var snapshots []Snapshot
			for _, s := range got.Snapshots {
				snapshots = append(snapshots, s.ID)
			}
			var mounts []string
			for _, m := range got.Mounts {
				mounts = append(mounts, m.Name)
			}
			if d := cmp.Diff(c.keys, got.Keys); d != "" {
				t.Errorf("entries (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.snapshots, snapshots); d != "" {
				t.Errorf("snapshots (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.mounts, mounts); d != "" {
				t.Errorf("mounts (-want +got):\n%s", d)
			}
			var fetched []string
			for _, f := range got.Fetched {
				fetched = append(fetched, f.Name)
			}
			if d := cmp.Diff(c.fetched, fetched); d != "" {
				t.Errorf("fetched (-want +got):\n%s", d)
			}
			if want := int64(10*len(snapshots) + 5*len(mounts) + 5*len(fetched)); got.Size() != want {
				t.Errorf("size %d, want %d", got.Size(), want)
			}
		})
	}
}

func TestDirCacheNotesUse(t *testing.T) {
	clock := noon
	c := NewDirCache(filepath.Join(t.TempDir(), "cache"))
	c.Now = func() time.Time { return clock }
	if all, err := c.List(); err != nil || len(all) > 0 {
		t.Fatalf("a cache that does not exist yet: %v, %v", all, err)
	}
	key := digest.FromString("key")
	if err := c.Put(key, Entry{Snapshots: []Snapshot{"s"}, Step: "RUN x"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(c.file(key), noon, noon); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ now, want time.Time }{
		{noon.Add(time.Minute), noon},
		{noon.Add(2 * time.Hour), noon.Add(2 * time.Hour)},
		{noon.Add(time.Hour), noon.Add(time.Hour)}, // the clock was set back
	} {
		clock = step.now
		if _, ok, _ := c.Get(key); !ok {
			t.Fatal("the entry is not found")
		}
		all, err := c.List()
		if err != nil || len(all) != 1 {
			t.Fatalf("%v, %v", all, err)
		}
		if all[0].Key != key || all[0].Step != "RUN x" || !all[0].LastUsed.Equal(step.want) {
			t.Errorf("at %v: %+v, want last use %v", step.now, all[0], step.want)
		}
	}
	// One of the future grows old from when it is seen first.
	clock = noon
	for range 2 {
		if all, err := c.List(); err != nil || len(all) != 1 || !all[0].LastUsed.Equal(noon) {
			t.Errorf("an entry of the future: %+v, %v", all, err)
		}
		clock = noon.Add(30 * time.Minute)
	}
	// What is no entry is not listed, and removed when it is old.
	half := filepath.Join(filepath.Dir(c.file(key)), sealed.TempPrefix+"1")
	if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, step := range []struct {
		now  time.Time
		left bool
	}{{now, true}, {now.Add(2 * time.Hour), false}} {
		if err := c.tidy(step.now); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(half); (err == nil) != step.left {
			t.Errorf("%v, want it left: %t", err, step.left)
		}
	}
	if err := c.Remove(key); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(key); err != nil {
		t.Errorf("removing what is gone: %v", err)
	}
	if _, ok, _ := c.Get(key); ok {
		t.Error("a removed entry is found")
	}
}
