package session_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/session"
)

// TestComplaints has a test for each of the things that users of other watchers
// complain about most. Those that need a process of its own, a terminal or a
// kernel that runs out of something are in other places, and named here.
func TestComplaints(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		// 01, running out of inotify watches or instances is badly reported:
		// internal/watch, TestExhausted.
		{"02 an ignored folder triggers", ignoredFolder},
		{"03 the watcher ignores other files than the context", watchIgnore},
		{"04 negated ignore patterns", negation},
		{"05 include and exclude globs", globs},
		{"06 the same image is built several times", sharedStage},
		{"07 services that nobody asked for are rebuilt", unasked},
		{"08 a change of the configuration is not picked up", configuration},
		{"09 a second edit during a build is lost (restart)", func(t *testing.T) { secondEdit(t, config.OnBusyRestart) }},
		{"09 a second edit during a build is lost (queue)", func(t *testing.T) { secondEdit(t, config.OnBusyQueue) }},
		{"10 a change of a Dockerfile builds twice or everything", dockerfileOnce},
		// 11, polling takes 100 % of a CPU: cmd/zbuild, script e2e-watch-idle.
		{"12 changes are missed", missed},
		{"13 which file triggered", whichFile},
		{"14 a branch switch builds half a tree or many times", branchSwitch},
		{"15 saves that are several operations", debounce},
		{"16 a build that triggers itself", selfTriggered},
		{"17 symbolic links", symlinks},
		{"18 files in a directory that is new", newDirectories},
		{"19 file systems that do not tell", polled},
		{"20 memory for trees that nobody reads", ignoredTrees},
		{"images that were replaced pile up", replacedImages},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t)
		})
	}
}

// sentinel is a target beside those of a test. What builds when its file changes
// comes after whatever a change before it has started.
const sentinel = `
target "sentinel" {
  context           = "beside"
  dockerfile-inline = "FROM scratch\nCOPY sentinel /"
}
`

// complain makes a project of the sentinel and of some targets, each with a
// Dockerfile of its name in the context "src". more is what else zbuild.hcl has.
func complain(t *testing.T, more string, files map[string]string, targets ...string) *watched {
	t.Helper()
	hcl := more + sentinel + "group \"default\" { targets = [\"sentinel\""
	for _, n := range targets {
		hcl += fmt.Sprintf(", %q", n)
	}
	hcl += "] }\n"
	for _, n := range targets {
		hcl += fmt.Sprintf("target %q {\n  context = \"src\"\n  dockerfile = \"%s.Dockerfile\"\n  tags = [\"localhost/%s\"]\n}\n", n, n, n)
	}
	all := map[string]string{"zbuild.hcl": hcl, "beside/sentinel": "0"}
	for name, text := range files {
		all["src/"+name] = text
	}
	return newWatched(t, all)
}

// save replaces a file by one rename, so that there is one change to notice.
func (w *watched) save(name, text string) {
	w.Helper()
	w.check(os.MkdirAll(filepath.Dir(w.path(name)), 0o755))
	tmp := filepath.Join(filepath.Dir(w.dir), "new")
	w.check(os.WriteFile(tmp, []byte(text), 0o644))
	w.check(os.Rename(tmp, w.path(name)))
}

// builds makes a change of which one build comes, of some targets.
func (w *watched) builds(change func(), targets ...string) session.Finished {
	w.Helper()
	f := w.does(change)
	if !slices.Equal(f.Started.Affected, targets) {
		w.Errorf("%q were built because of %q, want %q", f.Started.Affected, f.Started.Changed, targets)
	}
	return f
}

// ignores makes a change of which nothing comes.
func (w *watched) ignores(change func()) {
	w.Helper()
	f := w.builds(func() {
		change()
		w.save("beside/sentinel", time.Now().String())
	}, "sentinel")
	if !slices.Equal(f.Started.Changed, []string{"beside/sentinel"}) {
		w.Errorf("changed: %q", f.Started.Changed)
	}
}

