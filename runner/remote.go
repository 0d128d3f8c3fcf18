package runner

// Results of steps that other machines left in caches. A cache's records are read
// before keys are made; its layers only when something needs the tree that they
// make up.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/internal/stepcache"
	"github.com/zbuild/zbuild/planner"
)

// remoteRecord is what a cache says of a step, and where it says so.
type remoteRecord struct {
	stepcache.Found
	from pack.Source
}

// importCaches reads the records of all caches that the targets name. A cache that
// cannot be read is not there.
func (r *run) importCaches(ctx context.Context) {
	var places []config.Cache
	seen := make(map[string]bool)
	for _, t := range r.plan.Targets {
		for _, c := range t.Config.CacheFrom {
			if id := cacheID(c); !seen[id] {
				seen[id] = true
				places = append(places, c)
			}
		}
	}
	if len(places) == 0 {
		return
	}
	found := make([][]remoteRecord, len(places))
	var g errgroup.Group
	g.SetLimit(pushesAtOnce)
	for i, c := range places {
		g.Go(func() error {
			name := cacheName(c)
			err := r.task("import:"+cacheID(c), "importing cache "+name, func() (notes []string, err error) {
				found[i], err = r.importCache(ctx, c)
				return []string{fmt.Sprintf("%d steps", len(found[i]))}, err
			})
			if err != nil && ctx.Err() == nil {
				r.warn(nil, fmt.Errorf("the cache %s cannot be used: %w", name, err))
			}
			return nil
		})
	}
	_ = g.Wait()
	r.alike = alikes(found)
	r.remote = make(map[digest.Digest]remoteRecord)
	for _, records := range found {
		for _, rec := range records {
			if _, ok := r.remote[rec.Key]; !ok { // the first one named wins
				r.remote[rec.Key] = rec
			}
		}
	}
}

// importCache reads the records of a cache. Of several objects those count that
// can be read, if there is one.
func (r *run) importCache(ctx context.Context, c config.Cache) ([]remoteRecord, error) {
	sources, err := r.openCache(ctx, c)
	if err != nil {
		return nil, err
	}
	var out []remoteRecord
	var errs []error
	for _, src := range sources {
		records, err := importSource(ctx, src)
		if err != nil {
			errs = append(errs, err)
		}
		out = append(out, records...)
	}
	if len(errs) < len(sources) {
		return out, nil
	}
	return nil, errors.Join(errs...)
}

func importSource(ctx context.Context, src pack.Source) ([]remoteRecord, error) {
	root, err := src.Manifest(ctx, "")
	if err != nil {
		return nil, err
	}
	manifests := [][]byte{root}
	var index ocispecs.Index
	if err := json.Unmarshal(root, &index); err != nil {
		return nil, fmt.Errorf("its manifest: %w", err)
	}
	for _, m := range index.Manifests {
		if err := stepcache.CheckType(m.MediaType); err != nil {
			return nil, err
		}
	}
	if len(index.Manifests) > 0 {
		manifests = nil
		for _, m := range index.Manifests {
			if m.Platform != nil && m.Platform.OS == "unknown" {
				continue
			}
			raw, err := src.Manifest(ctx, m.Digest)
			if err != nil {
				return nil, err
			}
			manifests = append(manifests, raw)
		}
	}
	var out []remoteRecord
	var errs []error
	for _, raw := range manifests {
		records, err := importManifest(ctx, src, raw)
		if err != nil {
			errs = append(errs, err)
		}
		out = append(out, records...)
	}
	if len(errs) < len(manifests) {
		return out, nil // one platform's image may have a cache, and another's none
	}
	return nil, errors.Join(errs...)
}

func importManifest(ctx context.Context, src pack.Source, raw []byte) ([]remoteRecord, error) {
	var m ocispecs.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("its manifest: %w", err)
	}
	if err := stepcache.CheckType(m.Config.MediaType); err != nil {
		return nil, err
	}
	config, err := pack.ReadBlob(ctx, src, m.Config, stepcache.MaxConfig)
	if err != nil {
		return nil, err
	}
	records, err := stepcache.Parse(m, config)
	if err != nil {
		return nil, err
	}
	var out []remoteRecord
	for _, f := range records {
		out = append(out, remoteRecord{Found: f, from: src})
	}
	return out, nil
}

// recorded looks for a step's result in the caches that were imported.
func (r *run) recorded(n *node) (remoteRecord, bool) {
	if len(r.remote) == 0 || n.noCache || n.unsure || n.step.Image != nil || n.step.Local != nil {
		return remoteRecord{}, false
	}
	rec, ok := r.remote[n.id]
	if ok && rec.SameAs != "" {
		rec, ok = r.remote[rec.SameAs]
	}
	if !ok || len(rec.Layers) != outputs(n.step) { // which no step of ours has left
		return remoteRecord{}, false
	}
	_, useless := r.useless.Load(rec.from)
	return rec, !useless
}

