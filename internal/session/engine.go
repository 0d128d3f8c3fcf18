package session

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/remote"
	"github.com/zbuild/zbuild/planner"
)

// lazyEngine is the engine, which is opened when it is needed first, or is going to be:
// a project that starts from scratch can be planned without any. For planning it is what
// the engine is: where base images, files behind URLs and devices are found.
type lazyEngine struct {
	opt *Options

	mu       sync.Mutex
	engine   Engine // nil until it is open
	asked    bool   // somebody cannot do without
	err      error  // of opening; kept, so that it is tried once
	whenOpen func(Engine)

	tasks int
}

// onOpen has something called when the engine is open; nil for nothing.
func (l *lazyEngine) onOpen(whenOpen func(Engine)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.engine != nil && whenOpen != nil {
		whenOpen(l.engine)
		return
	}
	l.whenOpen = whenOpen
}

// get gives the engine to who cannot do without.
func (l *lazyEngine) get(ctx context.Context) (Engine, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = true
	return l.opened(ctx)
}

// openEarly opens the engine for who may ask for it, if all is well.
func (l *lazyEngine) openEarly(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.opened(ctx) // what is wrong with it who asks is told
}

// opened gives the engine, and opens it if need be.
func (l *lazyEngine) opened(ctx context.Context) (Engine, error) {
	if l.engine != nil || l.err != nil {
		return l.engine, l.err
	}
	if l.opt.OpenEngine == nil {
		l.err = &EngineError{Err: errors.New("there is no engine to build with")}
		return nil, l.err
	}
	engine, err := l.opt.OpenEngine(ctx)
	switch {
	case err == nil:
		l.engine = engine
		if l.whenOpen != nil {
			l.whenOpen(engine)
		}
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	default:
		l.err = &EngineError{Err: err}
	}
	return l.engine, l.err
}

// fetcher is the engine's: what it has fetched is kept with its store.
func (l *lazyEngine) fetcher(ctx context.Context) (*remote.Fetcher, error) {
	engine, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return engine.Fetcher(), nil
}

// devices are the engine's. Without one there are none.
func (l *lazyEngine) devices(ctx context.Context, name string) []planner.Device {
	engine, err := l.get(ctx)
	if err != nil {
		return nil
	}
	return engine.Devices(name)
}

// problem is what was wrong with the engine, if anybody has asked for it.
func (l *lazyEngine) problem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.asked {
		return nil
	}
	return l.err
}

// Resolve is planner.Images.
func (l *lazyEngine) Resolve(ctx context.Context, req planner.ImageRequest) (*planner.BaseImage, error) {
	engine, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.tasks++
	id := fmt.Sprintf("resolve:%d", l.tasks)
	l.mu.Unlock()
	l.opt.Sink.Emit(event.TaskStarted{ID: id, Name: "[internal] resolve " + req.Ref, Time: l.opt.Now()})
	image, err := engine.Resolve(ctx, req)
	l.opt.Sink.Emit(event.TaskDone{ID: id, Err: err, Time: l.opt.Now()})
	return image, err
}

func (l *lazyEngine) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.engine == nil {
		return nil
	}
	engine := l.engine
	l.engine = nil
	return engine.Close()
}
