package watch

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// loop is the one goroutine that owns all state of a Watcher.
type loop struct {
	opt Options
	w   *Watcher
	set Set
	top string // the Set's, without links

	n       notifier
	polling bool
	dirs    map[string]*directory // that are watched, by their path without links
	// below leads from every directory above a watched one down to it.
	below map[string]map[string]struct{}
	// anchors are what was asked for, byPivot those that a path may move, and
	// byRoot the trees by where they really are.
	anchors []*anchor
	byPivot map[string][]*anchor
	byRoot  map[string][]*anchor
	// renames is above zero while directories may have got new names: what looks
	// like the directory that is watched may be watched under its old one.
	renames int

	seen    bool // there has been a Set before
	settler *settler
	ready   bool  // what there is has settled,
	batch   Batch // and this is it
	timer   *time.Timer
	armed   bool
	// confirming yields when it is known that nothing has come since things seemed to
	// have settled; nil unless that is being found out.
	confirming <-chan struct{}

	noise   noise
	concern bool        // the change that is being handled concerns somebody
	rest    *time.Timer // after which changes are listened to again,
	resting bool        // and they are not now
}

// directory is a directory that is watched.
type directory struct {
	info fs.FileInfo // of when it was registered
	// keep says that the last Set still wants it.
	keep bool
}

// anchor is one file or tree of the Set.
type anchor struct {
	path  string // as it was given
	tree  *Tree  // nil for a single path
	point bool   // a link at the end is not followed
	where whereabouts
}

// locate finds out where the anchor is.
func (a *anchor) locate() whereabouts {
	if a.point {
		return locatePoint(a.path)
	}
	return locate(a.path)
}

const renameWindow = 64

func newLoop(opt Options, w *Watcher) *loop {
	l := &loop{opt: opt, w: w, settler: newSettler(opt.Quiet, opt.Ceiling)}
	l.unwatch()
	l.timer, l.rest = time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	l.timer.Stop()
	l.rest.Stop()
	return l
}

func (l *loop) run() {
	defer close(l.w.done)
	defer l.timer.Stop()
	defer l.rest.Stop()
	l.open()
	defer func() { l.n.close() }()
	for {
		var out chan Batch // nobody takes what has not settled
		if l.ready {
			out = l.w.batches
		}
		events := l.n.events()
		if l.resting {
			events = nil
		}
		select {
		case <-l.w.quit:
			return
		case r := <-l.w.requests:
			if r.set != nil {
				l.replace(*r.set)
				l.seen = true
			}
			r.answer <- Stats{Directories: len(l.dirs), Polling: l.polling}
		case e, ok := <-events:
			if ok && !l.n.confirms(e) {
				l.hear(e)
			}
		case <-l.rest.C:
			l.resting = false
			l.noise.rested(time.Now())
		case <-l.n.lost():
			l.confirming = nil // that may be lost, too
			l.rescan()
		case <-l.timer.C:
			l.armed = false
			l.settle(false)
		case <-l.confirming:
			l.confirming = nil
			l.settle(true)
		case out <- l.batch:
			l.settler.clear()
			l.ready, l.batch = false, Batch{}
		}
		l.arm()
	}
}

// open chooses how to be told.
func (l *loop) open() {
	if l.opt.Poll > 0 {
		l.n, l.polling = newPoller(l.opt.Poll), true
		return
	}
	n, err := newSystem()
	if err != nil {
		reason, advice := advise(err, 1)
		if !exhausted(err) {
			reason, advice = fmt.Sprintf("the system does not tell of changes: %v", err), ""
		}
		l.degrade(reason, advice)
		return
	}
	l.n = n
}

// degrade polls from now on.
func (l *loop) degrade(reason, advice string) {
	if l.n != nil {
		l.n.close()
	}
	l.n, l.polling = newPoller(DefaultPoll), true
	l.opt.Degraded(Degradation{Reason: reason, Advice: advice, Poll: DefaultPoll})
	l.unwatch()
	if l.seen {
		l.lose() // what was told and has not been read
	}
}

// unwatch knows of no directory any more.
func (l *loop) unwatch() {
	l.dirs, l.below = make(map[string]*directory), make(map[string]map[string]struct{})
	l.confirming = nil // by whoever told of changes until now
}

// arm sets the timer if something waits to settle, and only then.
func (l *loop) arm() {
	if !l.settler.pending() || l.ready || l.armed || l.confirming != nil {
		return
	}
	l.timer.Reset(time.Until(l.settler.due(l.exists(l.set.Slow))))
	l.armed = true
}

// settle looks whether the changes have settled; confirmed says that all there was until
// now is known.
func (l *loop) settle(confirmed bool) {
	now := time.Now()
	if !l.settler.pending() {
		return
	}
	if l.exists(l.set.Locks) && l.settler.hold(now) {
		return
	}
	if now.Before(l.settler.due(l.exists(l.set.Slow))) {
		return
	}
	if !confirmed {
		l.confirming = l.n.confirm()
	}
	if l.confirming == nil {
		l.ready, l.batch = true, l.settler.batch(there)
	}
}