// fetchable says that a step's result can be had from a cache, and what is needed
// for that: the trees that its layers lie on.
func (r *run) fetchable(n *node) ([]*node, bool) {
	rec, ok := r.recorded(n)
	if !ok {
		return nil, false
	}
	var below []*node
	for i := range rec.Layers {
		if in := planner.Parent(planner.Input{Step: n.step, Index: i}); in.Step != nil {
			below = append(below, r.nodes[in.Step])
		}
	}
	return below, true
}

// errUseless says that a cache let a step down whose inputs are not at hand.
var errUseless = errors.New("a cache's result of this step cannot be used")

// fetch gets a step's result from a cache. If that fails the step has to run, for
// which its inputs have to be at hand: the run is taken up again.
func (r *run) fetch(ctx context.Context, n *node) (bool, error) {
	if rec, ok := r.recorded(n); ok {
		return r.unpack(ctx, n, rec)
	}
	return false, nil
}

// unpack makes what a cache has a step's result.
func (r *run) unpack(ctx context.Context, n *node, rec remoteRecord) (bool, error) {
	var snapshots []Snapshot
	for i, l := range rec.Layers {
		var below Snapshot
		if in := planner.Parent(planner.Input{Step: n.step, Index: i}); in.Step != nil {
			from := r.nodes[in.Step].entry.Snapshots
			if in.Index >= len(from) {
				return false, nil // it was not thought of; the step runs
			}
			below = from[in.Index]
		}
		s, err := r.opt.Engine.Unpack(ctx, below, pack.RemoteLayer(rec.from, l.Blob, l.DiffID, l.Size))
		if err != nil {
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			if _, known := r.useless.LoadOrStore(rec.from, true); !known {
				r.warn(n, fmt.Errorf("a cache cannot be used any further, and what it has is made here: %w", err))
			}
			return false, errors.Join(errUseless, r.opt.Engine.Discard(ctx, snapshots...))
		}
		snapshots = append(snapshots, s)
	}
	n.entry = Entry{Snapshots: snapshots, On: r.on(n), Created: rec.Created, Step: n.step.Name}
	n.cached, n.id, n.unsure = true, rec.Key, false
	if r.opt.Cache != nil {
		if err := r.opt.Cache.Put(rec.Key, n.entry); err != nil {
			r.warn(n, err)
		}
	}
	return true, nil
}

// letDown reports whether a step failed because of a cache, which has been said.
func (r *run) letDown() bool {
	return slices.ContainsFunc(r.order, func(n *node) bool { return n.failure != nil && errors.Is(n.failure.Err, errUseless) })
}

