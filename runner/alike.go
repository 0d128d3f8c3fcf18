package runner

// What lookup.go does for steps of this machine, for those of others: a cache says of
// a step that takes files of other steps what they were, so that a stage that has to be
// made again, and leaves the same files, makes nothing run that copies them.

import (
	"context"
	"errors"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"github.com/zbuild/zbuild/internal/stepcache"
)

// alikes are the records of imported caches by what is left of their steps' keys without
// what those take of others.
func alikes(found [][]remoteRecord) map[digest.Digest][]remoteRecord {
	out := make(map[digest.Digest][]remoteRecord)
	for _, records := range found {
		for _, rec := range records {
			if rec.Rest != "" && len(rec.Layers) > 0 {
				out[rec.Rest] = append(out[rec.Rest], rec)
			}
		}
	}
	return out
}

// fetchAlike gets a step's result from a cache that has one of a step which differs in
// nothing but where it takes files from, and took the same. The step's inputs are at
// hand.
func (r *run) fetchAlike(ctx context.Context, n *node) (bool, error) {
	if len(r.alike) == 0 || n.noCache || n.partial == nil {
		return false, nil
	}
	sels, now := r.takings(n)
	if len(n.took) == len(now) {
		now = n.took // some of which may have been digested
	}
	rest := n.key.rest(n.partial)
	for _, rec := range r.alike[rest] {
		if _, useless := r.useless.Load(rec.from); useless || len(rec.Taken) != len(now) {
			continue
		}
		same, err := r.tookWhat(ctx, sels, now, rec.Taken)
		if err != nil {
			return false, err
		}
		if !same {
			continue
		}
		found, err := r.unpack(ctx, n, rec)
		if errors.Is(err, errUseless) {
			continue // it has been said, and the step can run
		}
		if found {
			r.rememberAlike(n, rest, Variant{Key: rec.Key, Taken: now})
		}
		return found, err
	}
	return false, nil
}

// tookWhat reports whether selections have certain contents.
func (r *run) tookWhat(ctx context.Context, sels []selection, now []Taken, contents []digest.Digest) (bool, error) {
	for i, s := range sels {
		if err := r.content(ctx, s, &now[i]); err != nil {
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			return false, nil // what is wrong with it the step will say
		}
		if now[i].Content != contents[i] {
			return false, nil
		}
	}
	return true, nil
}

// rememberAlike notes whose result a step has.
func (r *run) rememberAlike(n *node, rest digest.Digest, v Variant) {
	if r.opt.Cache == nil {
		return
	}
	var err error
	if n.key.Digest != v.Key {
		err = r.opt.Cache.Put(n.key.Digest, Entry{SameAs: v.Key, Step: n.step.Name})
	}
	if err = errors.Join(err, r.opt.Cache.PutVariant(rest, v)); err != nil {
		r.warn(n, err)
	}
}

// describeTaken adds to a record what the step took of others, if all of it can be looked
// at.
func (r *run) describeTaken(ctx context.Context, n *node, rec *stepcache.Record) error {
	if n.partial == nil {
		return nil
	}
	all, _ := taken(n.step)
	all = slices.DeleteFunc(all, func(s selection) bool { return !n.selective(s.input) })
	contents := make([]digest.Digest, len(all))
	for i, s := range all {
		in := n.step.Inputs[s.input]
		from := r.nodes[in.Step]
		e := from.entry
		if in.Step.Image == nil { // which nobody fetches for that
			e, _ = r.result(ctx, from)
		}
		if in.Index >= len(e.Snapshots) {
			return nil
		}
		t := Taken{Snapshot: e.Snapshots[in.Index]}
		if len(n.took) == len(all) && n.took[i].Snapshot == t.Snapshot {
			t = n.took[i]
		}
		if err := r.content(ctx, s, &t); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return nil // it only spares work elsewhere
		}
		contents[i] = t.Content
	}
	rec.Rest, rec.Taken = n.key.rest(n.partial), contents
	return nil
}
