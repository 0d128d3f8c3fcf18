package runner

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// justMade is how young a snapshot may be that no entry names without being taken
// for one that nobody will ever name: an entry is written after its snapshot.
const justMade = time.Minute

// PrunePolicy says what may go besides what is of no use to anybody: entries
// whose snapshots are gone, and snapshots that no entry leads to.
type PrunePolicy struct {
	// All gives up everything, cache mounts and what was fetched, too.
	All bool
	// OlderThan gives up steps, cache mounts and what was fetched that were not used for so
	// long; 0 gives up none. A step is used when one that builds on it is.
	OlderThan time.Duration
	// KeepSize gives up steps, the least recently used first, until their
	// snapshots take no more bytes than that; nil gives up none. Cache mounts and what
	// was fetched do not count.
	KeepSize *int64
}

// Pruning is what a policy comes to.
type Pruning struct {
	// Keys are the entries to forget.
	Keys []digest.Digest
	// Snapshots are to be discarded in this order: each before what it lies on.
	Snapshots []SnapshotInfo
	Mounts    []CacheMount
	Fetched   []Fetched
}

// Size is how many bytes are freed.
func (p *Pruning) Size() int64 {
	return (&Inventory{Snapshots: p.Snapshots, Mounts: p.Mounts, Fetched: p.Fetched}).Size()
}

// Decide says what is to go. It changes nothing.
func (p PrunePolicy) Decide(inv *Inventory, now time.Time) *Pruning {
	d := newDecision(inv, now)
	d.all = p.All
	for i, e := range inv.Steps {
		if e.Gone && !d.busy(i) {
			d.forget(i)
		}
	}
	for _, n := range d.order {
		d.drop(n)
	}
	limit, sized := int64(0), p.KeepSize != nil
	if sized {
		limit = *p.KeepSize
	}
	for _, i := range d.leastRecentlyUsed() {
		if d.busy(i) {
			continue
		}
		if p.outlived(d.used(i), now) || sized && d.size > limit {
			d.forget(i)
		}
	}
	for _, m := range inv.Mounts {
		if !m.InUse && p.outlived(d.past(m.LastUsed), now) {
			d.out.Mounts = append(d.out.Mounts, m)
		}
	}
	for _, f := range inv.Fetched {
		if p.outlived(d.past(f.LastUsed), now) {
			d.out.Fetched = append(d.out.Fetched, f)
		}
	}
	slices.Sort(d.out.Keys)
	return d.out
}

// outlived reports whether what was used last at a time goes whatever its size is.
func (p PrunePolicy) outlived(used, now time.Time) bool {
	return p.All || p.OlderThan > 0 && now.Sub(used) >= p.OlderThan
}

// decision is an inventory on its way to a Pruning.
type decision struct {
	inv   *Inventory
	now   time.Time
	all   bool  // even what was made just now
	size  int64 // of the snapshots that stay
	out   *Pruning
	nodes map[Snapshot]*pruneNode
	order []*pruneNode // as in the inventory
	gone  []bool       // entries that were forgotten, as in the inventory
}

// pruneNode is a snapshot, and what keeps it.
type pruneNode struct {
	SnapshotInfo
	parent   *pruneNode
	entries  int // that name it
	children int
	depth    int
	used     time.Time // it, or what lies on it
	dropped  bool
}

func newDecision(inv *Inventory, now time.Time) *decision {
	d := &decision{
		inv: inv, now: now, out: &Pruning{},
		nodes: make(map[Snapshot]*pruneNode, len(inv.Snapshots)), gone: make([]bool, len(inv.Steps)),
	}
	for _, s := range inv.Snapshots {
		n := &pruneNode{SnapshotInfo: s}
		d.nodes[s.ID] = n
		d.order = append(d.order, n)
		d.size += s.Size
	}
	for _, n := range d.order {
		if n.parent = d.nodes[n.Parent]; n.parent != nil {
			n.parent.children++
		}
	}
	for _, n := range d.order {
		for p := n.parent; p != nil; p = p.parent {
			n.depth++
		}
	}
	for _, n := range d.order {
		for p := n.parent; p != nil && n.Busy && !p.Busy; p = p.parent {
			p.Busy = true
		}
	}
	for _, e := range inv.Steps {
		for _, s := range e.Snapshots {
			if n := d.nodes[s]; n != nil {
				n.entries++
				n.touch(d.past(e.LastUsed))
			}
		}
	}
	return d
}

// past is a time that is not of the future, where a clock that was set back leaves
// things: they would never grow old there.
func (d *decision) past(t time.Time) time.Time {
	if t.After(d.now) {
		return d.now
	}
	return t
}

// busy reports whether a build uses an entry's snapshots.
func (d *decision) busy(i int) bool {
	return slices.ContainsFunc(d.inv.Steps[i].Snapshots, func(s Snapshot) bool { return d.nodes[s] != nil && d.nodes[s].Busy })
}

