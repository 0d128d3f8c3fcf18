// Package watch turns the noise of the file system into batches of paths that
// have changed, once they have settled: an editor's save, a branch switch or the
// unpacking of an archive is one batch each.
//
// It is told what matters (Set) and tells what may have changed. It knows nothing
// of builds, reads no file's content, and runs no timer while nothing happens.
// Where the system cannot notify, it polls.
package watch

import (
	"errors"
	"sync"
	"time"
)

// Defaults of Options.
const (
	DefaultQuiet   = 50 * time.Millisecond
	DefaultCeiling = time.Second
	DefaultPoll    = time.Second
)

// Options say how to watch. The zero value means the defaults.
type Options struct {
	// Quiet is how long nothing must have happened for changes to have settled.
	Quiet time.Duration
	// Ceiling is how long a batch waits at most, if it never becomes quiet.
	Ceiling time.Duration
	// Poll is the pause between two looks at everything; 0 means to be notified by
	// the system and to poll only where that is not possible.
	Poll time.Duration
	// Degraded is told, from the loop, that polling took the place of
	// notification. It must not call the Watcher.
	Degraded func(Degradation)
}

// Set is what to watch. It is not written to once handed over.
type Set struct {
	// Top is the directory that the user works in. Between it and what is watched
	// every directory may be renamed or replaced, and is noticed.
	Top string
	// Files are single paths, existing or not; links are followed. Absolute.
	Files []string
	// Points are single paths, existing or not, of which a link at the end counts
	// itself. Absolute.
	Points []string
	// Trees are directories of which parts are watched.
	Trees []Tree
	// Quiet and Ceiling replace those of the Options if they are above zero.
	Quiet, Ceiling time.Duration
	// Passive reports that a change to a path is not to make a batch by itself. It
	// comes with the next one. Nil means that there are no such paths.
	Passive func(path string) bool
	// Locks are files that hold back batches for as long as they exist: whoever
	// made one is not done yet.
	Locks []string
	// Slow are paths during whose existence changes come in several spells: the
	// quiet period is longer then.
	Slow []string
}

// Tree is a directory to watch.
type Tree struct {
	// Root is an absolute path.
	Root string
	Filter
}

// Filter says what matters in a tree. Paths are absolute and begin with the
// tree's root as it was given, whatever links it is reached by.
type Filter interface {
	// Descend reports whether anything at or below a directory may matter.
	Descend(dir string) bool
	// Match reports whether a change to what has this very path matters.
	Match(path string) bool
}

// Batch is what may have changed, settled.
type Batch struct {
	// Paths are those that matter, each once, sorted. Of a directory everything
	// below it may have changed too.
	Paths []string
	// Fleeting are those of Paths that came and were gone again, as the temporary
	// files of editors do: most likely nothing is different because of them.
	Fleeting []string
	// Passive are the changed paths that would not have made a batch.
	Passive []string
	// Rescan says that anything may have changed, Paths or not: changes were lost.
	Rescan bool
	// First is when the first of the changes was noticed.
	First time.Time
}

// Merge adds another batch's changes.
func (b *Batch) Merge(o Batch) {
	b.Paths = union(b.Paths, o.Paths)
	b.Fleeting = union(b.Fleeting, o.Fleeting)
	b.Passive = union(b.Passive, o.Passive)
	b.Rescan = b.Rescan || o.Rescan
	if b.First.IsZero() || !o.First.IsZero() && o.First.Before(b.First) {
		b.First = o.First
	}
}

// Degradation says why files are polled.
type Degradation struct {
	// Reason is what was in the way.
	Reason string
	// Advice is what would help.
	Advice string
	// Poll is the pause between two looks.
	Poll time.Duration
}

// Stats say what is being watched.
type Stats struct {
	Directories int
	Polling     bool
}

// ErrClosed says that the Watcher is closed.
var ErrClosed = errors.New("the watcher is closed")

// Watcher watches a Set.
type Watcher struct {
	requests chan request
	batches  chan Batch
	quit     chan struct{}
	done     chan struct{}
	once     sync.Once
}

type request struct {
	set    *Set // nil only asks for Stats
	answer chan Stats
}

// New begins to watch; nothing, until Set is called. The caller must Close it.
func New(opt Options) *Watcher {
	if opt.Quiet <= 0 {
		opt.Quiet = DefaultQuiet
	}
	if opt.Ceiling <= 0 {
		opt.Ceiling = DefaultCeiling
	}
	opt.Ceiling = max(opt.Ceiling, opt.Quiet)
	if opt.Degraded == nil {
		opt.Degraded = func(Degradation) {}
	}
	w := &Watcher{
		requests: make(chan request), batches: make(chan Batch),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	l := newLoop(opt, w)
	go l.run()
	return w
}

// Set replaces what is watched. When it returns, no change that comes later is
// missed; what has changed before is not told.
func (w *Watcher) Set(set Set) (Stats, error) { return w.ask(request{set: &set}) }

// Stats says what is being watched now.
func (w *Watcher) Stats() (Stats, error) { return w.ask(request{}) }

func (w *Watcher) ask(r request) (Stats, error) {
	r.answer = make(chan Stats, 1)
	select {
	case w.requests <- r:
	case <-w.done:
		return Stats{}, ErrClosed
	}
	select {
	case s := <-r.answer:
		return s, nil
	case <-w.done:
		return Stats{}, ErrClosed
	}
}

// Batches yields what has changed. A batch that nobody takes grows, and settles
// again. The channel is never closed.
func (w *Watcher) Batches() <-chan Batch { return w.batches }

// Close ends watching and returns when nothing of it runs any more.
func (w *Watcher) Close() {
	w.once.Do(func() { close(w.quit) })
	<-w.done
}
