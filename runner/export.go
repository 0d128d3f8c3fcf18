package runner

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/internal/exporter"
	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/planner"
)

// export is one result of a requested target on its way out.
type export struct {
	target  *planner.Target
	result  *planner.Result
	outputs []*outgoing
	wanted  bool // something is to leave, and not only that the steps run
	unit    *unit
	image   *Image // in the store; nil if no output is an image there
	packed  map[imageShape]*pack.Image
}

// outgoing is one output of a target. All platforms of the target share it.
type outgoing struct {
	spec  exporter.Spec
	order int // among the target's outputs
	dest  string
	names []string
	// toStore says that it is an image in the store, packs that it leaves as blobs.
	toStore, packs bool
	bundle         *pack.Bundle
	// anew says that layers of a base image are compressed here, because they cannot
	// be had as they were.
	anew bool
}

// imageShape is what outputs may have different of the same image.
type imageShape struct {
	clamp bool
	own   bool // its epoch, and not the build's
	epoch time.Time
}

func (o *outgoing) shape() imageShape {
	s := imageShape{clamp: o.spec.Image.RewriteTimestamp}
	if e := o.spec.Image.Epoch; e != nil {
		s.own = true
		if e.Time != nil {
			s.epoch = *e.Time
		}
	}
	return s
}

func (x *export) name() string {
	if len(x.target.Results) < 2 {
		return "exporting " + x.target.Name
	}
	return "exporting " + x.target.Name + " " + platforms.FormatAll(x.result.Platform)
}

// inputs are the steps whose results leave. An image that is only a base has no
// tree of its own unless the tree is what leaves.
func (x *export) inputs() []planner.Input {
	inputs := slices.Clone(x.result.Layers)
	tree := slices.ContainsFunc(x.outputs, func(o *outgoing) bool { return o.spec.Type == exporter.Local || o.spec.Type == exporter.Tar })
	if root := x.result.Root; root.Step != nil && (tree || root.Step.Image == nil) && !slices.Contains(inputs, root) {
		inputs = append(inputs, root)
	}
	if x.result.SBOM.Step != nil {
		inputs = append(inputs, x.result.SBOM)
	}
	return inputs
}

func (r *run) exports() ([]*export, error) {
	var out []*export
	for _, t := range r.plan.Targets {
		if !t.Requested {
			continue
		}
		outputs, err := outgoings(t.Config)
		if err != nil {
			return nil, err
		}
		wanted := slices.ContainsFunc(outputs, func(o *outgoing) bool { return o.spec.Type != exporter.CacheOnly })
		for _, res := range t.Results {
			out = append(out, &export{target: t, result: res, outputs: outputs, wanted: wanted, packed: make(map[imageShape]*pack.Image)})
		}
	}
	return out, nil
}

// outgoings are the outputs of a target; without any, an image in the store is
// meant.
func outgoings(t *config.Target) ([]*outgoing, error) {
	all := t.Outputs
	if len(all) == 0 {
		all = []config.Output{{Type: exporter.Image}}
	}
	var out []*outgoing
	for _, o := range all {
		spec, err := exporter.Parse(o.Type, o.Attrs)
		if err != nil {
			return nil, fmt.Errorf("%s: output: %w", t.Name, err)
		}
		g := &outgoing{spec: spec, order: len(out), dest: o.Dest, names: unique(t.Tags), toStore: spec.ToStore(o.Dest)}
		if len(g.names) == 0 {
			g.names = unique(spec.Names)
		}
		switch spec.Type {
		case exporter.Image, exporter.Registry:
			g.packs = spec.Push
		case exporter.OCI:
			g.packs = true
		case exporter.Docker:
			g.packs = o.Dest != ""
		}
		out = append(out, g)
	}
	return out, nil
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// task brackets work that is no step with events.
func (r *run) task(id, name string, fn func() (notes []string, err error)) error {
	r.opt.Sink.Emit(event.TaskStarted{ID: id, Name: name, Time: r.opt.Now()})
	notes, err := fn()
	r.opt.Sink.Emit(event.TaskDone{ID: id, Err: err, Notes: notes, Time: r.opt.Now()})
	return err
}

// imageSpec says what the image of a result is made of, for one output: of its first
// layers, as many as there are of them.
func (r *run) imageSpec(x *export, o *outgoing, layers []planner.Input) ImageSpec {
	t := x.target.Config
	spec := ImageSpec{
		Base: x.result.Base, Config: x.result.Config, Platform: x.result.Platform,
		Format: cmp.Or(t.Format, planner.FormatOCI), Squash: t.Squash,
	}
	epoch := x.result.Epoch
	if o.spec.Image.Epoch != nil {
		epoch = o.spec.Image.Epoch.Time
	}
	if o.spec.Image.RewriteTimestamp {
		spec.Clamp = epoch
	}
	for _, a := range o.spec.Image.Annotations {
		if a.Type == exptypes.AnnotationManifest && (a.Platform == nil || platforms.FormatAll(*a.Platform) == platforms.FormatAll(x.result.Platform)) {
			if spec.Annotations == nil {
				spec.Annotations = make(map[string]string)
			}
			spec.Annotations[a.Key] = a.Value
		}
	}
	for _, in := range layers {
		e := r.nodes[in.Step].entry
		spec.Layers = append(spec.Layers, e.Snapshots[in.Index])
		created := e.Created
		if epoch != nil {
			created = *epoch
		}
		spec.Created = append(spec.Created, created)
	}
	return spec
}

// prepare does what can be done for one result by itself: it makes the image in
// the store and finds the digests of what leaves.
func (r *run) prepare(ctx context.Context, x *export) error {
	return r.task("export:"+x.name(), x.name(), func() (notes []string, err error) {
		for _, o := range x.outputs {
			spec := r.imageSpec(x, o, x.result.Layers)
			if o.toStore && x.image == nil {
				if x.image, err = r.opt.Engine.Commit(ctx, spec); err != nil {
					break
				}
				notes = append(notes, "image "+x.image.ID.String())
			}
			if shape := o.shape(); o.packs && x.packed[shape] == nil {
				if x.packed[shape], err = r.opt.Engine.Pack(ctx, spec); err != nil {
					break
				}
			}
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("%s: %w", x.name(), err)
		}
		return notes, nil
	})
}

// collect turns what became of the units into results and failures.
func (r *run) collect(result *Result, exports []*export) {
	for _, n := range r.order {
		if n.failure != nil {
			result.Failures = append(result.Failures, n.failure)
		}
		if n.step.Local != nil || n.step.Image != nil || n.keyErr != nil {
			continue
		}
		switch {
		case n.ran:
			result.Ran++
		case n.unit == nil || n.cached:
			result.Cached++
		}
	}
	for _, x := range exports {
		if x.unit != nil && x.unit.state == unitFailed {
			result.Failures = append(result.Failures, x.unit.err)
		}
	}
}