func (l *loop) exists(paths []string) bool { return slices.ContainsFunc(paths, there) }

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// note adds a change that matters; born says that the path appears by it.
func (l *loop) note(path string, born bool) {
	passive := l.set.Passive != nil && l.set.Passive(path)
	now := time.Now()
	l.concern = true
	l.settler.note(path, born, passive, now)
	l.unsettle(now)
}

// unsettle says that something came after what had settled.
func (l *loop) unsettle(now time.Time) {
	if l.ready {
		l.ready, l.batch = false, Batch{}
		l.settler.again(now)
	}
}

// replace takes a new Set. Directories that are watched already stay so without a
// gap.
func (l *loop) replace(set Set) {
	l.set = set
	l.anchors = l.anchors[:0]
	for _, f := range set.Files {
		l.anchors = append(l.anchors, &anchor{path: filepath.Clean(f)})
	}
	for _, p := range set.Points {
		l.anchors = append(l.anchors, &anchor{path: filepath.Clean(p), point: true})
	}
	l.settler.quiet, l.settler.ceiling = cmp.Or(set.Quiet, l.opt.Quiet), cmp.Or(set.Ceiling, l.opt.Ceiling)
	for i := range set.Trees {
		l.anchors = append(l.anchors, &anchor{path: filepath.Clean(set.Trees[i].Root), tree: &set.Trees[i]})
	}
	l.register()
}

// hear handles one change, and then listens to no others for a moment if they are
// noise. While something is to settle it listens: when nothing more comes it has.
func (l *loop) hear(e fsnotify.Event) {
	came := time.Now()
	l.concern = l.polling || l.settler.pending()
	l.event(e)
	if l.noise.heard(l.concern, came, time.Now()) {
		l.rest.Reset(restTime)
		l.resting = true
	}
}

// event handles one change.
func (l *loop) event(e fsnotify.Event) {
	if e.Name == "" {
		return
	}
	if l.renames > 0 {
		l.renames--
	}
	if !e.Has(fsnotify.Create|fsnotify.Remove|fsnotify.Rename) && len(l.byPivot[e.Name]) == 0 {
		l.match(e.Name, false, false) // a file is where it was
		return
	}
	polling := l.polling
	info, err := os.Lstat(e.Name)
	l.moveDirectory(e, info, err)
	l.moved(e, info, err)
	l.match(e.Name, e.Has(fsnotify.Create), false)
	if l.polling != polling {
		l.register()
	}
}

// moveDirectory handles the coming and going of a directory in a tree.
func (l *loop) moveDirectory(e fsnotify.Event, info fs.FileInfo, err error) {
	if !e.Has(fsnotify.Create | fsnotify.Remove | fsnotify.Rename) {
		return
	}
	dir := err == nil && info.IsDir()
	if l.dirs[e.Name] != nil && (e.Has(fsnotify.Remove|fsnotify.Rename) || !dir) {
		l.forget(e.Name)
		l.renames = renameWindow
		l.match(e.Name, false, true)
	}
	if !dir {
		return
	}
	if known := l.dirs[e.Name]; known != nil {
		if l.renames == 0 && os.SameFile(known.info, info) {
			return
		}
		l.forget(e.Name)
	}
	l.walk(e.Name, true)
}

// moved handles a change of what anchors depend on.
func (l *loop) moved(e fsnotify.Event, info fs.FileInfo, err error) {
	var move []*anchor
	for _, a := range l.byPivot[e.Name] {
		own := a.where.exists && a.where.real == e.Name
		switch {
		case err == nil && e.Op&^(fsnotify.Chmod|fsnotify.Write) == 0 && info.Mode()&fs.ModeSymlink == 0:
			if own {
				l.note(a.path, false)
			}
		case own && a.tree == nil && err == nil && (a.point || info.Mode().IsRegular()):
			l.note(a.path, false) // saved by a rename; it is where it was
		default:
			l.note(a.path, false)
			move = append(move, a)
		}
	}
	if len(move) == 0 {
		return
	}
	// A directory that went took its watches with it, even if there is another
	// one of that name by now.
	l.forget(e.Name)
	l.renames = renameWindow
	for _, a := range move {
		l.anchor(a)
	}
}

// trees calls fn for every tree that a real path lies in, with the path as the
// tree's owner knows it, until fn returns true.
func (l *loop) trees(real string, fn func(t *Tree, path string) bool) bool {
	for dir := real; ; dir = filepath.Dir(dir) {
		for _, a := range l.byRoot[dir] {
			path := a.path
			if real != dir {
				path = filepath.Join(a.path, real[len(dir):])
			}
			if fn(a.tree, path) {
				return true
			}
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}

// descend reports whether something at or below a directory may matter.
func (l *loop) descend(dir string) bool {
	return l.trees(dir, func(t *Tree, path string) bool { return t.Descend(path) })
}

// match notes a path if it matters; with below, also if something in it may have.
func (l *loop) match(real string, born, below bool) {
	l.trees(real, func(t *Tree, path string) bool {
		if t.Match(path) || below && t.Descend(path) {
			l.note(path, born)
		}
		return false
	})
}
