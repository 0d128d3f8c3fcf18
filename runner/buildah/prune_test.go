//go:build linux

package buildah

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/source"
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

func TestKept(t *testing.T) {
	e := open(t, Options{})
	ctx := t.Context()
	check := func(want ...runner.Snapshot) {
		t.Helper()
		got, err := e.Kept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Errorf("kept: %v, want %v", got, want)
		}
		for _, s := range want {
			if !got[s] {
				t.Errorf("kept: %v, want %v", got, want)
			}
		}
	}
	one, err := e.Use(ctx)
	if err != nil {
		t.Fatal(err)
	}
	two, err := e.Use(ctx)
	if err != nil {
		t.Fatal(err)
	}
	l, err := e.newLayer("")
	if err != nil {
		t.Fatal(err)
	}
	check(runner.Snapshot(l.id))
	s, err := l.freeze()
	if err != nil {
		t.Fatal(err)
	}
	check(s)
	e.Keep("a", "b", "a", "")
	check(s, "a", "b")
	one()
	check(s, "a", "b")
	two()
	check()
	again, err := e.Use(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e.Keep("a")
	check("a")
	again()
}

func TestExclusive(t *testing.T) {
	e := open(t, Options{})
	release, ok, err := e.Exclusive()
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, ok, err := e.Exclusive(); ok || err != nil {
		t.Errorf("two at once: %t, %v", ok, err)
	}
	release()
	if release, ok, err = e.Exclusive(); !ok || err != nil {
		t.Fatalf("after the release: %t, %v", ok, err)
	}
	release()
}

func TestLease(t *testing.T) {
	e := open(t, Options{})
	key, other := digest.FromString("a"), digest.FromString("b")
	release, ok := e.Lease(key)
	if !ok {
		t.Fatal("nobody has it, and it cannot be had")
	}
	if _, ok := e.Lease(key); ok {
		t.Error("two have the same")
	}
	if release, ok := e.Lease(other); !ok {
		t.Error("another is taken, too")
	} else {
		release()
	}
	release()
	if release, ok = e.Lease(key); !ok {
		t.Error("it was not given back")
	} else {
		release()
	}
}

// A snapshot's content is what a copy of it would be.
func TestContent(t *testing.T) {
	e := open(t, Options{})
	ctx := t.Context()
	base := tinyRoot(t, e)
	content := func(commands string, sel source.Selection) digest.Digest {
		t.Helper()
		s, _ := do(t, e, execOp(nil, "sh", "-c", commands), runner.Input{Snapshot: base})
		var first digest.Digest
		for range 2 { // digested, and remembered
			d, err := e.Content(ctx, s, sel)
			if err != nil {
				t.Fatal(err)
			}
			if first != "" && d != first {
				t.Errorf("%s: %s, then %s", commands, first, d)
			}
			first = d
		}
		return first
	}
	out := source.Selection{Path: "/out"}
	const script = "mkdir /out; echo x > /out/a; ln -s a /out/b; "
	want := content(script, out)
	for _, same := range []string{"echo other > /other; " + script, script + "touch -d 2001-01-01 /out/a /out"} {
		if content(same, out) != want {
			t.Errorf("%q: the content is another", same)
		}
	}
	for _, differs := range []string{"echo y > /out/a", "chmod 600 /out/a", "chown 7 /out/a", "ln -sf c /out/b", "touch /out/c", "mv /out/a /out/A", "rm /out/b", "mkfifo /out/p"} {
		if content(script+differs, out) == want {
			t.Errorf("%q: the content is the same", differs)
		}
	}
	var none *source.NotFoundError
	if _, err := e.Content(ctx, base, out); !errors.As(err, &none) {
		t.Errorf("nothing there: %v", err)
	}
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
