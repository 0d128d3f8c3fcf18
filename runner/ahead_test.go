package runner

import (
	"fmt"
	"testing"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/exporter"
	"github.com/zbuild/zbuild/planner"
)

// TestLayersAhead: the layers of results that are being made are made once for all
// images that have them, each after the one below, and all before the image; the
// topmost is the image's own business.
func TestLayersAhead(t *testing.T) {
	steps := make([]*planner.Step, 5)
	r := &run{nodes: make(map[*planner.Step]*node)}
	for i := range steps {
		steps[i] = &planner.Step{Name: fmt.Sprint(i)}
		r.nodes[steps[i]] = &node{unit: &unit{name: fmt.Sprint(i)}}
	}
	r.nodes[steps[0]].unit = nil // found in the cache
	image := []*outgoing{{spec: exporter.Spec{Type: exporter.Image}, toStore: true}}
	exporting := func(squash bool, outputs []*outgoing, numbers ...int) *export {
		x := &export{wanted: true, outputs: outputs, unit: &unit{}, target: &planner.Target{Config: &config.Target{Squash: squash}}, result: &planner.Result{}}
		for _, n := range numbers {
			x.result.Layers = append(x.result.Layers, planner.Input{Step: steps[n]})
		}
		return x
	}
	first, second := exporting(false, image, 0, 1, 2, 3), exporting(false, image, 0, 1, 2, 4)
	one, squashed, files := exporting(false, image, 1), exporting(true, image, 1, 2), exporting(false, []*outgoing{{}}, 1, 2)
	units := r.layersAhead([]*export{first, second, one, squashed, files})
	if len(units) != 2 {
		t.Fatalf("there are %d units", len(units))
	}
	for i, u := range units {
		if u.needs[0] != r.nodes[steps[i+1]].unit || i > 0 && u.needs[1] != units[i-1] {
			t.Errorf("unit %d needs %v", i, u.needs)
		}
	}
	for _, x := range []*export{first, second} {
		if n := x.unit.needs; len(n) != 1 || n[0] != units[1] {
			t.Errorf("an image waits for %v", n)
		}
	}
	for _, x := range []*export{one, squashed, files} {
		if n := x.unit.needs; len(n) != 0 {
			t.Errorf("an image waits for %v", n)
		}
	}
}
