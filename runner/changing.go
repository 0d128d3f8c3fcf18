package runner

// Files may change while a step copies them. What is in the result is then what
// they were at some moment, and not what the step is keyed by. So they are looked at
// again when they have been copied: unless nothing of them was touched since the key
// was made, there is a new key, and under that they are copied again.

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/source"
)

// errChanged says that files of a build context changed while they were copied.
var errChanged = errors.New("files of the build context changed while they were copied")

// maxMoved is how often a step begins anew because files have changed.
const maxMoved = 5

// obtain gets a step's result, over again if files change meanwhile.
func (r *run) obtain(ctx context.Context, n *node) (tail []string, err error) {
	n.restless = false
	for n.moved = 0; ; n.moved++ {
		if tail, err = r.obtainOnce(ctx, n); !errors.Is(err, errChanged) || ctx.Err() != nil {
			return tail, err
		}
		n.key = Key{} // which was that of files as they were
	}
}

// settled makes sure that a step has copied what its key says; exactly is a listing
// that is all that was copied, if that is known. Where files never come to rest, a
// log for one, the step is done with what it got, and nobody will find its result
// again.
func (r *run) settled(ctx context.Context, n *node, exactly *source.Listing) error {
	if len(n.key.files) == 1 && exactly != nil && n.key.files[0] != nil && exactly.Digest == n.key.files[0].Digest {
		return nil
	}
	var moved string
	for i, s := range selections(n.step) {
		if i >= len(n.key.files) {
			break
		}
		if !r.same(ctx, s, n.key.files[i]) {
			moved = s.partName()
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case moved == "":
		return nil
	case n.moved < maxMoved:
		r.opt.Sink.Emit(event.StepOutput{
			Step: n.step, Stream: 2, Data: []byte(moved + " changed while it was copied: once more\n"), Time: r.opt.Now(),
		})
		return errChanged
	}
	n.restless = true
	r.warn(n, fmt.Errorf("%s: %s keeps changing while it is copied; the result is used now and will not be found again", n.step.Name, moved))
	return nil
}

// same looks whether a selection still is what it was: nil stands for nothing.
func (r *run) same(ctx context.Context, s selection, was *source.Listing) bool {
	now, err := r.keyer.lookAgain(ctx, s)
	var none *source.NotFoundError
	switch {
	case errors.As(err, &none):
		return was == nil
	case err != nil:
		return false // the new key will say why
	}
	return was != nil && now.State == was.State
}

// list lists what a step takes of a build context: if it can be, what its key was
// made of.
func (r *run) list(ctx context.Context, n *node, tree source.Tree, sel source.Selection) (*source.Listing, error) {
	for i, s := range selections(n.step) {
		if i >= len(n.key.files) || n.key.files[i] == nil || s.tree.Dir != tree.Dir || !slices.Equal(s.tree.Exclude, tree.Exclude) ||
			s.sel.FollowLinks != sel.FollowLinks || !slices.Equal(s.sel.Include, sel.Include) || !slices.Equal(s.sel.Exclude, sel.Exclude) {
			continue
		}
		if m := n.key.files[i].Matches; len(m) == 1 && m[0].Path == sel.Path {
			return n.key.files[i], nil
		}
	}
	return r.keyer.hasher.List(ctx, tree, sel)
}
