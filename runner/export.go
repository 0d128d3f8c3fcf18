package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/event"
	"github.com/zbuild/zbuild/planner"
)

// export is one result of a requested target on its way to becoming an image.
type export struct {
	target *planner.Target
	result *planner.Result
	wanted bool // an image is wanted, and not only that the steps run
	unit   *unit
	image  *Image
}

func (x *export) name() string {
	if len(x.target.Results) < 2 {
		return "exporting " + x.target.Name
	}
	return "exporting " + x.target.Name + " " + platforms.FormatAll(x.result.Platform)
}

// inputs are the steps whose results the image is made of.
func (x *export) inputs() []planner.Input {
	inputs := slices.Clone(x.result.Layers)
	if root := x.result.Root; root.Step != nil && root.Step.Image == nil && !slices.Contains(inputs, root) {
		inputs = append(inputs, root)
	}
	return inputs
}

func (r *run) exports() []*export {
	var out []*export
	for _, t := range r.plan.Targets {
		if !t.Requested {
			continue
		}
		for _, res := range t.Results {
			out = append(out, &export{target: t, result: res, wanted: wantsImage(t.Config)})
		}
	}
	return out
}

// wantsImage reports whether any output of a target is an image; without any
// output an image in the store is meant.
func wantsImage(t *config.Target) bool {
	if len(t.Outputs) == 0 {
		return true
	}
	return slices.ContainsFunc(t.Outputs, func(o config.Output) bool { return o.Type != "cacheonly" })
}

// names are what a target's image is to be called, and where it is to be pushed.
func names(t *config.Target) (tags, push []string) {
	tags = t.Tags
	for _, o := range t.Outputs {
		own := t.Tags
		if n := o.Attrs["name"]; n != "" {
			own = strings.Split(n, ",")
			tags = append(slices.Clone(tags), own...)
		}
		if o.Type == "registry" && o.Attrs["push"] != "false" || o.Attrs["push"] == "true" {
			push = append(push, own...)
		}
	}
	return unique(tags), unique(push)
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if s = strings.TrimSpace(s); s != "" && !slices.Contains(out, s) {
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

// commit makes the image of one result.
func (r *run) commit(ctx context.Context, x *export) error {
	format := x.target.Config.Format
	if format == "" {
		format = planner.FormatOCI
	}
	spec := ImageSpec{
		Base: x.result.Base, Config: x.result.Config, Platform: x.result.Platform,
		Format: format, Squash: x.target.Config.Squash,
	}
	for _, in := range x.result.Layers {
		e := r.nodes[in.Step].entry
		spec.Layers = append(spec.Layers, e.Snapshots[in.Index])
		created := e.Created
		if x.result.Epoch != nil {
			created = *x.result.Epoch
		}
		spec.Created = append(spec.Created, created)
	}
	return r.task("export:"+x.name(), x.name(), func() ([]string, error) {
		img, err := r.opt.Engine.Commit(ctx, spec)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("%s: %w", x.name(), err)
		}
		x.image = img
		return []string{"image " + img.ID.String()}, nil
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

// publish names the images of the targets that succeeded and pushes them. What
// one target is called is decided for all of its platforms together.
func (r *run) publish(ctx context.Context, result *Result, exports []*export) {
	byTarget := make(map[*planner.Target][]*export)
	for _, x := range exports {
		byTarget[x.target] = append(byTarget[x.target], x)
	}
	failed := len(result.Failures) > 0
	pushes := make(map[int][]string) // by index into result.Targets
	for _, t := range r.plan.Targets {
		if !t.Requested {
			continue
		}
		tr := TargetResult{Name: t.Name}
		complete := !slices.ContainsFunc(byTarget[t], func(x *export) bool { return x.unit.state != unitDone })
		if complete && (!failed || r.opt.KeepGoing) && wantsImage(t.Config) {
			var push []string
			var err error
			if push, err = r.name(ctx, t, byTarget[t], &tr); err != nil {
				result.Failures = append(result.Failures, err)
			}
			pushes[len(result.Targets)] = push
		}
		result.Targets = append(result.Targets, tr)
	}
	if len(result.Failures) > 0 || ctx.Err() != nil {
		return
	}
	for i := range result.Targets {
		for _, name := range pushes[i] {
			if err := r.push(ctx, &result.Targets[i], name); err != nil {
				result.Failures = append(result.Failures, err)
			}
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// name gives a target's image its tags and returns where it is to be pushed.
func (r *run) name(ctx context.Context, t *planner.Target, exports []*export, tr *TargetResult) ([]string, error) {
	tags, push := names(t.Config)
	err := r.task("name:"+t.Name, "naming "+t.Name, func() (notes []string, err error) {
		for try := 0; ; try++ {
			if notes, err = r.nameOnce(ctx, t, exports, tr, tags); try == maxVanished || ctx.Err() != nil || !errors.Is(err, ErrVanished) {
				return notes, err
			}
			// Somebody removed an image that had no name yet.
			for _, x := range exports {
				if err := r.commit(ctx, x); err != nil {
					return nil, err
				}
			}
		}
	})
	if err == nil && len(push) == 0 && wantsPush(t.Config) {
		r.opt.Sink.Emit(event.Warning{Text: t.Name + " has no tags, so there is nothing to push it as", Time: r.opt.Now()})
	}
	return push, err
}

func (r *run) nameOnce(ctx context.Context, t *planner.Target, exports []*export, tr *TargetResult, tags []string) ([]string, error) {
	tr.Image = exports[0].image
	tr.Platforms = nil
	if len(exports) > 1 {
		var images []*Image
		for _, x := range exports {
			images = append(images, x.image)
		}
		list, err := r.opt.Engine.Index(ctx, images, t.Config.Format)
		if err != nil {
			return nil, fmt.Errorf("%s: making the list of its images: %w", t.Name, err)
		}
		tr.Image, tr.Platforms = list, images
	}
	notes := []string{tr.Image.ID.String()}
	if len(tags) > 0 {
		if err := r.opt.Engine.Tag(ctx, tr.Image, tags); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		tr.Tags = tags
		notes = append(notes, tags...)
	}
	return notes, nil
}

func wantsPush(t *config.Target) bool {
	return slices.ContainsFunc(t.Outputs, func(o config.Output) bool {
		return o.Type == "registry" || o.Attrs["push"] == "true"
	})
}

func (r *run) push(ctx context.Context, tr *TargetResult, name string) error {
	return r.task("push:"+name, "pushing "+name, func() ([]string, error) {
		d, err := r.opt.Engine.Push(ctx, tr.Image, name)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("%s: %w", tr.Name, err)
		}
		tr.Pushed = append(tr.Pushed, name)
		tr.Digest = d
		return []string{name + "@" + d.String()}, nil
	})
}
