package watch

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// deaf is a filter that, asked about a log, waits until it may go on.
type deaf struct {
	lexical

	armed         *atomic.Bool
	entered, gone chan bool
}

func (f deaf) Match(path string) bool {
	if strings.HasSuffix(path, ".log") && f.armed.CompareAndSwap(true, false) {
		f.entered <- true
		<-f.gone
	}
	return f.lexical.Match(path)
}

// What was done before changes seem to have settled belongs to them, also if nobody has
// had the time to read of it: this machine is busy.
func TestUnread(t *testing.T) {
	t.Parallel()
	const quiet = 50 * time.Millisecond
	f := deaf{armed: new(atomic.Bool), entered: make(chan bool), gone: make(chan bool)}
	s := watching(t, Options{Quiet: quiet}, func(set *Set) { set.Trees[0].Filter = f })
	for range 8 { // by chance it may go well
		s.settled()
		s.write("one", "1")
		s.write("two", "1")
		f.armed.Store(true)
		begun := time.Now()
		s.rename("one", "src/one")
		s.write("src/x.log", "1")
		<-f.entered
		inTime := time.Since(begun) < quiet // or the first has settled for good
		s.rename("two", "src/two")
		time.Sleep(quiet)
		taken := make(chan Batch)
		go func() { taken <- <-s.w.Batches() }()
		f.gone <- true
		b := <-taken
		if want := []string{"src/one", "src/two"}; inTime && !slices.Equal(s.names(b.Paths), want) {
			t.Fatalf("told of %q, want %q in one batch", s.names(b.Paths), want)
		}
	}
}
