package runner

// What an image needs of a step's result is made as soon as that is there, while the
// next step runs: most chains of steps leave a core idle, and when the last one is
// done its own layer is all that is left to make. Images that share steps share this
// work, too.

import (
	"context"
	"slices"

	"github.com/zbuild/zbuild/planner"
)

// aheadKey says which layers are the same.
type aheadKey struct {
	below *unit // that of the layer below, nil if that is known already
	in    planner.Input
	base  *planner.BaseImage
	shape imageShape
}

// layersAhead makes the units that turn results of steps into layers of images, and
// has exports wait for them.
func (r *run) layersAhead(exports []*export) []*unit {
	var units []*unit
	known := make(map[aheadKey]*unit)
	for _, x := range exports {
		i := slices.IndexFunc(x.outputs, func(o *outgoing) bool { return o.toStore })
		if !x.wanted || i < 0 || x.target.Config.Squash || len(x.result.Layers) == 0 {
			continue
		}
		o := x.outputs[i]
		var below *unit
		// The last layer is the export's own business.
		for n, in := range x.result.Layers[:len(x.result.Layers)-1] {
			step := r.nodes[in.Step].unit
			if step == nil {
				continue // found in the cache, and so probably adopted before
			}
			key := aheadKey{below, in, x.result.Base, o.shape()}
			u := known[key]
			if u == nil {
				u = &unit{name: "layer of " + step.name, weight: 1, needs: []*unit{step}}
				layers := x.result.Layers[:n+1]
				u.do = func(ctx context.Context) error {
					if r.nodes[in.Step].ran {
						// Whoever makes the image finds out what is wrong, and says it.
						_ = r.opt.Engine.Adopt(ctx, r.imageSpec(x, o, layers))
					}
					return nil
				}
				if below != nil {
					u.needs = append(u.needs, below)
				}
				known[key] = u
				units = append(units, u)
			}
			below = u
		}
		if below != nil {
			x.unit.needs = append(x.unit.needs, below)
		}
	}
	return units
}
