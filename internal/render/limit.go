package render

import (
	"bytes"
	"cmp"
	"fmt"
	"time"

	"github.com/docker/go-units"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/planner"
)

// A step may print faster than a display shows, and the displays keep in memory
// what they could not show yet (tty: all that was ever shown). So each step has
// a budget of bytes that refills with time; what is over it is left out, and
// said to be left out.
const (
	outputBurst = 2 << 20   // bytes
	plainRefill = 256 << 10 // bytes per second
	ttyRefill   = 1 << 10
	// maxPending is what may wait for a display that does not keep up, for
	// instance because the terminal is stopped.
	maxPending = 8 << 20
)

// limiter bounds the output that is shown.
type limiter struct {
	refill  float64 // bytes per second; 0 is without end
	pending int     // bytes in the queue
	steps   map[*planner.Step]*budget
}

type budget struct {
	tokens  float64
	at      time.Time
	leftOut int64
	// muted says that the budget was used up. It ends when there is a second's
	// worth again: better silence and a piece than a trickle of crumbs.
	muted bool
}

func newLimiter(mode Mode) *limiter {
	l := &limiter{steps: make(map[*planner.Step]*budget)}
	switch mode {
	case ModeTTY:
		l.refill = ttyRefill
	case ModePlain:
		l.refill = plainRefill
	}
	return l
}

// add appends an event to the queue, of an output what may be shown of it. It
// keeps no reference to an output's data.
func (l *limiter) add(queue []event.Event, e event.Event) []event.Event {
	switch e := e.(type) {
	case event.StepOutput:
		return l.output(queue, e)
	case event.StepDone:
		if b := l.steps[e.Step]; b != nil {
			queue = b.note(queue, event.StepOutput{Step: e.Step, Stream: 2, Time: e.Time})
			delete(l.steps, e.Step)
		}
	}
	return append(queue, e)
}

func (l *limiter) output(queue []event.Event, e event.StepOutput) []event.Event {
	b := l.steps[e.Step]
	if b == nil {
		b = &budget{tokens: outputBurst, at: e.Time}
		l.steps[e.Step] = b
	}
	allowed := l.allowed(b, e.Time)
	if b.muted && float64(allowed) < cmp.Or(l.refill, maxPending/2) {
		allowed = 0
	}
	data := e.Data
	if b.muted = allowed < len(data); b.muted {
		_, data, _ = bytes.Cut(data[len(data)-allowed:], []byte{'\n'})
		b.leftOut += int64(len(e.Data) - len(data))
	}
	if len(data) == 0 {
		return queue
	}
	b.tokens -= float64(len(data))
	l.pending += len(data)
	queue = b.note(queue, e)
	// What a process prints in small pieces is one piece by the time it is shown.
	if n := len(queue); n > 0 {
		if last, ok := queue[n-1].(event.StepOutput); ok && last.Step == e.Step && last.Stream == e.Stream {
			last.Data = append(last.Data, data...)
			queue[n-1] = last
			return queue
		}
	}
	e.Data = bytes.Clone(data)
	return append(queue, e)
}

// allowed is how many bytes may be shown now.
func (l *limiter) allowed(b *budget, now time.Time) int {
	space := max(0, maxPending-l.pending)
	if l.refill == 0 {
		return space
	}
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(outputBurst, b.tokens+d.Seconds()*l.refill)
		b.at = now
	}
	return min(space, max(0, int(b.tokens)))
}

// note says what was left out before e, if anything was.
func (b *budget) note(queue []event.Event, e event.StepOutput) []event.Event {
	if b.leftOut == 0 {
		return queue
	}
	e.Data = fmt.Appendf(nil, "\n[%s of output left out]\n", units.HumanSize(float64(b.leftOut)))
	b.leftOut = 0
	return append(queue, e)
}
