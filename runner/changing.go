package runner

// Files may change while a step copies them. What is in the result is then what
// they were at some moment, and not what the step is keyed by. So they are looked at
// again when they have been copied: unless nothing of them was touched since the key
// was made, there is a new key, and under that they are copied again.

import (
	"context"
	"errors"
	"fmt"

	"github.com/zbuild/zbuild/internal/event"
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

// settled makes sure that a step has copied what its key says. Where files never
// come to rest, a log for one, the step is done with what it got, and nobody will
// find its result again.
func (r *run) settled(ctx context.Context, n *node) error {
	var moved string
	for i, s := range selections(n.step) {
		if i >= len(n.key.files) {
			break
		}
		// What cannot be looked at any more has changed, and the new key will say why.
		if now, err := r.keyer.lookAgain(ctx, s); err != nil || now != n.key.files[i] {
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
