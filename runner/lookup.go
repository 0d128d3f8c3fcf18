package runner

// How a step's result is found that is there already: by the step's key, or else
// by what the step takes of other steps' outputs. Of those only the content
// counts, and not how it came about: a stage that ran again and left the same
// files makes nothing run that copies them. Content is digested when a key is not
// found and something else has all of its other parts; a first build digests
// nothing.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/planner"
)

// identify gives a step its key, of what is known of its inputs, or the reason why
// it has none. Once its inputs are at hand it says no more than what is true.
func (r *run) identify(ctx context.Context, n *node) {
	n.noCache, n.unsure = n.step.NoCache, false
	inputs := make([]digest.Digest, len(n.step.Inputs))
	for i, in := range n.step.Inputs {
		from := r.nodes[in.Step]
		inputs[i] = from.id
		switch {
		case from.keyErr != nil:
			n.keyErr = errSkipped
		case n.selective(i):
			// It is another result under the same key: only its content can tell.
			n.unsure = n.unsure || from.noCache || from.fresh || from.unsure
		default:
			n.noCache = n.noCache || from.noCache || from.fresh
			n.unsure = n.unsure || from.unsure
		}
	}
	if n.keyErr != nil {
		return
	}
	if n.ran { // in this very run: what was asked for has been done
		n.noCache, n.unsure = false, false
	}
	if n.key.Digest == "" || !slices.Equal(inputs, n.inputs) {
		n.inputs = inputs
		if n.key, n.keyErr = r.keyer.key(ctx, n.step, inputs); n.keyErr != nil {
			n.failure = &StepError{Step: n.step, Err: n.keyErr}
			return
		}
	}
	n.id = n.key.Digest
	if n.partial == nil || n.noCache || n.unsure {
		return
	}
	if e, ok := r.entry(n, n.key.Digest); ok {
		if n.unsure = r.renewed(ctx, n, e); !n.unsure && e.SameAs != "" {
			n.id = e.SameAs
		}
	}
}

// renewed reports whether something that a step took files of has been made anew since:
// by a build that was to take nothing from the cache, say. What is not there any more
// was not.
func (r *run) renewed(ctx context.Context, n *node, e Entry) bool {
	took := e.Took
	for i, in := range n.step.Inputs {
		if len(took) == 0 {
			return false
		}
		if !n.selective(i) || in.Step.Image != nil {
			continue
		}
		was := took[0]
		took = took[1:]
		from := r.nodes[in.Step]
		have := from.entry.Snapshots
		if len(have) == 0 {
			last, _ := r.entry(from, from.id)
			have = last.Snapshots
		}
		if in.Index < len(have) && have[in.Index] != was && r.opt.Engine.Has(ctx, have[in.Index]) {
			return true
		}
	}
	return false
}

// took are the results of other steps that a step takes files of, and no more. Images
// are not among them: their layers are what their key says.
func (r *run) took(n *node) (out []Snapshot) {
	for i, in := range n.step.Inputs {
		if !n.selective(i) || in.Step.Image != nil {
			continue
		}
		out = append(out, r.at(in))
	}
	return out
}

// at is the result that an input stands for; empty as long as it is not at hand.
func (r *run) at(in planner.Input) Snapshot {
	if have := r.nodes[in.Step].entry.Snapshots; in.Index < len(have) {
		return have[in.Index]
	}
	return ""
}

// wholly reports whether a step takes the result of another one as a whole that an input
// stands for. Images are not among them: their layers are what their key says.
func (n *node) wholly(input int) bool {
	from := n.step.Inputs[input].Step
	return !n.selective(input) && from.Local == nil && from.Image == nil
}

// selective reports whether of an input only selections are taken.
func (n *node) selective(input int) bool {
	return input >= 0 && input < len(n.partial) && n.partial[input]
}

