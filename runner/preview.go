package runner

import (
	"context"
	"errors"
	"time"

	"github.com/zbuild/zbuild/planner"
)

// Preview is what a run of a plan would do.
type Preview struct {
	// Run are the steps that would run, in the order of the plan. Some of them may be
	// spared in the end: that a step takes what an earlier one took of other steps is
	// known only when those have run.
	Run []*planner.Step
	// Fetched are those whose results would come from a cache of cache-from.
	Fetched []*planner.Step
	// Cached is how many steps are at hand, or not needed because a later one is.
	Cached int
}

// Look finds out what Run would do, and does none of it. Of the options, Engine, Cache,
// Hasher, Memory, Sink and Bucket are of interest. The error is the context's cause, or
// why steps cannot run, all that is known before any has.
func Look(ctx context.Context, plan *planner.Plan, opt Options) (*Preview, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	r := newRun(plan, opt)
	r.importCaches(ctx)
	r.makeKeys(ctx)
	done, err := r.opt.Engine.Use(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	exports, err := r.exports()
	if err != nil {
		return nil, err
	}
	r.demand(ctx, exports)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	preview := &Preview{}
	var failures []error
	for _, n := range r.order {
		if n.failure != nil {
			failures = append(failures, n.failure)
		}
		if n.step.Local != nil || n.step.Image != nil || n.keyErr != nil {
			continue
		}
		switch _, fetchable := r.fetchable(n); {
		case !n.needed || n.cached:
			preview.Cached++
		case fetchable:
			preview.Fetched = append(preview.Fetched, n.step)
		default:
			preview.Run = append(preview.Run, n.step)
		}
	}
	return preview, errors.Join(failures...)
}
