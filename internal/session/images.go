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

// images resolves base images by the engine, which is opened when it is needed
// first, or is going to be: a project that starts from scratch can be planned without
// any.
type images struct {
	opt *Options

	mu       sync.Mutex
	open     Engine
	asked    bool  // somebody cannot do without
	err      error // of opening; kept, so that it is tried once
	whenOpen func(Engine)

	tasks int
}

// call has something called when the engine is open; nil for nothing.
func (i *images) call(whenOpen func(Engine)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.open != nil && whenOpen != nil {
		whenOpen(i.open)
		return
	}
	i.whenOpen = whenOpen
}

func (i *images) engine(ctx context.Context) (Engine, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = true
	return i.opened(ctx)
}

// openEarly opens the engine for who may ask for it, if all is well.
func (i *images) openEarly(ctx context.Context) {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, _ = i.opened(ctx) // what is wrong with it who asks is told
}

// opened gives the engine, and opens it if need be.
func (i *images) opened(ctx context.Context) (Engine, error) {
	if i.open != nil || i.err != nil {
		return i.open, i.err
	}
	if i.opt.OpenEngine == nil {
		i.err = &EngineError{Err: errors.New("there is no engine to build with")}
		return nil, i.err
	}
	engine, err := i.opt.OpenEngine(ctx)
	switch {
	case err == nil:
		i.open = engine
		if i.whenOpen != nil {
			i.whenOpen(engine)
		}
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	default:
		i.err = &EngineError{Err: err}
	}
	return i.open, i.err
}

// fetcher is the engine's: what it has fetched is kept with its store.
func (i *images) fetcher(ctx context.Context) (*remote.Fetcher, error) {
	engine, err := i.engine(ctx)
	if err != nil {
		return nil, err
	}
	return engine.Fetcher(), nil
}

// devices are the engine's. Without one there are none.
func (i *images) devices(ctx context.Context, name string) []planner.Device {
	engine, err := i.engine(ctx)
	if err != nil {
		return nil
	}
	return engine.Devices(name)
}

// engineError is what was wrong with the engine, if anybody has asked for it.
func (i *images) engineError() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.asked {
		return nil
	}
	return i.err
}

// Resolve is planner.Images.
func (i *images) Resolve(ctx context.Context, req planner.ImageRequest) (*planner.BaseImage, error) {
	engine, err := i.engine(ctx)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	i.tasks++
	id := fmt.Sprintf("resolve:%d", i.tasks)
	i.mu.Unlock()
	i.opt.Sink.Emit(event.TaskStarted{ID: id, Name: "[internal] resolve " + req.Ref, Time: i.opt.Now()})
	image, err := engine.Resolve(ctx, req)
	i.opt.Sink.Emit(event.TaskDone{ID: id, Err: err, Time: i.opt.Now()})
	return image, err
}

func (i *images) close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.open == nil {
		return nil
	}
	engine := i.open
	i.open = nil
	return engine.Close()
}
