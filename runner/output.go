package runner

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/planner"
)

const (
	tailLines = 40   // lines of output that a failure shows
	tailWidth = 2000 // bytes of each
)

// output is what the process of one step prints: it becomes events, and its end
// is kept for the case of failure. Secrets are blotted out on the way.
type output struct {
	step *planner.Step
	sink event.Sink
	now  func() time.Time

	mu      sync.Mutex
	secrets [][]byte
	tail    []string
	partial []byte
	streams [3]stream // by number
}

// stream is one of a process's streams.
type stream struct {
	o *output
	n int
	// held is the end of what came so far, kept back because a secret may have begun in
	// it; secret is how much of that belongs to one that has begun before.
	held   []byte
	secret int
}

func newOutput(step *planner.Step, sink event.Sink, now func() time.Time) *output {
	o := &output{step: step, sink: sink, now: now}
	for i := range o.streams {
		o.streams[i] = stream{o: o, n: i}
	}
	return o
}

// conceal notes a value that must not be shown. Lines of a secret are secrets
// too, unless they are too short to tell from ordinary words.
func (o *output) conceal(value []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	add := func(v []byte) {
		if v = bytes.TrimSpace(v); len(v) > 0 {
			o.secrets = append(o.secrets, bytes.Clone(v))
		}
	}
	add(value)
	for line := range bytes.Lines(value) {
		if len(line) >= 8 {
			add(line)
		}
	}
}

// Write takes what the process wrote.
func (s *stream) Write(p []byte) (int, error) {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	s.held = append(s.held, p...)
	s.flush(false)
	return len(p), nil
}

// flush passes on what is certainly no part of a secret.
func (s *stream) flush(all bool) {
	keep := 0
	if !all {
		for _, secret := range s.o.secrets {
			keep = max(keep, overlap(s.held, secret))
		}
	}
	out := s.blot(len(s.held) - keep)
	if len(out) == 0 {
		return
	}
	s.o.remember(out)
	s.o.sink.Emit(event.StepOutput{Step: s.o.step, Stream: s.n, Data: out, Time: s.o.now()})
}

// blot takes the first n bytes of what is held, with three stars in place of everything
// that belongs to a secret: those may overlap, and one may be the beginning of another.
func (s *stream) blot(n int) (out []byte) {
	until := s.secret // how far the secrets go that have begun
	type place struct{ from, to int }
	var places []place
	for _, secret := range s.o.secrets {
		for at := 0; ; at++ {
			i := bytes.Index(s.held[at:], secret)
			if i < 0 || at+i >= n {
				break
			}
			at += i
			places = append(places, place{at, at + len(secret)})
		}
	}
	slices.SortFunc(places, func(a, b place) int { return a.from - b.from })
	begin := until
	for _, p := range places {
		if p.from > until || until == 0 {
			out = append(append(out, s.held[begin:p.from]...), "***"...)
		}
		until = max(until, p.to)
		begin = until
	}
	if begin < n {
		out = append(out, s.held[begin:n]...)
	}
	s.secret = max(until-n, 0)
	s.held = bytes.Clone(s.held[n:])
	return out
}

// overlap is the length of the longest end of data that secret begins with.
func overlap(data, secret []byte) int {
	for n := min(len(data), len(secret)-1); n > 0; n-- {
		if bytes.HasPrefix(secret, data[len(data)-n:]) {
			return n
		}
	}
	return 0
}

// remember keeps the last lines. The two streams share them: what was printed
// last is what explains a failure.
func (o *output) remember(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			o.partial = append(o.partial, p...)
			if len(o.partial) > tailWidth {
				o.partial = o.partial[:tailWidth]
			}
			return
		}
		o.line(append(o.partial, p[:i]...))
		o.partial = o.partial[:0]
		p = p[i+1:]
	}
}

func (o *output) line(b []byte) {
	b = bytes.TrimRight(b, "\r")
	if i := bytes.LastIndexByte(b, '\r'); i >= 0 {
		b = b[i+1:] // a progress bar's last state
	}
	if len(b) > tailWidth {
		b = append(bytes.Clone(b[:tailWidth]), "…"...)
	}
	o.tail = append(o.tail, string(b))
	if len(o.tail) > 2*tailLines {
		o.tail = append([]string(nil), o.tail[len(o.tail)-tailLines:]...)
	}
}

// end passes on what was kept back and gives the last lines.
func (o *output) end() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.streams {
		o.streams[i].flush(true)
	}
	if len(o.partial) > 0 {
		o.line(o.partial)
		o.partial = nil
	}
	return o.tail[max(0, len(o.tail)-tailLines):]
}