// exportCaches leaves the results of steps in the caches that the targets name. A
// place that several targets name gets the results of all of them.
func (r *run) exportCaches(ctx context.Context, deliveries []*delivery) []error {
	type place struct {
		config.Cache
		exports []*export
		max     map[*export]bool
	}
	var places []*place
	byID := make(map[string]*place)
	for _, d := range deliveries {
		for _, c := range d.target.Config.CacheTo {
			if c.Type == "inline" {
				continue // it leaves with the image
			}
			p := byID[cacheID(c)]
			if p == nil {
				p = &place{Cache: c, max: make(map[*export]bool)}
				byID[cacheID(c)] = p
				places = append(places, p)
			}
			for _, x := range d.exports {
				if !slices.Contains(p.exports, x) {
					p.exports = append(p.exports, x)
				}
				p.max[x] = p.max[x] || c.Max
			}
		}
	}
	errs := make([]error, len(places))
	var g errgroup.Group
	g.SetLimit(pushesAtOnce)
	for i, p := range places {
		g.Go(func() error {
			name := cacheName(p.Cache)
			err := r.task("cache:"+cacheID(p.Cache), "exporting cache to "+name, func() ([]string, error) {
				b := stepcache.NewBuilder[pack.Blob]()
				for _, x := range p.exports {
					if err := r.record(ctx, b, x, p.max[x], howOf(p.Cache)); err != nil {
						return nil, err
					}
				}
				return []string{fmt.Sprintf("%d steps", len(b.Config().Records))}, r.writeCache(ctx, p.Cache, b)
			})
			switch {
			case err == nil, ctx.Err() != nil: // that it was stopped is said once
			case isTrue(p.Attrs["ignore-error"]):
				r.warn(nil, fmt.Errorf("the cache %s was not written: %w", name, err))
			default:
				errs[i] = fmt.Errorf("exporting cache to %s: %w", name, err)
			}
			return nil //nolint:nilerr // one place that fails stops no other
		})
	}
	_ = g.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// howOf is how a cache's layers are to be compressed. Nobody mounts them from a registry,
// which is what eStargz is for.
func howOf(c config.Cache) pack.How {
	how := pack.How{Compression: c.Attrs["compression"], Level: -1}
	if how.Compression == pack.Estargz {
		how.Compression = pack.Gzip
	}
	if n, err := strconv.Atoi(c.Attrs["compression-level"]); err == nil {
		how.Level = n
	}
	return how
}

// record adds what is known of the steps of a result.
func (r *run) record(ctx context.Context, b *stepcache.Builder[pack.Blob], x *export, all bool, how pack.How) error {
	if !all {
		for _, in := range x.inputs() {
			if err := r.recordStep(ctx, b, r.nodes[in.Step], how); err != nil {
				return err
			}
		}
		return nil
	}
	seen := make(map[*node]bool)
	var visit func(n *node) error
	visit = func(n *node) error {
		if seen[n] {
			return nil
		}
		seen[n] = true
		for _, in := range n.step.Inputs {
			if err := visit(r.nodes[in.Step]); err != nil {
				return err
			}
		}
		return r.recordStep(ctx, b, n, how)
	}
	for _, in := range x.inputs() {
		if err := visit(r.nodes[in.Step]); err != nil {
			return err
		}
	}
	return nil
}

// recordStep adds a step's result: from this machine, or from the cache that it
// would be taken from, had anybody asked for it.
func (r *run) recordStep(ctx context.Context, b *stepcache.Builder[pack.Blob], n *node, how pack.How) error {
	if n.step.Image != nil || n.step.Local != nil || n.key.Digest == "" {
		return nil
	}
	if n.id != n.key.Digest {
		b.Add(stepcache.Record{Key: n.key.Digest, Step: n.step.Name, SameAs: n.id})
	}
	if b.Has(n.id) {
		return nil
	}
	rec := stepcache.Record{Key: n.id, Step: n.step.Name}
	e, ok := r.result(ctx, n)
	if !ok {
		remote, ok := r.recorded(n)
		if !ok {
			return nil // nobody knows any more: it is left out
		}
		rec.Created, rec.Rest, rec.Taken = remote.Created, remote.Rest, remote.Taken
		for _, l := range remote.Layers {
			i, err := b.Layer(l.Layer, func() (pack.Blob, error) { return pack.RemoteBlob(remote.from, l.Blob), nil })
			if err != nil {
				return err
			}
			rec.Outputs = append(rec.Outputs, i)
		}
		b.Add(rec)
		return nil
	}
	rec.Created = e.Created
	for i, s := range e.Snapshots {
		below, ok, err := r.below(ctx, planner.Parent(planner.Input{Step: n.step, Index: i}))
		if err != nil || !ok {
			return err
		}
		layer, err := r.opt.Engine.Layer(ctx, below, s)
		if err != nil {
			return err
		}
		index, err := b.Layer(stepcache.Layer{DiffID: layer.DiffID, Size: layer.Size}, func() (pack.Blob, error) {
			return r.opt.Compressor.Blob(ctx, layer, how)
		})
		if err != nil {
			return err
		}
		rec.Outputs = append(rec.Outputs, index)
	}
	if err := r.describeTaken(ctx, n, &rec); err != nil {
		return err
	}
	b.Add(rec)
	return nil
}

// result is what a step left on this machine, in this run or an earlier one.
func (r *run) result(ctx context.Context, n *node) (Entry, bool) {
	if len(n.entry.Snapshots) > 0 {
		return n.entry, true
	}
	e, ok := r.entry(n, n.id)
	if !ok || len(e.Snapshots) == 0 {
		return Entry{}, false
	}
	r.opt.Engine.Keep(e.Snapshots...)
	for _, s := range e.Snapshots {
		if !r.opt.Engine.Has(ctx, s) {
			return Entry{}, false
		}
	}
	return e, true
}

// below is the snapshot that a tree was made on, if it is still there.
func (r *run) below(ctx context.Context, in planner.Input) (Snapshot, bool, error) {
	if in.Step == nil {
		return "", true, nil
	}
	n := r.nodes[in.Step]
	if in.Step.Image != nil && len(n.entry.Snapshots) == 0 {
		// The snapshot on it is there, so it is as well.
		s, err := r.opt.Engine.Do(ctx, Job{Step: in.Step})
		if err != nil {
			return "", false, err
		}
		return s[in.Index], true, nil
	}
	e, ok := r.result(ctx, n)
	if !ok || in.Index >= len(e.Snapshots) {
		return "", false, nil
	}
	return e.Snapshots[in.Index], true, nil
}
