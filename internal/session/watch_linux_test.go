package session_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	libbuildah "go.podman.io/buildah"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/unshare"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/runner/buildah"
)

var (
	sequences = flag.Int("sequences", 3, "how many sequences the model test tries")
	seed      = flag.Uint64("seed", 0, "the first sequence's seed; 0 is by chance")
)

func TestMain(m *testing.M) {
	if libbuildah.InitReexec() {
		return
	}
	flag.Parse()
	unshare.MaybeReexecUsingUserNamespace(false)
	os.Exit(m.Run())
}

// watched is a project that is being watched, with a store of its own.
type watched struct {
	*testing.T
	dir, store string
	opt        session.WatchOptions
	commands   chan session.Command
	cancel     context.CancelFunc
	done       chan error

	mu      sync.Mutex
	changed sync.Cond
	notices []session.Notice
	ran     []string // steps that did work since the last reset
	rests   int
	running int // generations that have begun and not ended
}

func openAt(root string) func(context.Context) (session.Engine, error) {
	return func(ctx context.Context) (session.Engine, error) {
		return buildah.Open(ctx, buildah.Options{
			Root: filepath.Join(root, "root"), RunRoot: filepath.Join(root, "run"), Driver: "overlay",
			DriverOptions: []string{"overlay.skip_mount_home=true"},
		})
	}
}

func request(dir string) config.Request {
	return config.Request{Dir: dir, LocalPlatform: "linux/amd64", Allow: []string{"fs=*"}}
}

// newWatched makes a project of files; start watches it.
func newWatched(t *testing.T, files map[string]string) *watched {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{T: t, dir: filepath.Join(dir, "project"), store: filepath.Join(dir, "store"), commands: make(chan session.Command)}
	w.changed.L = &w.mu
	for name, text := range files {
		w.write(name, text)
	}
	w.opt = session.WatchOptions{Quiet: 60 * time.Millisecond, Commands: w.commands, Observe: w.observe}
	return w
}

func (w *watched) start() *watched {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	w.cancel, w.done = cancel, make(chan error, 1)
	go func() {
		s := session.New(session.Options{Load: request(w.dir), OpenEngine: openAt(w.store), Sink: w})
		err := s.Watch(ctx, w.opt)
		w.done <- errors.Join(err, s.Close())
	}()
	w.Cleanup(w.stop)
	w.rest(1)
	return w
}

func (w *watched) stop() {
	w.cancel()
	if err := <-w.done; err != nil && !errors.Is(err, context.Canceled) {
		w.Error(err)
	}
	w.done <- nil
}

// Emit is event.Sink.
func (w *watched) Emit(e event.Event) {
	if d, ok := e.(event.StepDone); ok && !d.Cached && d.Err == nil && !d.Canceled {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ran = append(w.ran, d.Step.Name)
	}
}

func (w *watched) observe(n session.Notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notices = append(w.notices, n)
	switch n.(type) {
	case session.Started:
		if w.running++; w.running > 1 {
			w.Error("two generations at once")
		}
	case session.Finished:
		w.running--
	case session.Waiting:
		w.rests++
	}
	w.changed.Broadcast()
}

// until waits until the notices satisfy a condition.
func (w *watched) until(what string, ok func() bool) {
	w.Helper()
	timer := time.AfterFunc(time.Minute, w.changed.Broadcast)
	defer timer.Stop()
	deadline := time.Now().Add(time.Minute)
	w.mu.Lock()
	defer w.mu.Unlock()
	for !ok() {
		if time.Now().After(deadline) {
			w.Fatalf("%s never happened; there was %+v", what, w.notices)
		}
		w.changed.Wait()
	}
}

func (w *watched) rest(n int) {
	w.Helper()
	w.until(fmt.Sprintf("rest %d", n), func() bool { return w.rests >= n })
}

// quiet waits until nothing has been going on for a while.
func (w *watched) quiet() {
	for {
		w.mu.Lock()
		n, running := len(w.notices), w.running
		w.mu.Unlock()
		time.Sleep(400 * time.Millisecond)
		w.mu.Lock()
		same := n == len(w.notices) && running == 0 && w.running == 0
		w.mu.Unlock()
		if same {
			return
		}
	}
}

// forget begins a new list of notices and steps.
func (w *watched) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notices, w.ran, w.rests = nil, nil, 0
}

func (w *watched) finished() []session.Finished {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []session.Finished
	for _, n := range w.notices {
		if f, ok := n.(session.Finished); ok && !f.Canceled {
			out = append(out, f)
		}
	}
	return out
}