// takesAlong makes a change of the target "a" that is no reason for a build; the context
// has it, and the next build takes it along, as a bake would.
func (w *watched) takesAlong(change func()) {
	w.Helper()
	w.forget()
	change()
	time.Sleep(5 * w.opt.Quiet) // what comes of it would come now, or with the next
	w.save("beside/sentinel", time.Now().String())
	w.until("a build", func() bool { return w.rests > 0 })
	w.quiet()
	for i, f := range w.finished() {
		if i > 0 || !slices.Equal(f.Started.Changed, []string{"beside/sentinel"}) || !slices.Equal(f.Started.Affected, []string{"a", "sentinel"}) {
			w.Errorf("built %q because of %q", f.Started.Affected, f.Started.Changed)
		}
	}
}

// has compares a file of an image; "" means that there is none.
func (w *watched) has(image, file, text string) {
	w.Helper()
	got, ok := images(w.T, w.store, []string{image})[image][file]
	if _, content, _ := strings.Cut(got, " "); ok != (text != "") || content != text {
		w.Errorf("%s of %s is %q, want %q", file, image, got, text)
	}
}

func ignoredFolder(t *testing.T) {
	w := complain(t, `watch { ignore = ["src/tmp"] }`, map[string]string{
		"a.Dockerfile": "FROM scratch\nCOPY . /\n", ".dockerignore": "**/node_modules\n*.Dockerfile\n",
		"node_modules/x/y": "0", "f": "0", ".git/HEAD": "ref: refs/heads/main\n",
	}, "a").start()
	w.ignores(func() {
		w.write("src/node_modules/x/y", "1")
		w.write("src/node_modules/z/new", "1")
		w.write("src/deep/node_modules/new", "1")
		w.check(os.RemoveAll(w.path("src/deep"))) // an empty directory would count
	})
	// These are part of the image, and no reason for one.
	w.takesAlong(func() {
		w.write("src/.git/objects/ab/cd", "1")
		w.write("src/tmp/x", "1")
		w.write("src/.f.swp", "1")
	})
	w.has("a", "/tmp/x", "1")
}

func watchIgnore(t *testing.T) {
	w := complain(t, `watch { ignore = ["**/*.log"] }`, map[string]string{
		"a.Dockerfile": "FROM scratch\nCOPY d /\n", "d/f": "0", "d/x.log": "0",
	}, "a").start()
	w.takesAlong(func() { w.save("src/d/x.log", "1") })
	w.has("a", "/x.log", "1")
}

func negation(t *testing.T) {
	w := complain(t, "", map[string]string{
		"a.Dockerfile": "FROM scratch\nCOPY . /\n", ".dockerignore": "*\n!keep\nkeep/*.log\n!keep/one.log\n",
		"keep/f": "0", "keep/one.log": "0", "keep/two.log": "0", "other/f": "0",
	}, "a").start()
	w.ignores(func() { w.save("src/other/f", "1"); w.save("src/keep/two.log", "1"); w.save("src/new", "1") })
	w.builds(func() { w.save("src/keep/f", "1") }, "a")
	w.builds(func() { w.save("src/keep/one.log", "1") }, "a")
	w.has("a", "/keep/one.log", "1")
	// The rules change, and with them what is watched.
	w.builds(func() { w.save("src/.dockerignore", "*\n!other\n") }, "a")
	w.ignores(func() { w.save("src/keep/f", "2") })
	w.builds(func() { w.save("src/other/f", "2") }, "a")
	w.has("a", "/other/f", "2")
	w.has("a", "/keep/f", "")
	// An ignore file of one Dockerfile that comes to be stands for the other.
	w.builds(func() { w.save("src/a.Dockerfile.dockerignore", "*\n!keep/f\n") }, "a")
	w.ignores(func() { w.save("src/other/f", "3") })
	w.builds(func() { w.save("src/keep/f", "3") }, "a")
}

