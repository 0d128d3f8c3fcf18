//go:build linux

package buildah

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zbuild/zbuild/runner"
)

func TestSnapshotStore(t *testing.T) {
	e := open(t, Options{})
	ctx := t.Context()
	base := tinyRoot(t, e)
	s, _ := do(t, e, execOp(nil, "sh", "-c", "head -c 100000 /dev/zero > /file"), runner.Input{Snapshot: base})
	if _, err := e.store.CreateLayer("foreign", "", nil, "", true, nil); err != nil {
		t.Fatal(err)
	}
	list := func() map[runner.Snapshot]runner.SnapshotInfo {
		t.Helper()
		all, err := e.Snapshots(ctx)
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[runner.Snapshot]runner.SnapshotInfo)
		for _, s := range all {
			found[s.ID] = s
		}
		return found
	}
	found := list()
	if _, ok := found["foreign"]; ok {
		t.Error("a layer that no step has made is listed")
	}
	if info, ok := found[s]; !ok || info.Parent != base || info.Busy || info.Created.IsZero() {
		t.Errorf("the step's snapshot is listed as %+v, %t", info, ok)
	}
	for range 2 { // measured, and remembered
		if n, err := e.Usage(ctx, s); err != nil || n < 100000 || n > 200000 {
			t.Errorf("usage %d, %v", n, err)
		}
	}

	// What is being made is busy.
	l, err := e.newLayer(base)
	if err != nil {
		t.Fatal(err)
	}
	if info := list()[runner.Snapshot(l.id)]; !info.Busy {
		t.Errorf("a layer that is being made is %+v", info)
	}
	l.drop()

	// The lower one stays as long as there is one on it; the foreign one stays.
	for _, c := range []struct {
		discard, has runner.Snapshot
		left         bool
	}{{base, base, true}, {"foreign", "foreign", true}, {s, s, false}, {base, base, false}} {
		if err := e.Discard(ctx, c.discard); err != nil {
			t.Fatal(err)
		}
		if e.Has(ctx, c.has) != c.left {
			t.Errorf("after discarding %s it is there: %t", c.discard, !c.left)
		}
	}
	note := filepath.Join(e.StateDir(), notesName, string(s))
	if _, err := os.Stat(note); err != nil {
		t.Fatal(err)
	}
	if err := e.Tidy(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(note); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note about a layer that is gone: %v", err)
	}
}

func TestExclusiveWaitsForUses(t *testing.T) {
	e := open(t, Options{})
	ctx := t.Context()
	one, err := e.Use(ctx)
	if err != nil {
		t.Fatal(err)
	}
	two, err := e.Use(ctx) // together
	if err != nil {
		t.Fatal(err)
	}
	two()
	waited := make(chan struct{})
	go func() { <-waited; one() }()
	alone, err := e.Exclusive(ctx, func() { close(waited) })
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-waited:
	default:
		t.Error("nobody was waited for")
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := e.Use(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a use during a prune: %v", err)
	}
	alone()
	again, err := e.Use(ctx)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestDiscardCacheMount(t *testing.T) {
	e := open(t, Options{})
	ctx := t.Context()
	dir := filepath.Join(e.StateDir(), cachesName, "some")
	if err := os.MkdirAll(filepath.Join(dir, cacheDataName), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	check := func(n int, inUse bool) {
		t.Helper()
		all, err := e.CacheMounts(ctx)
		if err != nil || len(all) != n || n > 0 && all[0].InUse != inUse {
			t.Errorf("%+v, %v", all, err)
		}
	}
	check(1, true)
	if removed, err := e.DiscardCacheMount(ctx, "some"); removed || err != nil {
		t.Errorf("one in use: %t, %v", removed, err)
	}
	lock.Close()
	check(1, false)
	if removed, err := e.DiscardCacheMount(ctx, "some"); !removed || err != nil {
		t.Errorf("%t, %v", removed, err)
	}
	check(0, false)
	for _, name := range []string{"some", "../cache-mounts", ".."} {
		if removed, _ := e.DiscardCacheMount(ctx, name); removed {
			t.Errorf("%q was removed", name)
		}
	}
}
