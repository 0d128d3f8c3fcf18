package runner

// The scheduler knows units of work, what each waits for, and how many may run at
// once. It does not know what they do.

import (
	"container/heap"
	"context"
	"errors"
	"sync"
)

// unit is a piece of work.
type unit struct {
	name string
	// weight says how long the unit takes compared with others.
	weight int
	needs  []*unit
	do     func(context.Context) error

	// The scheduler's own.
	started    bool
	signals    chan<- signal
	granted    chan struct{} // receives once for every slot that it gets back
	waiting    int           // needs that are not done
	dependents []*unit       // who waits for this one
	priority   int           // weight of the longest chain that begins here
	order      int           // of two that are equally urgent the first one goes first
	state      unitState
	err        error
}

type unitState int

const (
	unitWaiting  unitState = iota
	unitDone               // without an error
	unitFailed             // err says why
	unitSkipped            // never started: something that it needs failed, or all stopped
	unitCanceled           // stopped in the middle
)

// signal is what a unit tells the scheduler.
type signal struct {
	u    *unit
	what signalKind
}

type signalKind int

const (
	signalDone  signalKind = iota
	signalIdle             // it only waits, and gives its slot back
	signalReady            // it wants a slot again
)

// idle runs fn, in which the unit only waits for somebody else: others may have
// its slot meanwhile. When it returns the unit has a slot again.
func (u *unit) idle(fn func() error) error {
	if u.signals == nil {
		return fn() // nobody schedules it
	}
	u.signals <- signal{u, signalIdle}
	err := fn()
	u.signals <- signal{u, signalReady}
	<-u.granted
	return err
}

// errSkipped is the cause of a context that is canceled because something else
// failed.
var errSkipped = errors.New("canceled because another step failed")

// schedule runs all units, each after what it needs, at most jobs at a time, those
// that most depends on first. Unless it is to keep going, the first failure stops
// everything. It returns when nothing runs any more; how each unit ended stands
// in its state.
func schedule(ctx context.Context, units []*unit, jobs int, keepGoing bool) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &scheduler{signals: make(chan signal)}
	defer s.wg.Wait()
	for _, u := range prepare(units) {
		heap.Push(&s.ready, u)
	}
	for {
		s.fill(ctx, jobs)
		if s.running+s.idle == 0 {
			break
		}
		u := s.next()
		if u == nil {
			continue
		}
		settle(ctx, u)
		if u.state == unitFailed && !keepGoing {
			cancel(errSkipped)
		}
		if u.state != unitDone {
			continue // whoever waits for it waits for ever, and is skipped
		}
		for _, d := range u.dependents {
			if d.waiting--; d.waiting == 0 {
				heap.Push(&s.ready, d)
			}
		}
	}
	for _, u := range units {
		if u.state == unitWaiting {
			u.state = unitSkipped
		}
	}
}

// scheduler is what schedule knows of the units that are under way.
type scheduler struct {
	ready         readyQueue
	signals       chan signal
	running, idle int
	wg            sync.WaitGroup
}

// fill starts what is ready as long as there is a job free. After a cancellation
// only those go on that have to come to their end.
func (s *scheduler) fill(ctx context.Context, jobs int) {
	for s.running < jobs && s.ready.Len() > 0 {
		if u := heap.Pop(&s.ready).(*unit); u.started || ctx.Err() == nil {
			s.start(ctx, u)
		}
	}
}

// start starts a unit, or lets one go on that has been idle.
func (s *scheduler) start(ctx context.Context, u *unit) {
	s.running++
	if u.started {
		u.granted <- struct{}{}
		return
	}
	u.started, u.signals, u.granted = true, s.signals, make(chan struct{}, 1)
	s.wg.Go(func() {
		u.err = u.do(ctx)
		s.signals <- signal{u, signalDone}
	})
}

// next waits for a signal, and gives the unit that it says is done, if it does.
func (s *scheduler) next() *unit {
	sig := <-s.signals
	switch sig.what {
	case signalIdle:
		s.running--
		s.idle++
	case signalReady:
		s.idle--
		heap.Push(&s.ready, sig.u)
	case signalDone:
		s.running--
		return sig.u
	}
	return nil
}

// settle says how a unit ended. An error that only says that the run was stopped
// is no failure of the unit.
func settle(ctx context.Context, u *unit) {
	switch {
	case u.err == nil:
		u.state = unitDone
	case ctx.Err() != nil && (errors.Is(u.err, context.Canceled) || errors.Is(u.err, context.Cause(ctx))):
		u.state = unitCanceled
	default:
		u.state = unitFailed
	}
}

// prepare links the units and gives those that wait for nothing.
func prepare(units []*unit) []*unit {
	var ready []*unit
	for i, u := range units {
		u.order = i
		u.waiting = len(u.needs)
		for _, n := range u.needs {
			n.dependents = append(n.dependents, u)
		}
		if u.waiting == 0 {
			ready = append(ready, u)
		}
	}
	seen := make(map[*unit]bool, len(units))
	var visit func(*unit) int
	visit = func(u *unit) int {
		if seen[u] {
			return u.priority
		}
		seen[u] = true
		for _, d := range u.dependents {
			u.priority = max(u.priority, visit(d))
		}
		u.priority += u.weight
		return u.priority
	}
	for _, u := range units {
		visit(u)
	}
	return ready
}

// readyQueue is a heap of units, the most urgent on top.
type readyQueue []*unit

func (q readyQueue) Len() int { return len(q) }
func (q readyQueue) Less(i, j int) bool {
	if q[i].priority != q[j].priority {
		return q[i].priority > q[j].priority
	}
	return q[i].order < q[j].order
}
func (q readyQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push is for container/heap.
func (q *readyQueue) Push(x any) { *q = append(*q, x.(*unit)) }

// Pop is for container/heap.
func (q *readyQueue) Pop() any {
	old := *q
	u := old[len(old)-1]
	*q = old[:len(old)-1]
	return u
}
