package watch

import (
	"slices"
	"testing"
	"time"
)

func TestSettle(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	const quiet, ceiling = 50 * time.Millisecond, time.Second
	due := func(s *settler, slow bool) int { return int(s.due(slow).Sub(start) / time.Millisecond) }

	s := newSettler(quiet, ceiling)
	if s.pending() {
		t.Error("nothing is pending")
	}
	s.note("passive", false, true, at(0))
	if s.pending() {
		t.Error("a passive path is pending")
	}
	s.note("b", true, false, at(0))
	s.note("a", false, false, at(40))
	if got := due(s, false); got != 90 {
		t.Errorf("due at %d, want quiet after the last change", got)
	}
	if got := due(s, true); got != 440 {
		t.Errorf("slow: due at %d", got)
	}
	s.note("a", false, false, at(980))
	if got := due(s, false); got != 1000 {
		t.Errorf("due at %d, want the ceiling", got)
	}
	s.again(at(900))
	if got := due(s, false); got != 1030 {
		t.Errorf("due at %d, want quiet again", got)
	}
	if !s.hold(at(1200)) {
		t.Error("a lock holds")
	}
	if got := due(s, false); got != 1250 {
		t.Errorf("due at %d, want quiet after the lock", got)
	}
	if s.hold(at(980).Add(stale + 1)) {
		t.Error("a stale lock holds")
	}
	b := s.batch(func(p string) bool { return p != "b" })
	s.clear()
	if !slices.Equal(b.Paths, []string{"a", "b"}) || !slices.Equal(b.Passive, []string{"passive"}) || b.Rescan || len(b.Fleeting) != 1 || !b.First.Equal(start) {
		t.Errorf("%+v", b)
	}
	if s.pending() {
		t.Error("still pending")
	}
	s.lost(at(0))
	if !s.pending() || !s.batch(nil).Rescan {
		t.Error("lost changes are pending")
	}
	s.clear()
	for i := 0; !s.rescan; i++ {
		s.note(time.Duration(i).String(), false, false, at(0))
	}
	if len(s.paths) > most {
		t.Errorf("%d paths", len(s.paths))
	}
}

func TestMerge(t *testing.T) {
	now := time.Now()
	b := Batch{Paths: []string{"b"}, First: now}
	b.Merge(Batch{Paths: []string{"a", "b"}, Passive: []string{"p"}, Rescan: true, First: now.Add(-time.Second)})
	if !slices.Equal(b.Paths, []string{"a", "b"}) || len(b.Passive) != 1 || !b.Rescan || !b.First.Before(now) {
		t.Errorf("%+v", b)
	}
}
