package session_test

// Complaints about the ways in which changes come: many at once, never quiet, through
// links, from zbuild itself, or from where the kernel tells of none.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zbuild/zbuild/internal/session"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// git runs git in the project, with nobody's settings.
func (w *watched) git(args ...string) {
	w.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = w.dir
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		cmd.Env = append(cmd.Env, "GIT_"+who+"_NAME=somebody", "GIT_"+who+"_EMAIL=somebody@example.com")
	}
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"), "HOME="+filepath.Dir(w.dir), "GIT_CONFIG_NOSYSTEM=1", "GIT_EDITOR=true")
	if out, err := cmd.CombinedOutput(); err != nil {
		w.Fatalf("git %q: %v\n%s", args, err, out)
	}
}

func branchSwitch(t *testing.T) {
	const n = 300
	w := complain(t, "", map[string]string{"a.Dockerfile": "FROM scratch\nCOPY d /\n", ".dockerignore": ".git\n"}, "a")
	w.opt.Quiet = 250 * time.Millisecond // git pauses
	fill := func(text string) {
		for i := range n {
			w.write(fmt.Sprintf("src/d/%d/f%d", i%20, i), text)
		}
	}
	fill("main")
	w.write("src/d/main", "")
	w.git("init", "-q", "-b", "main")
	w.git("add", ".")
	w.git("commit", "-q", "-m", "one")
	w.git("checkout", "-q", "-b", "other")
	fill("other")
	w.check(os.Remove(w.path("src/d/main")))
	w.write("src/d/new/deep/file", "other")
	w.git("add", "-A", ".")
	w.git("commit", "-q", "-m", "two")
	w.git("checkout", "-q", "main")
	w.start()
	w.builds(func() { w.git("checkout", "-q", "other") }, "a")
	w.has("a", "/19/f299", "other")
	w.has("a", "/new/deep/file", "other")
	// There and back is nothing.
	w.doesNothing(func() { w.git("checkout", "-q", "main"); w.git("checkout", "-q", "other") })
	// Under a lock nothing settles, however long it takes.
	w.once(func() {
		w.write(".git/index.lock", "")
		for i := range 4 {
			w.save(fmt.Sprintf("src/d/half%d", i), "1")
			time.Sleep(w.opt.Quiet * 3 / 2)
		}
		w.check(os.Remove(w.path(".git/index.lock")))
	})
	w.has("a", "/half3", "1")
	w.builds(func() { w.git("stash", "-q", "-u") }, "a")
	w.has("a", "/half0", "")
	w.builds(func() { w.git("stash", "pop", "-q") }, "a")
	w.has("a", "/half3", "1")
	w.builds(func() { w.git("clean", "-q", "-f", "-d") }, "a")
	// A rebase of several commits.
	for i := range 3 {
		w.save(fmt.Sprintf("src/e/f%d", i), "1") // which no target takes
		w.git("add", ".")
		w.git("commit", "-q", "-m", fmt.Sprint("commit ", i))
	}
	w.git("branch", "-q", "base", "main")
	w.quiet()
	const slowdown = 8 // while git goes through several states
	if took := w.timed(func() { w.git("rebase", "-q", "--onto", "main", "HEAD~3") }); took < slowdown*w.opt.Quiet {
		w.quiet()
		if n := len(w.finished()); n != 1 {
			t.Errorf("%d builds of a rebase", n)
		}
	}
	w.quiet()
	w.has("a", "/19/f299", "main")
}

