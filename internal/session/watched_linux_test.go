package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	libbuildah "go.podman.io/buildah"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/unshare"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/session"
	"github.com/zbuild/zbuild/runner/buildah"
)

var (
	sequences = flag.Int("sequences", fewSequences, "how many sequences the model test tries")
	seed      = flag.Uint64("seed", 0, "the first sequence's seed; 0 is by chance, or 1 for the short form")
)

// fewSequences is the short form of the model test.
const fewSequences = 3

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
	request    func(*config.Request) // changes it; nil to leave it
	commands   chan session.Command
	marks      int // how often the marker was touched
	cancel     context.CancelFunc
	done       chan error

	mu      sync.Mutex
	changed sync.Cond
	notices []session.Notice
	ran     []string // steps that did work since the last reset
	rests   int
	running int // generations that have begun and not ended
	// marked says that there has been a generation because of the marker, still that
	// nothing was to be done after it.
	marked, still bool
}

// marker is a file of variables that has none: to look at it again, and all that was
// changed before it, is a generation that builds nothing.
func (w *watched) marker() string { return filepath.Join(filepath.Dir(w.dir), "marker.hcl") }

// opening is held while a store is opened: the library keeps in a variable what it finds
// out about where the last one lies.
var opening sync.Mutex

func openAt(root string) func(context.Context) (session.Engine, error) {
	return func(ctx context.Context) (session.Engine, error) {
		opening.Lock()
		defer opening.Unlock()
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
	w.check(os.WriteFile(w.marker(), nil, 0o644))
	w.opt = session.WatchOptions{Prune: true, Quiet: 60 * time.Millisecond, Commands: w.commands, Observe: w.observe}
	return w
}

func (w *watched) start() *watched {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	w.cancel, w.done = cancel, make(chan error, 1)
	load := request(w.dir)
	if w.request != nil {
		w.request(&load)
	}
	load.VarFiles = append(load.VarFiles, w.marker())
	go func() {
		s := session.New(session.Options{Load: load, OpenEngine: openAt(w.store), Sink: w})
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
	switch is := n.(type) {
	case session.Started:
		if w.running++; w.running > 1 {
			w.Error("two generations at once")
		}
		w.still = false
		w.mark(&is.Changed, is.Concerns)
		n = is
	case session.Finished:
		w.running--
		if w.mark(&is.Started.Changed, is.Started.Concerns) && !is.Canceled {
			w.marked = true
		}
		n = is
	case session.Unchanged:
		w.still, w.marked = false, w.mark(&is.Started.Changed, is.Started.Concerns) || w.marked
		n = is
	case session.Broken:
		w.still, w.marked = false, w.mark(&is.Changed, nil) || w.marked
		n = is
	case session.Waiting:
		w.rests++
		w.still = true
	}
	w.notices = append(w.notices, n)
	w.changed.Broadcast()
}

// mark takes the marker out of what has changed. It reports whether it was there.
func (w *watched) mark(changed *[]string, concerns map[string][]string) bool {
	is := func(p string) bool { return p == filepath.ToSlash(w.marker()) }
	for t, c := range concerns {
		concerns[t] = slices.DeleteFunc(slices.Clone(c), is)
	}
	all := len(*changed)
	*changed = slices.DeleteFunc(slices.Clone(*changed), is)
	return len(*changed) < all
}

// until waits until the notices satisfy a condition.
func (w *watched) until(what string, ok func() bool) {
	w.Helper()
	if !w.within(patience, ok) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.Fatalf("%s never happened; there was %+v", what, w.notices)
	}
}

// patience is how long something that has to happen may take, on the busiest machine.
const patience = 3 * time.Minute

// within waits until the notices satisfy a condition, but not longer than for a while.
func (w *watched) within(most time.Duration, ok func() bool) bool {
	timer := time.AfterFunc(most, func() {
		w.mu.Lock() // or it may come between a look at the clock and the wait
		defer w.mu.Unlock()
		w.changed.Broadcast()
	})
	defer timer.Stop()
	deadline := time.Now().Add(most)
	w.mu.Lock()
	defer w.mu.Unlock()
	for !ok() {
		if !time.Now().Before(deadline) {
			return false
		}
		w.changed.Wait()
	}
	return true
}

func (w *watched) rest(n int) {
	w.Helper()
	w.until(fmt.Sprintf("rest %d", n), func() bool { return w.rests >= n })
}

// quiet waits until all that was done has had its generations, and what these have
// written themselves, too: a file is touched that is watched. What was done before is
// told before it or with it.
func (w *watched) quiet() {
	w.Helper()
	for range 2 {
		w.touch()
	}
}

func (w *watched) touch() {
	w.Helper()
	w.mu.Lock()
	w.marked = false
	w.mu.Unlock()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		w.marks++
		at := time.Unix(int64(w.marks), 0)
		w.check(os.Chtimes(w.marker(), at, at))
		// A generation that runs already takes no notice of it.
		if w.within(10*time.Second, func() bool { return w.marked && w.still && w.running == 0 }) {
			return
		}
	}
	w.Fatalf("it never came to rest; there was %+v", w.notices)
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

// does makes a change and waits for the one build that comes of it, and gives that. If
// the change was on its way for so long that it may have seemed to be over in between,
// there may be more builds, which are given as one.
func (w *watched) does(change func()) session.Finished {
	w.Helper()
	took := w.timed(change)
	w.until("a build", func() bool { return w.rests > 0 })
	w.quiet()
	all := w.finished()
	if len(all) == 0 || len(all) > 1 && took < w.opt.Quiet {
		w.Fatalf("%d builds of a change that took %v, want one: %+v", len(all), took, w.notices)
	}
	last := all[len(all)-1]
	s := &last.Started
	for _, f := range all[:len(all)-1] {
		s.Affected = both(s.Affected, f.Started.Affected)
		s.Changed = both(s.Changed, f.Started.Changed)
		for t, c := range f.Started.Concerns {
			s.Concerns[t] = both(s.Concerns[t], c)
		}
	}
	return last
}

// both is what is in either of two lists, sorted.
func both(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// once makes a change of which one build comes, however long it is on its way.
func (w *watched) once(change func()) {
	w.Helper()
	took := w.timed(change)
	w.quiet()
	if all := w.finished(); len(all) != 1 {
		w.Fatalf("%d builds of a change that took %v, want one: %+v", len(all), took, w.notices)
	}
}

// doesNothing makes a change of which no build comes, unless it was on its way for so
// long that a part of it may have seemed to be all.
func (w *watched) doesNothing(change func()) {
	w.Helper()
	took := w.timed(change)
	w.quiet()
	if all := w.finished(); len(all) != 0 && took < w.opt.Quiet {
		w.Errorf("built %q because of %q", all[0].Started.Affected, all[0].Started.Changed)
	}
}

func (w *watched) timed(change func()) time.Duration {
	w.forget()
	begun := time.Now()
	change()
	return time.Since(begun)
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

func (w *watched) read(name string) string {
	w.Helper()
	raw, err := os.ReadFile(w.path(name))
	w.check(err)
	return string(raw)
}

// openStore opens the store that a project is built in.
func openStore(t *testing.T, root string) storage.Store {
	t.Helper()
	opening.Lock()
	defer opening.Unlock()
	store, err := storage.GetStore(storage.StoreOptions{
		GraphRoot: filepath.Join(root, "root"), RunRoot: filepath.Join(root, "run"), GraphDriverName: "overlay",
		GraphDriverOptions: []string{"overlay.skip_mount_home=true"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// images gives the trees of named images of a store, by path: mode and content; and
// as "config" how they are to be run.
func images(t *testing.T, root string, names []string) map[string]map[string]string {
	t.Helper()
	store := openStore(t, root)
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
		out[name]["config"] = runConfig(t, store, img.ID)
		if _, err := store.UnmountImage(img.ID, true); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// runConfig is what an image's configuration says of how to run it.
func runConfig(t *testing.T, store storage.Store, id string) string {
	t.Helper()
	raw, err := store.ImageBigData(id, "sha256:"+id)
	if err != nil {
		t.Fatal(err)
	}
	var c struct{ Config json.RawMessage }
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	return string(c.Config)
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
