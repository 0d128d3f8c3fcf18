//go:build linux

package buildah

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestClearUsers finds notes of who has had a cache: of one that is gone, one that died,
// one that lives, and this process itself.
func TestClearUsers(t *testing.T) {
	parent, cache := t.TempDir(), t.TempDir()
	process := func() *process {
		p, err := newProcess(parent)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	own, alive, died := process(), process(), process()
	if err := died.lock.Close(); err != nil {
		t.Fatal(err)
	}
	e := &Engine{proc: own, log: slog.New(slog.DiscardHandler)}
	note := func(name, of string) string {
		name = filepath.Join(cache, userPrefix+name)
		if err := os.Symlink(of, name); err != nil {
			t.Fatal(err)
		}
		return name
	}
	stays := map[string]bool{
		note("gone", filepath.Join(parent, "p-gone")): false, note("died", died.dir): false,
		note("alive", alive.dir): true, note("own", own.dir): true,
	}
	leave, err := e.enterCache(t.Context(), cache, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range stays {
		if _, err := os.Lstat(name); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := os.ReadDir(died.dir); err != nil || len(left) != 1 {
		t.Errorf("of the dead there are %v, %v", left, err)
	}
	leave()
	if left, err := os.ReadDir(cache); err != nil || len(left) != 2 {
		t.Errorf("left are %v, %v", left, err)
	}
	if err := alive.close(); err != nil {
		t.Error(err)
	}
	if err := e.clearUsers(t.Context(), cache, true); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}
}
