package watch

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/fsnotify/fsnotify"
)

// notifier tells of changes in single directories, not in those below them.
type notifier interface {
	// add begins to tell about what is directly in a directory, and again if the
	// directory was replaced. It is no error to add one twice.
	add(dir string) error
	remove(dir string)
	// events are changes, by path. When lost yields, some were not told.
	events() <-chan fsnotify.Event
	lost() <-chan struct{}
	// confirm makes sure that whatever was done before has been told. What it returns
	// yields when it is so; nil where that cannot be found out.
	confirm() <-chan struct{}
	// confirms reports whether an event is no change, but what confirm waits for.
	confirms(e fsnotify.Event) bool
	close()
}

// system is what the operating system has for this.
type system struct {
	w    *fsnotify.Watcher
	gaps chan struct{}
	wg   sync.WaitGroup

	fence  *fence        // nil if there is none
	passed chan struct{} // yields when the fence has been told of
}

func newSystem() (*system, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	s := &system{w: w, gaps: make(chan struct{}, 1)}
	// fsnotify may wait for its errors to be read while it holds the lock that
	// adding a directory needs. So they are read by somebody who adds none.
	s.wg.Go(func() {
		for range w.Errors {
			select {
			case s.gaps <- struct{}{}:
			default:
			}
		}
	})
	if s.fence = newFence(); s.fence != nil && w.Add(s.fence.path) != nil {
		s.fence.close()
		s.fence = nil
	}
	return s, nil
}

func (s *system) add(dir string) error { return s.w.Add(dir) }

func (s *system) remove(dir string) {
	_ = s.w.Remove(dir) // gone already, most likely, and its watch with it
}

func (s *system) events() <-chan fsnotify.Event { return s.w.Events }
func (s *system) lost() <-chan struct{}         { return s.gaps }

// confirm has something be told after all that is not read yet: on a busy machine that
// may be what belongs to the changes that seem to have settled.
func (s *system) confirm() <-chan struct{} {
	if s.fence == nil || !s.fence.pass() {
		return nil
	}
	s.passed = make(chan struct{}, 1)
	return s.passed
}

func (s *system) confirms(e fsnotify.Event) bool {
	if s.fence == nil || e.Name != s.fence.path {
		return false
	}
	select {
	case s.passed <- struct{}{}:
	default: // nobody waits for it any more
	}
	return true
}

func (s *system) close() {
	_ = s.w.Close()
	s.wg.Wait()
	if s.fence != nil {
		s.fence.close()
	}
}

// exhausted reports whether an error says that the system has run out of watches
// or of instances.
func exhausted(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE) ||
		errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// advise says what to do about a lack of watches, of which need were wanted.
func advise(err error, need int) (reason, advice string) {
	const proc = "/proc/sys/fs/inotify/"
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		have := limit(proc+"max_user_instances", "/proc/sys/user/max_inotify_instances")
		reason = "the limit of inotify instances or of open files is reached"
		if have > 0 {
			reason = fmt.Sprintf("the limit of %d inotify instances or that of open files is reached", have)
		}
		return reason, fmt.Sprintf("raise it: sudo sysctl fs.inotify.max_user_instances=%d (and see ulimit -n); --poll does without", max(2*have, 512))
	}
	have := limit(proc+"max_user_watches", "/proc/sys/user/max_inotify_watches")
	want := 8192
	for want < have+need {
		want *= 2
	}
	reason = fmt.Sprintf("%d directories are to be watched, and the limit of inotify watches is reached", need)
	if have > 0 {
		reason = fmt.Sprintf("%d directories are to be watched, and the limit of %d inotify watches is reached", need, have)
	}
	return reason, fmt.Sprintf("raise it: sudo sysctl fs.inotify.max_user_watches=%d, for good in /etc/sysctl.d; or let an ignore file leave out what no image needs", want)
}

// limit reads the smallest of some numbers of the kernel's; 0 if none is known.
func limit(files ...string) int {
	least := 0
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}
