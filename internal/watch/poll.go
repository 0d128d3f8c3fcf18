package watch

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// busyShare bounds what polling costs: after a look that took long, the pause is
// at least this many times as long.
const busyShare = 9

// poller looks at directories again and again.
type poller struct {
	pause time.Duration
	out   chan fsnotify.Event
	gaps  chan struct{}
	quit  chan struct{}
	wg    sync.WaitGroup

	wake chan struct{} // somebody wants a look now

	mu    sync.Mutex
	dirs  map[string]*polled
	asked []chan struct{} // to be closed after the next look that begins
}

// polled is a directory that was added, with what it held when it was looked at
// last. One that is removed and added again is another one: a look that began
// before must not take what it saw for news.
type polled struct{ listing }

// listing is what a directory holds. Its own name is "".
type listing map[string]stamp

// stamp is what changes when a file does.
type stamp struct {
	mode  fs.FileMode
	size  int64
	mtime time.Time
	ctime int64
	id    fileID
}

func newPoller(pause time.Duration) *poller {
	p := &poller{
		pause: pause, out: make(chan fsnotify.Event), gaps: make(chan struct{}),
		quit: make(chan struct{}), wake: make(chan struct{}, 1), dirs: make(map[string]*polled),
	}
	p.wg.Go(p.run)
	return p
}

func (p *poller) add(dir string) error {
	l, err := list(dir)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dirs[dir] = &polled{l}
	return nil
}

func (p *poller) remove(dir string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.dirs, dir)
}

func (p *poller) events() <-chan fsnotify.Event { return p.out }
func (p *poller) lost() <-chan struct{}         { return p.gaps }

// confirm asks for a look that begins now: what is seen of changes may be old, or half
// of what was done, and the next look far away.
func (p *poller) confirm() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := make(chan struct{})
	p.asked = append(p.asked, done)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return done
}

func (p *poller) confirms(fsnotify.Event) bool { return false }

func (p *poller) close() {
	close(p.quit)
	p.wg.Wait()
}

func (p *poller) run() {
	pause := p.pause
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-p.quit:
			return
		case <-timer.C:
		case <-p.wake:
		}
		start := time.Now()
		if !p.look() {
			return
		}
		timer.Reset(max(p.pause, busyShare*time.Since(start)))
	}
}

// look compares every directory with what it was. It reports whether to go on.
func (p *poller) look() bool {
	p.mu.Lock()
	dirs, asked := maps.Clone(p.dirs), p.asked
	p.asked = nil
	p.mu.Unlock()
	for dir, d := range dirs {
		now, err := list(dir)
		p.mu.Lock()
		if p.dirs[dir] != d { // removed meanwhile
			p.mu.Unlock()
			continue
		}
		was := d.listing
		d.listing = now
		if err != nil {
			delete(p.dirs, dir)
		}
		p.mu.Unlock()
		for _, e := range differences(dir, was, now) {
			select {
			case p.out <- e:
			case <-p.quit:
				return false
			}
		}
	}
	for _, done := range asked {
		close(done)
	}
	return true
}

// differences are the events between two listings of a directory; now is nil if
// it is gone.
func differences(dir string, was, now listing) []fsnotify.Event {
	var out []fsnotify.Event
	say := func(name string, op fsnotify.Op) {
		out = append(out, fsnotify.Event{Name: filepath.Join(dir, name), Op: op})
	}
	for name, old := range was {
		switch s, ok := now[name]; {
		case !ok:
			say(name, fsnotify.Remove)
		case s.id != old.id || s.mode.Type() != old.mode.Type():
			say(name, fsnotify.Remove)
			if name != "" {
				say(name, fsnotify.Create)
			}
		case s.size != old.size || !s.mtime.Equal(old.mtime):
			say(name, fsnotify.Write)
		case s != old:
			say(name, fsnotify.Chmod)
		}
	}
	for name := range now {
		if _, ok := was[name]; !ok {
			say(name, fsnotify.Create)
		}
	}
	return out
}

func list(dir string) (listing, error) {
	own, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	l := make(listing, len(entries)+1)
	l[""] = stampOf(own)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			l[e.Name()] = stampOf(info)
		}
	}
	return l, nil
}

func stampOf(info fs.FileInfo) stamp {
	id, ctime := identify(info)
	s := stamp{mode: info.Mode(), id: id}
	if info.IsDir() {
		return s // the times tell of what is in it, which is compared by itself
	}
	s.size, s.mtime, s.ctime = info.Size(), info.ModTime().Round(0), ctime
	return s
}