func debounce(t *testing.T) {
	w := complain(t, "", map[string]string{"a.Dockerfile": "FROM scratch\nCOPY d /\n", "d/f": "0", "d/g": "0"}, "a")
	w.opt.Quiet = 500 * time.Millisecond
	w.start()
	w.builds(func() { // delete and create
		w.check(os.Remove(w.path("src/d/f")))
		w.write("src/d/f", "1")
	}, "a")
	w.has("a", "/f", "1")
	w.builds(func() { // Vim's way, and its test file
		w.write("src/d/4913", "")
		w.check(os.Remove(w.path("src/d/4913")))
		w.check(os.Rename(w.path("src/d/f"), w.path("src/d/f~")))
		w.write("src/d/f", "2")
		w.check(os.Remove(w.path("src/d/f~")))
	}, "a")
	w.has("a", "/f", "2")
	w.builds(func() { // "save all"
		for i := range 20 {
			w.save(fmt.Sprintf("src/d/s%d", i), "1")
			time.Sleep(20 * time.Millisecond)
		}
	}, "a")
	w.doesNothing(func() { // a change that is taken back
		w.save("src/d/f", "3")
		w.save("src/d/f", "2")
	})
	// What never becomes quiet is built at the ceiling.
	w.forget()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				w.save("src/d/g", fmt.Sprint(i))
			}
		}
	}()
	w.until("a build without quiet", func() bool {
		return slices.ContainsFunc(w.notices, func(n session.Notice) bool { _, ok := n.(session.Started); return ok })
	})
	close(stop)
	<-done
	w.quiet()
}

func selfTriggered(t *testing.T) {
	w := complain(t, "target \"out\" {\n  dockerfile-inline = \"FROM scratch\\nCOPY . /\"\n  output = [\"type=local,dest=out\"]\n}\n",
		map[string]string{"a.Dockerfile": "FROM scratch\nCOPY f /\n", "f": "0"}, "a")
	w.write("zbuild.override.hcl", "group \"default\" { targets = [\"a\", \"out\"] }\n")
	w.write(".dockerignore", "store\n")
	w.store = w.path("store") // all of it is in the context
	w.start()
	// A build that starts itself again does so at once, or with whatever comes next.
	only := func(when string, affected ...string) {
		t.Helper()
		time.Sleep(10 * w.opt.Quiet)
		if all := w.finished(); len(all) != 1 || !slices.Equal(all[0].Started.Affected, affected) {
			t.Errorf("%d builds %s: %+v", len(all), when, w.notices)
		}
	}
	only("at the start", "a", "out")
	w.forget()
	w.save("src/f", "1")
	w.until("a build", func() bool { return w.rests > 0 })
	only("after a change", "a", "out")
	if got := readFile(t, w.path("out/src/f")); got != "1" {
		t.Errorf("out/src/f is %q", got)
	}
}

func symlinks(t *testing.T) {
	w := complain(t, "target \"l\" {\n  context = \"linked\"\n  tags = [\"localhost/l\"]\n  contexts = { far = \"../far\" }\n}\n", map[string]string{
		"a.Dockerfile": "FROM scratch\nCOPY link/ /\n", "real/f": "0", "other/f": "other",
	}, "a")
	w.write("zbuild.override.hcl", "group \"default\" { targets = [\"a\", \"l\", \"sentinel\"] }\n")
	w.check(os.Symlink("real", w.path("src/link")))
	// A context that is a link, whose Dockerfile is one, and one beside the project.
	w.write("../elsewhere/f", "0")
	w.write("../elsewhere/text", "FROM scratch\nCOPY f /\nCOPY --from=far g /\n")
	w.write("../distant/g", "0")
	w.check(os.Symlink("text", w.path("../elsewhere/Dockerfile")))
	w.check(os.Symlink("../elsewhere", w.path("linked")))
	w.check(os.Symlink("distant", w.path("../far")))
	w.start()
	w.builds(func() { w.save("src/real/f", "1") }, "a")
	w.has("a", "/f", "1")
	w.builds(func() {
		w.check(os.Symlink("other", w.path("src/new")))
		w.check(os.Rename(w.path("src/new"), w.path("src/link")))
	}, "a")
	w.has("a", "/f", "other")
	w.ignores(func() { w.save("src/real/f", "2") })
	w.builds(func() { w.save("src/other/f", "2") }, "a")
	w.builds(func() { w.save("../elsewhere/f", "1") }, "l")
	w.builds(func() { w.save("../distant/g", "1") }, "l")
	w.has("l", "/g", "1")
	w.builds(func() { w.save("../elsewhere/text", "FROM scratch\nCOPY f /h\nCOPY --from=far g /\n") }, "l")
	w.has("l", "/h", "1")
}

