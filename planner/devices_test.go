package planner

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/zbuild/zbuild/config"
)

// TestDevices looks at which devices a RUN is left with: those that the target may have,
// by the names that they have on the machine. The others have to be optional.
func TestDevices(t *testing.T) {
	const run = "FROM alpine:3\nRUN --device=a.test/gpu=0,required=false --device=b.test/net=1,required=false true\n"
	for name, c := range map[string]struct {
		dockerfile   string
		entitlements []string
		want         []string
	}{
		"none":       {dockerfile: run},
		"one":        {run, []string{"device=b.test/net=1"}, []string{"b.test/net=1"}},
		"all":        {run, []string{"device"}, []string{"a.test/gpu=0", "b.test/net=1"}},
		"a kind":     {run, []string{"device=a.test/gpu=*", "device=b.test/ne=*"}, []string{"a.test/gpu=0"}},
		"with alias": {"FROM alpine:3\nRUN --device=gpu,required true\n", []string{"device=a.test/gpu=7,alias=gpu"}, []string{"a.test/gpu=7"}},
		"for all":    {dockerfile: "FROM alpine:3\nRUN --device=free.test/net=0 true\n", want: []string{"free.test/net=0"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "-- Dockerfile --\n"+c.dockerfile)
			w.opt.Device = machine
			w.target("app", func(t *config.Target) { t.Entitlements = c.entitlements })
			var got []string
			for _, d := range step(t, w.plan(), "RUN").Op.GetExec().CdiDevices {
				got = append(got, d.Name)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("the devices are %q, want %q", got, c.want)
			}
		})
	}
}

// machine has a device that everybody may use, and one that not everybody may.
func machine(_ context.Context, name string) (there, free bool) {
	return name == "free.test/net=0" || name == "there.test/net=0", name == "free.test/net=0"
}

// TestDeviceThere does not do without a device that the machine has.
func TestDeviceThere(t *testing.T) {
	w := newWorld(t, "-- Dockerfile --\nFROM alpine:3\nRUN --device=there.test/net=0 true\n")
	w.opt.Device = machine
	w.target("app")
	if _, diags := w.build(); !strings.Contains(text(diags), "RUN --device=there.test/net=0 is not allowed") {
		t.Errorf("the device is left out, and is there:\n%s", text(diags))
	}
}
