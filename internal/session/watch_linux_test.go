package session_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/session"
)

// While it is paused a change stops nothing and starts nothing.
func TestPauseWhileBuilding(t *testing.T) {
	w := newWatched(t, map[string]string{"zbuild.hcl": "target \"default\" {\n  context = \"src\"\n  dockerfile-inline = \"FROM scratch\\nCOPY . /\\n\"\n}\n", "src/file": "0"})
	var building atomic.Bool
	observe := w.opt.Observe
	w.opt.Observe = func(n session.Notice) {
		observe(n)
		if _, ok := n.(session.Started); ok && building.CompareAndSwap(true, false) {
			w.commands <- session.TogglePause
			w.check(os.WriteFile(w.path("src/file"), []byte("22"), 0o644))
			time.Sleep(10 * w.opt.Quiet)
		}
	}
	w.start()
	w.quiet()
	w.forget()
	building.Store(true)
	w.write("src/file", "1")
	w.until("a rest", func() bool {
		return slices.ContainsFunc(w.notices, func(n session.Notice) bool { p, ok := n.(session.Waiting); return ok && p.Paused })
	})
	// It is told that there is something new, each time.
	for i := range 3 {
		w.mu.Lock()
		rests := w.rests
		w.mu.Unlock()
		at := time.Unix(int64(1000+i), 0)
		w.check(os.Chtimes(w.marker(), at, at))
		w.until("another rest", func() bool { return w.rests > rests })
	}
	if all := w.finished(); len(all) != 1 {
		t.Errorf("%d builds came to their end: %+v", len(all), w.notices)
	}
	w.forget()
	w.commands <- session.TogglePause
	w.until("a build", func() bool {
		return slices.ContainsFunc(w.notices, func(n session.Notice) bool { f, ok := n.(session.Finished); return ok && !f.Canceled })
	})
	f := w.finished()[0]
	if !slices.Equal(f.Started.Changed, []string{"src/file"}) {
		t.Errorf("built because of %q", f.Started.Changed)
	}
}

// A file of variables is read once for each change.
func TestVariablesFile(t *testing.T) {
	w := newWatched(t, map[string]string{
		"zbuild.hcl": "variable \"V\" {\n  default = \"none\"\n}\nvariable \"W\" {\n  default = \"none\"\n}\ntarget \"default\" {\n  context = \"src\"\n  dockerfile-inline = \"FROM scratch\\nCOPY . /\\nLABEL v=${V} w=${W}\\n\"\n}\n",
		"vars.hcl":   "V = \"1\"\n", "src/file": "0",
	})
	var loads atomic.Int64
	w.request = func(r *config.Request) {
		r.VarFiles = []string{"vars.hcl"}
		r.LookupEnv = func(name string) (string, bool) {
			if name == "W" {
				loads.Add(1)
			}
			return "", false
		}
	}
	w.start()
	first := loads.Swap(0)
	w.does(func() { w.save("src/file", "22") })
	if n := loads.Swap(0); n != 0 {
		t.Errorf("a variable was looked up %d times for a change of the context", n)
	}
	w.does(func() { w.save("vars.hcl", "V = \"22\"\n") })
	if n := loads.Load(); n != first {
		t.Errorf("it was looked up %d times at first, and %d times for another value", first, n)
	}
}

// A match of a wildcard that appears while directories are being registered is watched
// from then on.
func TestMatchWhileRegistering(t *testing.T) {
	const many = 1500
	w := newWatched(t, map[string]string{
		"zbuild.hcl": "group \"default\" { targets = [\"a\", \"z\"] }\n" +
			"target \"a\" {\n  dockerfile-inline = \"FROM scratch\\nCOPY big /big/\\n\"\n}\n" +
			"target \"z\" {\n  tags = [\"localhost/z\"]\n  dockerfile-inline = \"FROM scratch\\nCOPY w/* /w/\\n\"\n}\n",
	})
	w.check(os.Mkdir(w.path("w"), 0o755))
	for i := range many {
		w.check(os.MkdirAll(w.path(fmt.Sprintf("big/%d", i)), 0o755))
	}
	var added sync.WaitGroup
	added.Go(func() {
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if n := inotifyWatches(); n > many/4 {
				t.Logf("%d watches", n)
				w.write("w/new/file", "1")
				return
			}
		}
	})
	w.start()
	added.Wait()
	w.quiet()
	w.has("z", "/w/file", "1")
	w.forget()
	w.save("w/new/file", "22")
	w.until("a build", func() bool {
		return slices.ContainsFunc(w.notices, func(n session.Notice) bool { _, ok := n.(session.Finished); return ok })
	})
}

// inotifyWatches is how many directories this process watches.
func inotifyWatches() int {
	files, _ := filepath.Glob("/proc/self/fdinfo/*")
	n := 0
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		n += strings.Count(string(raw), "inotify wd:")
	}
	return n
}
