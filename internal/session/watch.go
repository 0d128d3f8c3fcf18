package session

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/watch"
)

// WatchOptions say how a project is watched. What is zero is as the project says,
// or the default.
type WatchOptions struct {
	// Quiet is how long nothing must have changed before a generation begins,
	// Ceiling how long changes can put that off.
	Quiet, Ceiling time.Duration
	// Poll is the pause between two looks at all files; 0 is to be notified.
	Poll time.Duration
	// OnBusy says what a change does to a generation that is running.
	OnBusy config.OnBusy
	// Commands come from the user. It is never closed.
	Commands <-chan Command
	// Observe is told what happens, in order, by one goroutine at a time. It holds
	// up what happens next.
	Observe func(Notice)
	// Sync copies files into running containers; nil means that sync rules are not
	// followed. Its error means that the image has to be built instead.
	Sync func(context.Context, SyncRequest) error
	// Prune removes images that a later generation has replaced, as soon as nothing
	// uses them.
	Prune bool
	// Written reports whether a path is written by the process itself, so that a
	// change to it is no reason for a generation.
	Written func(path string) bool
}

func (o WatchOptions) observe(n Notice) {
	if o.Observe != nil {
		o.Observe(n)
	}
}

func (o WatchOptions) written(path string) bool { return o.Written != nil && o.Written(path) }

// Command is what a user can ask for.
type Command int

// The commands.
const (
	RebuildAll    Command = iota // look at everything anew, build all targets
	RebuildFailed                // try again what has failed
	TogglePause                  // collect changes and begin nothing, or go on
)

// maxRestarts is how often in a row a generation may be stopped for a newer one.
// Then one is let come to its end: something changes all the time.
const maxRestarts = 10

// Watch makes generations until the context ends or there is no engine, one at a
// time: the first at once, and others as what the project reads changes. It returns
// when nothing of it runs any more, with the reason.
func (s *Session) Watch(ctx context.Context, opt WatchOptions) error {
	if observe := opt.Observe; observe != nil {
		var mu sync.Mutex
		opt.Observe = func(n Notice) {
			mu.Lock()
			defer mu.Unlock()
			observe(n)
		}
	}
	w := watch.New(watch.Options{
		Quiet: opt.Quiet, Ceiling: opt.Ceiling, Poll: opt.Poll,
		Degraded: func(d watch.Degradation) { opt.observe(Degraded(d)) },
	})
	defer w.Close()
	defer s.keep()()
	c := &control{ctx: ctx, opt: opt, l: newLive(s, opt, w), pending: order{everything: true}}
	return c.run(w.Batches())
}

// control decides when there is a generation.
type control struct {
	ctx context.Context
	opt WatchOptions
	l   *live

	pending  order // what is to be done
	paused   bool
	restarts int

	cancel context.CancelCauseFunc // of the running generation; nil if none runs
	done   chan outcome
}

func (c *control) run(batches <-chan watch.Batch) error {
	for {
		if c.cancel == nil && !c.paused && !c.pending.empty() {
			c.start()
		}
		select {
		case <-c.ctx.Done():
			if c.cancel != nil {
				<-c.done
				c.cancel(nil)
			}
			return context.Cause(c.ctx)
		case b := <-batches:
			c.changed(b)
		case cmd := <-c.opt.Commands:
			c.command(cmd)
		case out := <-c.done:
			c.cancel(nil)
			c.cancel, c.done = nil, nil
			if out.fatal != nil {
				return out.fatal
			}
			if out.canceled {
				// Never a lost change.
				out.order.merge(c.pending)
				c.pending = out.order
			} else {
				c.restarts = 0
			}
			if c.pending.empty() || c.paused {
				c.wait()
			}
		}
	}
}

func (c *control) wait() {
	w := c.l.waiting()
	w.Paused = c.paused
	c.opt.observe(w)
}

func (c *control) start() {
	ctx, cancel := context.WithCancelCause(c.ctx)
	o := c.pending
	c.pending = order{}
	c.cancel, c.done = cancel, make(chan outcome, 1)
	done := c.done
	go func() { done <- c.l.generate(ctx, o) }()
}

// changed handles a batch.
func (c *control) changed(b watch.Batch) {
	if c.cancel == nil {
		c.pending.merge(order{batch: b})
		if c.paused {
			c.wait()
		}
		return
	}
	if c.paused || c.queues() {
		c.pending.merge(order{batch: b})
		return
	}
	if !c.l.matters(c.ctx, b) {
		return // the same content as what is being built
	}
	c.pending.merge(order{batch: b})
	c.restart()
}

// errSuperseded is the cause of a generation that was stopped for a newer one.
var errSuperseded = errors.New("superseded by a newer change")

func (c *control) restart() {
	if c.restarts++; c.restarts <= maxRestarts {
		c.cancel(errSuperseded)
	}
}

// queues reports whether a running generation is let come to its end.
func (c *control) queues() bool {
	if c.opt.OnBusy != "" {
		return c.opt.OnBusy == config.OnBusyQueue
	}
	return c.l.onBusy() == config.OnBusyQueue
}

// onBusy is what the project says that a change does to a running generation; of
// targets that say different things, one that wants to be waited for is.
func (l *live) onBusy() config.OnBusy {
	l.mu.Lock()
	work := l.current
	l.mu.Unlock()
	if work == nil {
		return config.OnBusyRestart
	}
	for _, t := range work.plan.Targets {
		if w := t.Config.Watch; w != nil && w.OnBusy == config.OnBusyQueue {
			return w.OnBusy
		}
	}
	if w := work.scope.project.Watch; w != nil && w.OnBusy != "" {
		return w.OnBusy
	}
	return config.OnBusyRestart
}

func (c *control) command(cmd Command) {
	switch cmd {
	case RebuildAll:
		c.pending.merge(order{everything: true})
		if c.cancel != nil && !c.paused && !c.queues() {
			c.restart()
		}
	case RebuildFailed:
		c.pending.merge(order{failed: true})
	case TogglePause:
		c.paused = !c.paused
		if c.cancel == nil {
			c.wait()
		}
	}
}
