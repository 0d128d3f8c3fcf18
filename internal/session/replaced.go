package session

import (
	"context"
	"errors"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/runner"
)

// replaced knows the images that a watched project has, and those that it had: every
// edit leaves one that nobody asks for by a name any more.
type replaced struct {
	current map[string][]*runner.Image // by target
	old     []*runner.Image            // lists before single images, which they may have
}

// note takes in what a generation has made; result may be nil.
func (r *replaced) note(result *runner.Result) {
	if result == nil {
		return
	}
	if r.current == nil {
		r.current = make(map[string][]*runner.Image)
	}
	for i := range result.Targets {
		t := &result.Targets[i]
		if t.Image == nil {
			continue
		}
		r.old = append(r.old, r.current[t.Name]...)
		r.current[t.Name] = append([]*runner.Image{t.Image}, t.Platforms...)
	}
	used := make(map[digest.Digest]bool)
	for _, images := range r.current {
		for _, img := range images {
			used[img.ID] = true
		}
	}
	r.old = slices.DeleteFunc(r.old, func(img *runner.Image) bool {
		again := used[img.ID]
		used[img.ID] = true // once is enough
		return again
	})
	slices.SortStableFunc(r.old, func(a, b *runner.Image) int {
		switch {
		case a.Index == b.Index:
			return 0
		case a.Index:
			return -1
		}
		return 1
	})
}

// prune removes the images that were replaced. What is in use is tried again after the
// next generation; what cannot be removed is somebody else's business.
func (l *live) prune(ctx context.Context) {
	engine, err := l.s.engine.get(ctx)
	if err != nil {
		return
	}
	l.images.old = slices.DeleteFunc(l.images.old, func(img *runner.Image) bool {
		if ctx.Err() != nil {
			return false
		}
		err := engine.Drop(ctx, img)
		if err != nil && !errors.Is(err, runner.ErrInUse) {
			l.s.warn(err)
		}
		return !errors.Is(err, runner.ErrInUse)
	})
}