// entry reads an entry of the cache.
func (r *run) entry(n *node, key digest.Digest) (Entry, bool) {
	if r.opt.Cache == nil {
		return Entry{}, false
	}
	e, ok, err := r.opt.Cache.Get(key)
	if err != nil {
		r.warn(n, err)
	}
	if rec, remote := r.remote[key]; !ok && remote && rec.SameAs != "" {
		return Entry{SameAs: rec.SameAs, Step: n.step.Name}, true
	}
	return e, ok
}

// warn tells the user of something that fails nothing; n is nil if it concerns no
// step.
func (r *run) warn(n *node, err error) {
	w := event.Warning{Text: err.Error(), Time: r.opt.Now()}
	if n != nil {
		w.Step = n.step
	}
	r.opt.Sink.Emit(w)
}

// find looks a step's result up by its key. It is good for nothing unless what the
// step lies on is found as well: something may have made that anew, under the same
// key.
func (r *run) find(ctx context.Context, n *node) bool {
	if n.cached || n.sought {
		return n.cached
	}
	n.sought = true
	if n.noCache || n.unsure || n.keyErr != nil {
		return false
	}
	for i, in := range n.step.Inputs {
		if from := r.nodes[in.Step]; n.wholly(i) && len(from.entry.Snapshots) == 0 && !r.find(ctx, from) {
			return false
		}
	}
	return r.take(ctx, n, n.id)
}

// on are the results that a step takes as a whole.
func (r *run) on(n *node) (out []Snapshot) {
	for i, in := range n.step.Inputs {
		if n.wholly(i) {
			out = append(out, r.at(in))
		}
	}
	return out
}

// take takes what an entry speaks of as a step's result, if it is still there.
func (r *run) take(ctx context.Context, n *node, key digest.Digest) bool {
	if n.step.Image != nil || n.step.Local != nil {
		return false
	}
	const tries = 3 // somebody replaces it under our eyes
	for range tries {
		e, ok := r.entry(n, key)
		if !ok || len(e.Snapshots) != outputs(n.step) {
			return false
		}
		if !slices.Equal(e.On, r.on(n)) {
			n.astray = true
			return false
		}
		r.opt.Engine.Keep(e.Snapshots...)
		// A prune forgets an entry before it looks who keeps its snapshots. What is
		// still there after it was kept stays.
		if again, ok := r.entry(n, key); !ok || !slices.Equal(again.Snapshots, e.Snapshots) {
			continue
		}
		for _, s := range e.Snapshots {
			if !r.opt.Engine.Has(ctx, s) {
				n.lost = true
				return false
			}
		}
		n.entry, n.cached, n.id, n.unsure = e, true, key, false
		return true
	}
	return false
}

// outputs is how many results a step has.
func outputs(s *planner.Step) int {
	var n int64
	switch op := s.Op.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			n = max(n, m.Output+1)
		}
	case *pb.Op_File:
		for _, a := range op.File.Actions {
			n = max(n, a.Output+1)
		}
	default:
		n = 1
	}
	return int(n)
}

// takings lists what a step takes of other steps' outputs. Its inputs are at hand.
func (r *run) takings(n *node) (sels []selection, now []Taken) {
	all, _ := taken(n.step)
	for _, s := range all {
		if n.selective(s.input) {
			in := n.step.Inputs[s.input]
			sels = append(sels, s)
			now = append(now, Taken{Snapshot: r.nodes[in.Step].entry.Snapshots[in.Index]})
		}
	}
	return sels, now
}