func globs(t *testing.T) {
	w := complain(t, "", map[string]string{
		"a.Dockerfile": "FROM scratch\nCOPY d/*.txt /\n", "b.Dockerfile": "FROM scratch\nCOPY --exclude=*.txt d /\n",
		"d/x.txt": "0", "d/x.go": "0", "d/e/y.txt": "0",
	}, "a", "b").start()
	w.builds(func() { w.save("src/d/x.txt", "1") }, "a")
	w.builds(func() { w.save("src/d/x.go", "1") }, "b")
	w.builds(func() { w.save("src/d/new.txt", "1") }, "a") // the wildcard's next match
	w.has("a", "/new.txt", "1")
	w.builds(func() { w.check(os.Remove(w.path("src/d/new.txt"))) }, "a")
	w.ignores(func() { w.save("src/elsewhere.txt", "1") })
}

func sharedStage(t *testing.T) {
	text := "FROM scratch AS base\nCOPY shared /\nFROM base\nCOPY "
	w := complain(t, "", map[string]string{
		"a.Dockerfile": text + "a /\n", "b.Dockerfile": text + "b /\n", "shared": "0", "a": "0", "b": "0",
	}, "a", "b").start()
	f := w.builds(func() { w.save("src/shared", "1") }, "a", "b")
	// Three steps: the shared one once, then one for each.
	if f.Generation.Result.Ran != 3 {
		t.Errorf("%d steps ran: %q", f.Generation.Result.Ran, w.ran)
	}
	if f := w.builds(func() { w.save("src/a", "1") }, "a"); f.Generation.Result.Ran != 1 {
		t.Errorf("%d steps ran: %q", f.Generation.Result.Ran, w.ran)
	}
}

func unasked(t *testing.T) {
	w := complain(t, `target "never" { dockerfile-inline = "FROM scratch\nCOPY src/a /" }`, map[string]string{
		"a.Dockerfile": "FROM scratch\nCOPY a /\n", "b.Dockerfile": "FROM scratch\nCOPY b /\n", "a": "0", "b": "0", "c": "0",
	}, "a", "b").start()
	f := w.builds(func() { w.save("src/a", "1") }, "a")
	if !slices.Equal(f.Started.Unaffected, []string{"b", "sentinel"}) {
		t.Errorf("unaffected: %q", f.Started.Unaffected)
	}
	w.ignores(func() { w.save("src/c", "1") })
}

func configuration(t *testing.T) {
	w := complain(t, "variable \"V\" { default = \"x\" }\n", map[string]string{
		"a.Dockerfile": "FROM scratch\nCOPY f /\n", "b.Dockerfile": "FROM scratch\nCOPY g /\n", "f": "0", "g": "0",
	}, "a", "b")
	w.start()
	hcl := readFile(t, w.path("zbuild.hcl"))
	w.builds(func() { w.save("zbuild.hcl", hcl+"target \"a\" { labels = { v = V } }\n") }, "a")
	// A file that overrides another comes to be.
	w.builds(func() { w.save("zbuild.override.hcl", "variable \"V\" { default = \"y\" }\n") }, "a")
	w.builds(func() { w.save("src/b.Dockerfile", "FROM scratch\nCOPY f /\n") }, "b")
	// What is watched has followed.
	w.ignores(func() { w.save("src/g", "1") })
	w.builds(func() { w.save("src/f", "1") }, "a", "b")
	// While a file is broken, the last good plan is watched.
	w.forget()
	w.save("zbuild.hcl", hcl+"target {")
	w.until("broken", func() bool {
		return slices.ContainsFunc(w.notices, func(n session.Notice) bool { _, ok := n.(session.Broken); return ok })
	})
	w.rest(1)
	w.builds(func() { w.save("src/f", "2") }, "a", "b")
	w.builds(func() { w.save("zbuild.hcl", hcl) }, "a") // without its label
}

