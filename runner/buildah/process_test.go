//go:build linux

package buildah

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zbuild/zbuild/runner"
)

// TestSweepFiles starts where a process has died over its files: they go, unless
// somebody lives whose they might be.
func TestSweepFiles(t *testing.T) {
	dir := t.TempDir()
	opt := Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay"}
	start := func() *Engine {
		t.Helper()
		e, err := Open(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.Close(); unmountBelow(dir) })
		return e
	}
	e := start()
	state, processes := e.StateDir(), e.processDir()
	unborn := filepath.Join(processes, "new-123")
	temporary := []string{
		filepath.Join(state, ".index-1"), filepath.Join(state, "cache", "ab", ".new-1"), filepath.Join(state, "cache", "variants", "ab", ".new-1"),
		filepath.Join(state, "layers", "x", ".new-1"), filepath.Join(state, "blobs", "layer-1"), filepath.Join(state, "blobs", "blob-1"),
		filepath.Join(state, "blobs", "notes", ".new-1"), filepath.Join(state, "cache-mounts", "c", "new-1", "data", "f"), filepath.Join(unborn, "layers", "x"),
	}
	lasting := []string{
		filepath.Join(state, "cache-mounts", "c", "data", "new-1"), filepath.Join(state, "cache-mounts", "c", "data", "d", ".new-1"), filepath.Join(state, "cache", "ab", "abcd"),
	}
	dead := filepath.Join(processes, "p-123")
	kill := func() {
		t.Helper()
		for _, f := range append(append([]string{filepath.Join(dead, lockName), filepath.Join(dead, keptName)}, temporary...), lasting...) {
			if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(f, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	there := func(want bool, files ...string) {
		t.Helper()
		for _, f := range files {
			if _, err := os.Lstat(f); (err == nil) != want || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v, want it there: %t", f, err, want)
			}
		}
	}
	kill()
	second := start()
	there(true, append(temporary[:8:8], lasting...)...)
	there(false, filepath.Join(dead, keptName))
	for _, x := range []*Engine{e, second} {
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
	start()
	there(false, append(temporary, dead, unborn)...)
	there(true, lasting...)
}

// TestCloseWhileSwept closes engines while others look for what dead ones have
// left: no one trips over the other.
func TestCloseWhileSwept(t *testing.T) {
	parent := t.TempDir()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			entries, _ := os.ReadDir(parent)
			for _, entry := range entries {
				if strings.HasPrefix(entry.Name(), newPrefix) {
					continue // not to be touched, as in a sweep
				}
				if lock, err := lockOfAnother(filepath.Join(parent, entry.Name())); err == nil {
					lock.Close()
				}
			}
		}
	}()
	for range 500 {
		p, err := newProcess(parent)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	}
	close(stop)
	<-done
}

// TestEndLeavesWhatIsUnfinished ends a process that could not delete a layer, or a
// directory in one, or could not unmount one: its directory stays until the next start has.
func TestEndLeavesWhatIsUnfinished(t *testing.T) {
	e := open(t, Options{})
	for what, begin := range map[string]func(*process) error{
		layersName: func(p *process) error { return p.begin(newID()) },
		viewsName:  func(p *process) error { _, err := p.beginView(newID()); return err },
		stagesName: func(p *process) error { _, _, err := p.stage(t.TempDir()); return err },
	} {
		p, err := newProcess(e.processDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(begin(p), p.close()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(p.dir); err != nil {
			t.Errorf("nobody will know of the %s: %v", what, err)
		}
		e.sweep(t.Context())
		if left, err := os.ReadDir(filepath.Join(p.dir, what)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after a sweep there is %v, %v", left, err)
		}
	}
}

// What could not be written down as kept is written down when it is named again.
func TestKeepAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), keptName)
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	closed, err := os.Open(name) // nobody can write to it
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	k := &kept{uses: 1, file: closed, names: make(map[runner.Snapshot]bool)}
	if err := k.add("a"); err == nil {
		t.Error("it is not said that nothing was written")
	}
	if k.file, err = os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		t.Fatal(err)
	}
	defer k.file.Close()
	for range 2 {
		if err := k.add("a", "b"); err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(name); err != nil || string(text) != "a\nb\n" {
		t.Errorf("%q, %v", text, err)
	}
}