func newDirectories(t *testing.T) {
	w := complain(t, "", map[string]string{"a.Dockerfile": "FROM scratch\nCOPY d /\n", "d/f": "0"}, "a").start()
	for i := range 5 {
		dir := fmt.Sprintf("src/d/n%d/x/y/z", i)
		w.forget()
		for j := range 20 {
			w.write(fmt.Sprintf("%s/%d/f", dir, j), "1")
		}
		w.rest(1)
		w.quiet()
		tree := images(t, w.store, []string{"a"})["a"]
		for j := range 20 {
			if f := fmt.Sprintf("/n%d/x/y/z/%d/f", i, j); !strings.HasSuffix(tree[f], " 1") {
				t.Errorf("%s is %q", f, tree[f])
			}
		}
	}
}

func polled(t *testing.T) {
	w := complain(t, "", map[string]string{"a.Dockerfile": "FROM scratch\nCOPY d /\n", "d/f": "0"}, "a")
	w.opt.Poll = 20 * time.Millisecond
	w.start()
	w.builds(func() { w.save("src/d/f", "1") }, "a")
	w.has("a", "/f", "1")
	w.ignores(func() { w.save("src/other", "1") })
	w.builds(func() { w.check(os.Remove(w.path("src/d/f"))) }, "a")
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.notices {
		if rest, ok := n.(session.Waiting); ok && !rest.Polling {
			t.Error("it is not said that files are polled")
		}
	}
}

func ignoredTrees(t *testing.T) {
	w := complain(t, "", map[string]string{
		"a.Dockerfile": "FROM scratch\nCOPY . /\n", "b.Dockerfile": "FROM scratch\nCOPY one/f /\n",
		".dockerignore": "node_modules\n**/target\n", "one/f": "0",
	}, "a", "b")
	for i := range 200 {
		w.write(fmt.Sprintf("src/node_modules/m%d/lib/f", i), "0")
		w.write(fmt.Sprintf("src/one/target/m%d/f", i), "0")
		w.write(fmt.Sprintf("unread/m%d/f", i), "0")
	}
	w.start()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.notices {
		// The project's directories, and those above it.
		if rest, ok := n.(session.Waiting); ok && rest.Directories > 20 {
			t.Errorf("%d directories are watched", rest.Directories)
		}
	}
}

// replacedImages is not in the list of complaints: compose watch was told to remove
// what it replaces, and people expect it.
func replacedImages(t *testing.T) {
	w := complain(t, `
target "list" {
  context           = "src"
  dockerfile-inline = "FROM scratch\nCOPY d /\n"
  platforms         = ["linux/amd64", "linux/arm64"]
  tags              = ["localhost/list"]
}
`, map[string]string{"a.Dockerfile": "FROM scratch\nCOPY d /\n", "b.Dockerfile": "FROM scratch\nCOPY e /\n", "d/f": "0", "e": "0"}, "a", "b")
	w.write("zbuild.hcl", strings.Replace(w.read("zbuild.hcl"), `targets = [`, `targets = ["list", `, 1))
	w.start()
	store := openStore(t, w.store)
	count := func() (n int) {
		t.Helper()
		all, err := store.Images()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := count()
	w.builds(func() { w.save("src/d/f", "1") }, "a", "list")
	var used string
	if img, err := store.Image("localhost/a:latest"); err != nil {
		t.Fatal(err)
	} else if c, err := store.CreateContainer("", nil, img.ID, "", "", nil); err != nil {
		t.Fatal(err)
	} else {
		used = c.ID
	}
	for i := range 3 {
		w.builds(func() { w.save("src/d/f", strings.Repeat("2", i+1)) }, "a", "list")
	}
	if n := count(); n != before+1 {
		t.Errorf("%d images are left of %d and one that a container was made of", n, before)
	}
	if err := store.DeleteContainer(used); err != nil {
		t.Fatal(err)
	}
	w.builds(func() { w.save("src/e", "1") }, "b")
	if n := count(); n != before {
		t.Errorf("%d images are left of %d", n, before)
	}
}
