package watch

import (
	"slices"
	"time"
)

const (
	// slowdown is how much longer the quiet period is while several spells of
	// changes are to be expected, as in a rebase.
	slowdown = 8
	// slowCeiling is the ceiling then.
	slowCeiling = 30 * time.Second
	// stale is how old a lock is that whoever made it has left behind: without any
	// change for that long it is not waited for.
	stale = 10 * time.Second
	// most is how many paths a batch names. Beyond it, everything is looked at.
	most = 200_000
)

// settler collects changes and says when they have settled. It has no clock of
// its own.
type settler struct {
	quiet, ceiling time.Duration

	// paths says of each whether it began by appearing.
	paths       map[string]bool
	passive     map[string]bool
	rescan      bool
	first, last time.Time // of the changes since the last batch
	begun       time.Time // from when the ceiling counts
	held        time.Time // when a lock was seen last
}

func newSettler(quiet, ceiling time.Duration) *settler {
	s := &settler{quiet: quiet, ceiling: ceiling}
	s.clear()
	return s
}

func (s *settler) clear() {
	s.paths, s.passive = make(map[string]bool), make(map[string]bool)
	s.rescan = false
	s.first, s.last, s.begun, s.held = time.Time{}, time.Time{}, time.Time{}, time.Time{}
}

// pending reports whether there is something to deliver.
func (s *settler) pending() bool { return len(s.paths) > 0 || s.rescan }

// note adds a change; born says that the path appears by it.
func (s *settler) note(path string, born, passive bool, now time.Time) {
	if passive {
		if len(s.passive) < most {
			s.passive[path] = true
		} else {
			s.lost(now)
		}
		return
	}
	s.touch(now)
	if len(s.paths) >= most {
		s.lost(now)
		return
	}
	if _, known := s.paths[path]; !known {
		s.paths[path] = born
	}
}

// lost says that changes are not known.
func (s *settler) lost(now time.Time) {
	s.touch(now)
	s.rescan = true
}

func (s *settler) touch(now time.Time) {
	if s.first.IsZero() {
		s.first, s.begun = now, now
	}
	s.last = now
}

// again lets what had settled settle once more: nobody has taken it, and there is
// something new.
func (s *settler) again(now time.Time) { s.begun = now }

// due is when the changes have settled, if nothing else happens.
func (s *settler) due(slow bool) time.Time {
	quiet, ceiling := s.quiet, s.ceiling
	if slow {
		quiet, ceiling = slowdown*quiet, max(ceiling, slowCeiling)
	}
	last := s.last
	if s.held.After(last) {
		last = s.held
	}
	at := last.Add(quiet)
	// Under a lock time does not count.
	if latest := later(s.begun, s.held).Add(ceiling); latest.Before(at) {
		at = latest
	}
	return at
}

// hold says that somebody was seen at work. It reports whether to wait: a lock
// under which nothing has changed for long holds nothing back.
func (s *settler) hold(now time.Time) bool {
	if now.Sub(s.last) > stale {
		return false
	}
	s.held = now
	return true
}

// batch is what has settled. exists looks at a path.
func (s *settler) batch(exists func(string) bool) Batch {
	b := Batch{Paths: sorted(s.paths), Passive: sorted(s.passive), Rescan: s.rescan, First: s.first}
	for _, p := range b.Paths {
		if s.paths[p] && !exists(p) {
			b.Fleeting = append(b.Fleeting, p)
		}
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func sorted(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for p := range set {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// union is what is in either of two sorted lists, sorted.
func union(a, b []string) []string {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := make([]string, 0, len(a)+len(b))
	out = append(append(out, a...), b...)
	slices.Sort(out)
	return slices.Compact(out)
}