// findAlike looks for a step that differs from this one in nothing but where it
// takes files from, and takes the same. What it finds out about contents is left
// in n.took, and the difference from the step that was done last in n.differs.
func (r *run) findAlike(ctx context.Context, n *node) (bool, error) {
	sels, now := r.takings(n)
	n.took, n.differs, n.compared = now, nil, false
	if len(now) == 0 || n.noCache || r.opt.Cache == nil {
		return false, nil
	}
	rest := n.key.rest(n.partial)
	for i, v := range r.opt.Cache.Variants(rest) {
		if len(v.Taken) != len(now) {
			continue
		}
		v.Taken = slices.Clone(v.Taken)
		differs, err := r.compare(ctx, sels, v.Taken, now, i == 0)
		if err != nil {
			return false, err
		}
		if i == 0 {
			n.differs, n.compared = differs, true
		}
		astray := n.astray
		if len(differs) > 0 || !r.take(ctx, n, v.Key) {
			n.astray = astray
			continue
		}
		known := n.entry
		if n.key.Digest != n.id {
			known = Entry{SameAs: n.id, Step: n.step.Name}
		}
		if known.Took = r.took(n); known.SameAs != "" || !slices.Equal(known.Took, n.entry.Took) {
			err = r.opt.Cache.Put(n.key.Digest, known)
		}
		// Back to the front, and with the contents that are known now.
		if err = errors.Join(err, r.opt.Cache.PutVariant(rest, v)); err != nil {
			r.warn(n, err)
		}
		return true, nil
	}
	return false, nil
}

// difference is a selection that has not the content that it had.
type difference struct {
	selection
	old, now digest.Digest // old is empty if it is not known any more
}

// compare says which selections differ, and notes the contents that it had to find
// out. Unless all are wanted it stops at the first.
func (r *run) compare(ctx context.Context, sels []selection, old, now []Taken, all bool) (out []difference, err error) {
	for i, s := range sels {
		if len(out) > 0 && !all {
			break
		}
		if old[i].Snapshot == now[i].Snapshot {
			continue
		}
		// Whatever goes wrong: they are not known to be the same. What was there is
		// gone, most likely, and what is wrong with what is there the step will say.
		err := r.content(ctx, s, &old[i])
		if err == nil {
			err = r.content(ctx, s, &now[i])
		}
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			out = append(out, difference{selection: s})
		case old[i].Content != now[i].Content:
			out = append(out, difference{selection: s, old: old[i].Content, now: now[i].Content})
		}
	}
	return out, nil
}

// content finds out what a selection's content is, unless that is known.
func (r *run) content(ctx context.Context, s selection, t *Taken) (err error) {
	if t.Content != "" {
		return nil
	}
	t.Content, err = s.digest(func() (digest.Digest, error) { return r.opt.Engine.Content(ctx, t.Snapshot, s.sel) })
	return err
}

// digest is what fn finds out of a selection, which may select nothing.
func (s selection) digest(fn func() (digest.Digest, error)) (digest.Digest, error) {
	d, err := fn()
	var none *source.NotFoundError
	if errors.As(err, &none) && none.Pattern && s.optional {
		return digest.FromString("nothing"), nil
	}
	return d, err
}

// lease makes this process the only one that does a step, among all that share
// the store; others wait for what it leaves. Nobody asks for a lease who has one,
// so they cannot wait for one another.
func (r *run) lease(ctx context.Context, n *node) (release func(), err error) {
	if n.noCache {
		return func() {}, nil // every process is to run it
	}
	release, ok := r.opt.Engine.Lease(n.key.Digest)
	if ok {
		return release, nil
	}
	r.opt.Sink.Emit(event.StepOutput{
		Step: n.step, Stream: 2, Data: []byte("another zbuild process is doing this step: waiting for its result\n"), Time: r.opt.Now(),
	})
	err = n.unit.idle(func() error {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-tick.C:
			}
			if release, ok = r.opt.Engine.Lease(n.key.Digest); ok {
				return nil
			}
		}
	})
	return release, err
}

// remember notes in the cache what a step has left.
func (r *run) remember(n *node) {
	if r.opt.Cache == nil || n.step.Image != nil {
		return
	}
	err := r.opt.Cache.Put(n.key.Digest, n.entry)
	if err == nil && len(n.took) > 0 {
		err = r.opt.Cache.PutVariant(n.key.rest(n.partial), Variant{Key: n.key.Digest, Taken: n.took})
	}
	if err != nil {
		r.warn(n, fmt.Errorf("%s is done, but will not be found again: %w", n.step.Name, err))
	}
}