func secondEdit(t *testing.T, how config.OnBusy) {
	w := complain(t, "", map[string]string{"a.Dockerfile": "FROM scratch\nCOPY f /\n", "f": "0"}, "a")
	// The edit comes when it is known what is built, and nothing of it is done yet.
	var edits atomic.Int32
	w.opt.OnBusy = how
	w.opt.Observe = func(n session.Notice) {
		w.observe(n)
		if s, ok := n.(session.Started); ok && !s.First && edits.Load() < 3 {
			w.save("src/f", fmt.Sprintf("edit %d", edits.Add(1)))
			time.Sleep(2 * w.opt.Quiet)
		}
	}
	w.start()
	w.forget()
	w.save("src/f", "the first")
	w.until("three edits", func() bool { return edits.Load() == 3 })
	w.quiet()
	w.has("a", "/f", "edit 3")
	if all := w.finished(); how == config.OnBusyQueue && len(all) != 4 {
		t.Errorf("%d builds came to their end, want one for each edit", len(all))
	}
}

func dockerfileOnce(t *testing.T) {
	w := complain(t, "", map[string]string{
		"a.Dockerfile": "FROM scratch\nCOPY . /\n", "b.Dockerfile": "FROM scratch\nCOPY f /\n", "f": "0", ".dockerignore": "b.Dockerfile\n",
	}, "a", "b").start()
	// It is part of the context, too.
	w.builds(func() { w.save("src/a.Dockerfile", "FROM scratch\nCOPY . /\nLABEL x=y\n") }, "a")
	w.builds(func() { w.save("src/b.Dockerfile", "FROM scratch\nCOPY f /g\n") }, "b")
	// A comment makes no image; where it is a file of one, it does.
	w.builds(func() {
		w.save("src/b.Dockerfile", "# why\nFROM scratch\nCOPY f /g\n")
		w.save("beside/sentinel", "1")
	}, "sentinel")
	w.doesNothing(func() { now := time.Now(); w.check(os.Chtimes(w.path("src/a.Dockerfile"), now, now)) })
}

func missed(t *testing.T) {
	w := complain(t, "", map[string]string{"a.Dockerfile": "FROM scratch\nCOPY d /\n", "d/f": "0"}, "a").start()
	for i := range 5 {
		text := fmt.Sprint("edit ", i) // of the same length each time
		w.builds(func() { w.save("src/d/f", text) }, "a")
		w.has("a", "/f", text)
	}
	// The whole directory goes, and comes back as another one.
	w.check(os.Rename(w.path("src/d"), w.path("old")))
	w.until("a failure", func() bool {
		return slices.ContainsFunc(w.notices, func(n session.Notice) bool { r, ok := n.(session.Waiting); return ok && len(r.Failed) > 0 })
	})
	w.write("new/f", "again")
	w.builds(func() { w.check(os.Rename(w.path("new"), w.path("src/d"))) }, "a")
	w.has("a", "/f", "again")
	w.builds(func() { w.save("src/d/f", "and again") }, "a")
	w.has("a", "/f", "and again")
}

func whichFile(t *testing.T) {
	w := complain(t, "", map[string]string{
		"a.Dockerfile": "FROM scratch\nCOPY d/a /\n", "b.Dockerfile": "FROM scratch\nCOPY d/b /\n", "d/a": "0", "d/b": "0", "d/c": "0",
	}, "a", "b")
	w.opt.Quiet = time.Second // all three are one change
	w.start()
	f := w.builds(func() { w.save("src/d/a", "1"); w.save("src/d/b", "1"); w.save("src/d/c", "1") }, "a", "b")
	if !slices.Equal(f.Started.Changed, []string{"src/d/a", "src/d/b"}) {
		t.Errorf("changed: %q", f.Started.Changed)
	}
	if c := f.Started.Concerns; !slices.Equal(c["a"], []string{"src/d/a"}) || !slices.Equal(c["b"], []string{"src/d/b"}) {
		t.Errorf("concerns: %q", c)
	}
}