// does makes a change and waits for the one build that comes of it.
func (w *watched) does(change func()) session.Finished {
	w.Helper()
	w.forget()
	change()
	w.until("a build", func() bool { return w.rests > 0 })
	w.quiet()
	all := w.finished()
	if len(all) != 1 {
		w.Fatalf("%d builds, want one: %+v", len(all), w.notices)
	}
	return all[0]
}

// doesNothing makes a change of which no build comes.
func (w *watched) doesNothing(change func()) {
	w.Helper()
	w.forget()
	change()
	w.quiet()
	if all := w.finished(); len(all) != 0 {
		w.Errorf("built %q because of %q", all[0].Started.Affected, all[0].Started.Changed)
	}
}

func (w *watched) path(name string) string { return filepath.Join(w.dir, filepath.FromSlash(name)) }

func (w *watched) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *watched) write(name, text string) {
	w.Helper()
	w.check(os.MkdirAll(filepath.Dir(w.path(name)), 0o755))
	w.check(os.WriteFile(w.path(name), []byte(text), 0o644))
}

// images gives the trees of named images of a store, by path: mode and content.
func images(t *testing.T, root string, names []string) map[string]map[string]string {
	t.Helper()
	store, err := storage.GetStore(storage.StoreOptions{
		GraphRoot: filepath.Join(root, "root"), RunRoot: filepath.Join(root, "run"), GraphDriverName: "overlay",
		GraphDriverOptions: []string{"overlay.skip_mount_home=true"},
	})
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]map[string]string)
	for _, name := range names {
		img, err := store.Image("localhost/" + name + ":latest")
		if err != nil {
			continue // what does not build has no image
		}
		dir, err := store.MountImage(img.ID, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		out[name] = tree(t, dir)
		if _, err := store.UnmountImage(img.ID, true); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(raw)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + target
		}
		out[strings.TrimPrefix(path, dir)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// bake builds the project as it is into a new store.
func bake(t *testing.T, dir, store string) *session.Generation {
	t.Helper()
	s := session.New(session.Options{Load: request(dir), OpenEngine: openAt(store)})
	g := s.Generate(t.Context(), session.Run)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestModel makes random changes to random projects. Whenever all is settled, the
// images are those of a fresh bake, and no more was built than had to be.
func TestModel(t *testing.T) {
	first := *seed
	if first == 0 {
		first = rand.Uint64N(1 << 32)
	}
	for i := range *sequences {
		n := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", n), func(t *testing.T) { model(t, n) })
	}
}

// modelTargets are what the model's project has: each takes something else.
var modelTargets = map[string]string{
	"all":  "FROM scratch\nCOPY . /\n",
	"dir":  "FROM scratch\nCOPY a /a\n",
	"glob": "FROM scratch\nCOPY b/*.txt /b/\n",
	"deep": "FROM scratch\nCOPY a/c /c\nCOPY root.tx[t] b /d/\n",
	"link": "FROM scratch\nCOPY link/ /l/\n",
}

func model(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	files := map[string]string{"root.txt": "0", "link/f": "0", ".dockerignore": "*.log\n**/skip\n!a/keep.log\nout\nzbuild.hcl\n*.Dockerfile\n"}
	var names []string
	for name, text := range modelTargets {
		names = append(names, name)
		files[name+".Dockerfile"] = text
	}
	slices.Sort(names)
	var hcl strings.Builder
	fmt.Fprintf(&hcl, "group \"default\" { targets = [%s] }\n", `"`+strings.Join(names, `", "`)+`"`)
	for _, n := range names {
		fmt.Fprintf(&hcl, "target %q {\n  dockerfile = \"%s.Dockerfile\"\n  tags = [\"localhost/%s\"]\n}\n", n, n, n)
	}
	files["zbuild.hcl"] = hcl.String()
	for _, d := range []string{"a", "a/c", "a/skip", "b", "out"} {
		for _, f := range []string{"x.txt", "y.txt", "z.log"} {
			files[d+"/"+f] = "0"
		}
	}
	w := newWatched(t, files).start()
	last := make(map[string]string)
	for step := range 4 {
		w.forget()
		var log []string
		for range 1 + r.IntN(6) {
			log = append(log, w.random(r))
			if r.IntN(4) == 0 {
				time.Sleep(time.Duration(r.IntN(120)) * time.Millisecond)
			}
		}
		w.quiet()
		fresh := filepath.Join(t.TempDir(), "fresh")
		g := bake(t, w.dir, fresh)
		if !g.OK() {
			// A target that does not build says nothing about the others: what is
			// named then are images of before.
			w.compareFailed(g)
			clear(last)
			continue
		}
		if d := cmp.Diff(images(t, fresh, names), images(t, w.store, names)); d != "" {
			t.Fatalf("step %d, after %q (-fresh +watched):\n%s\nnotices: %+v", step, log, d, w.notices)
		}
		w.exact(last, log)
	}
}

// compareFailed looks whether what fails has been said to fail.
func (w *watched) compareFailed(g *session.Generation) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range slices.Backward(w.notices) {
		if rest, ok := n.(session.Waiting); ok {
			if len(rest.Failed) == 0 && !rest.Broken {
				w.Fatalf("the bake fails (%v), and nothing is said to fail", g.Err)
			}
			return
		}
	}
}

// exact looks whether anything was built that did not have to be. images has the
// last image of every target; a build that leaves a target's image as it was did
// nothing that was needed, unless the build before it failed.
func (w *watched) exact(last map[string]string, log []string) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	steps := 0
	for _, n := range w.notices {
		f, ok := n.(session.Finished)
		if !ok || f.Generation.Result == nil {
			continue
		}
		for _, s := range f.Generation.Plan.Steps {
			if s.Local == nil {
				steps++
			}
		}
		if len(f.Started.Affected) == 0 {
			w.Errorf("built nothing, after %q", log)
		}
		for _, s := range f.Generation.Plan.Stages {
			if !slices.ContainsFunc(s.Targets, func(t string) bool { return slices.Contains(f.Started.Affected, t) }) {
				w.Errorf("a stage of %q was built for %q", s.Targets, f.Started.Affected)
			}
		}
		if !f.Generation.OK() || f.Canceled {
			clear(last) // what is built after a failure may be as it was before it
			continue
		}
		for _, t := range f.Generation.Result.Targets {
			if !slices.Contains(f.Started.Affected, t.Name) {
				w.Errorf("%s was built without being affected, after %q", t.Name, log)
			}
			if was := last[t.Name]; was == t.Image.Digest.String() && !f.Started.Rescan {
				w.Errorf("%s was built again for %q, and is what it was, after %q", t.Name, f.Started.Changed, log)
			}
			last[t.Name] = t.Image.Digest.String()
		}
	}
	if len(w.ran) > steps {
		w.Errorf("%d steps ran (%q), and the affected targets have %d, after %q", len(w.ran), w.ran, steps, log)
	}
}

// random makes one random change.
func (w *watched) random(r *rand.Rand) string {
	dirs := []string{"a", "a/c", "a/skip", "b", "out", "a/new", "b/deep/er"}
	names := []string{"x.txt", "y.txt", "z.log", "keep.log", "n.txt"}
	file := dirs[r.IntN(len(dirs))] + "/" + names[r.IntN(len(names))]
	dir := dirs[r.IntN(len(dirs))]
	// Whatever cannot be done, because something is not there, is not.
	switch op := r.IntN(11); op {
	case 0, 1, 2:
		w.write2(file, fmt.Sprint(r.IntN(3)))
		return "write " + file
	case 3:
		_ = os.Remove(w.path(file))
		return "remove " + file
	case 4:
		tmp := w.path("." + filepath.Base(file) + ".tmp~")
		if os.WriteFile(tmp, []byte(fmt.Sprint(r.IntN(3))), 0o644) == nil && os.Rename(tmp, w.path(file)) != nil {
			_ = os.Remove(tmp)
		}
		return "save " + file
	case 5:
		_ = os.Chmod(w.path(file), 0o600|fs.FileMode(r.IntN(2))*0o100)
		return "chmod " + file
	case 6:
		to := dirs[r.IntN(len(dirs))]
		_ = os.Rename(w.path(dir), w.path(to))
		return "rename " + dir + " to " + to
	case 7:
		_ = os.RemoveAll(w.path(dir))
		return "remove all of " + dir
	case 8:
		now := time.Now()
		_ = os.Chtimes(w.path(file), now, now)
		return "touch " + file
	case 9:
		_ = os.Remove(w.path("link"))
		_ = os.RemoveAll(w.path("link"))
		_ = os.Symlink(dir, w.path("link"))
		return "link to " + dir
	default:
		w.write2(".dockerignore", fmt.Sprintf("*.log\n**/skip\n!a/keep.log\nout%d\nzbuild.hcl\n*.Dockerfile\n", r.IntN(2)))
		return "ignore"
	}
}

// write2 writes a file if that can be done.
func (w *watched) write2(name, text string) {
	if os.MkdirAll(filepath.Dir(w.path(name)), 0o755) == nil {
		_ = os.WriteFile(w.path(name), []byte(text), 0o644)
	}
}