// touch notes a use of a snapshot, which is one of everything below it.
func (n *pruneNode) touch(t time.Time) {
	for ; n != nil && n.used.Before(t); n = n.parent {
		n.used = t
	}
}

// used is when an entry, or what builds on it, was used last.
func (d *decision) used(i int) time.Time {
	t := d.past(d.inv.Steps[i].LastUsed)
	for _, s := range d.inv.Steps[i].Snapshots {
		if n := d.nodes[s]; n != nil && n.used.After(t) {
			t = n.used
		}
	}
	return t
}

func (d *decision) depth(i int) int {
	depth := 0
	for _, s := range d.inv.Steps[i].Snapshots {
		if n := d.nodes[s]; n != nil {
			depth = max(depth, n.depth)
		}
	}
	return depth
}

// leastRecentlyUsed orders the entries: of those used at the same time, what lies
// on top first, for nothing is freed below it.
func (d *decision) leastRecentlyUsed() []int {
	order := make([]int, len(d.inv.Steps))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(d.used(a).Compare(d.used(b)), cmp.Compare(d.depth(b), d.depth(a)))
	})
	return order
}

// forget gives up an entry, and with it the snapshots that nothing else keeps.
func (d *decision) forget(i int) {
	if d.gone[i] {
		return
	}
	d.gone[i] = true
	d.out.Keys = append(d.out.Keys, d.inv.Steps[i].Key)
	for _, s := range d.inv.Steps[i].Snapshots {
		if n := d.nodes[s]; n != nil {
			n.entries--
			d.drop(n)
		}
	}
}

// drop gives up a snapshot if nothing keeps it, and then what it alone has kept.
func (d *decision) drop(n *pruneNode) {
	for ; n != nil; n = n.parent {
		if n.dropped || n.entries > 0 || n.children > 0 || n.Busy {
			return
		}
		named := !n.used.IsZero() // at some time: then it is not about to be named
		if !named && !d.all && d.now.Sub(n.Created).Abs() < justMade {
			return
		}
		n.dropped = true
		d.size -= n.Size
		d.out.Snapshots = append(d.out.Snapshots, n.SnapshotInfo)
		if n.parent != nil {
			n.parent.children--
		}
	}
}

// Prune removes from the cache what a policy allows and returns what it really
// removed: a build may use a snapshot, or a container. Builds go on meanwhile, and
// keep what they use. If another prune is at work it waits for that, after a call
// of waiting.
func Prune(ctx context.Context, cache *DirCache, store SnapshotStore, policy PrunePolicy, now time.Time, waiting func()) (*Pruning, error) {
	release, ok, err := store.Exclusive()
	for ; err == nil && !ok; release, ok, err = store.Exclusive() {
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err != nil {
		return nil, err
	}
	defer release()
	inv, err := TakeInventory(ctx, cache, store)
	if err != nil {
		return nil, err
	}
	return remove(ctx, cache, store, inv, policy.Decide(inv, now), now)
}

// remove does what was decided on. Entries go first: whatever stops us, none leads
// to a snapshot that is gone. Then builds are asked what they use, and that stays;
// a build, in turn, says what it uses before it makes sure that the entry is still
// there. So neither waits for the other, and nothing goes that is used.
func remove(ctx context.Context, cache *DirCache, store SnapshotStore, inv *Inventory, plan *Pruning, now time.Time) (*Pruning, error) {
	done := &Pruning{}
	was := make(map[digest.Digest][]Snapshot, len(inv.Steps))
	for _, e := range inv.Steps {
		was[e.Key] = e.Snapshots
	}
	for _, key := range plan.Keys {
		if e, _, err := readEntry(cache.file(key)); err == nil && !slices.Equal(e.Snapshots, was[key]) {
			continue // a build has just made it anew
		}
		if err := cache.Remove(key); err != nil {
			return done, err
		}
		done.Keys = append(done.Keys, key)
	}
	kept, err := store.Kept(ctx)
	if err != nil {
		return done, err
	}
	var errs []error
	for _, s := range plan.Snapshots {
		if ctx.Err() != nil {
			return done, context.Cause(ctx)
		}
		if kept[s.ID] {
			continue
		}
		errs = append(errs, store.Discard(ctx, s.ID))
		if !store.Has(ctx, s.ID) {
			done.Snapshots = append(done.Snapshots, s)
		}
	}
	for _, m := range plan.Mounts {
		if ctx.Err() != nil {
			return done, context.Cause(ctx)
		}
		removed, err := store.DiscardCacheMount(ctx, m.Name)
		if errs = append(errs, err); removed {
			done.Mounts = append(done.Mounts, m)
		}
	}
	for _, f := range plan.Fetched {
		if ctx.Err() != nil {
			return done, context.Cause(ctx)
		}
		removed, err := store.DiscardFetched(ctx, f)
		if errs = append(errs, err); removed {
			done.Fetched = append(done.Fetched, f)
		}
	}
	errs = append(errs, cache.tidy(now), store.Tidy(ctx))
	return done, errors.Join(errs...)
}
