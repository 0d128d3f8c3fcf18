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
		"none":                         {dockerfile: run},
		"one":                          {run, []string{"device=b.test/net=1"}, []string{"b.test/net=1"}},
		"all":                          {run, []string{"device"}, []string{"a.test/gpu=0", "b.test/net=1"}},
		"a kind":                       {run, []string{"device=a.test/gpu=*", "device=b.test/ne=*"}, []string{"a.test/gpu=0"}},
		"with alias":                   {"FROM alpine:3\nRUN --device=gpu,required true\n", []string{"device=a.test/gpu=7,alias=gpu"}, []string{"a.test/gpu=7"}},
		"the first of a kind, in full": {"FROM alpine:3\nRUN --device=there.test/net=0 true\n", []string{"device=there.test/net"}, []string{"there.test/net=0"}},
		"the first of a kind":          {"FROM alpine:3\nRUN --device=there.test/net true\n", []string{"device=there.test/net=0"}, []string{"there.test/net"}},
		"each of a kind":               {"FROM alpine:3\nRUN --device=there.test/net=* true\n", []string{"device=there.test/net=1", "device=there.test/net"}, []string{"there.test/net=*"}},
		"for all":                      {dockerfile: "FROM alpine:3\nRUN --device=free.test/net=0 true\n", want: []string{"free.test/net=0"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "-- Dockerfile --\n"+c.dockerfile)
			w.opt.Devices = machine
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

// machine has a device that everybody may use, and two of a kind that not everybody may.
func machine(_ context.Context, name string) []Device {
	switch name {
	case "free.test/net=0":
		return []Device{{Name: name, Free: true}}
	case "there.test/net", "there.test/net=0":
		return []Device{{Name: "there.test/net=0"}}
	case "there.test/net=1":
		return []Device{{Name: name}}
	case "there.test/net=*":
		return []Device{{Name: "there.test/net=0"}, {Name: "there.test/net=1"}}
	}
	return nil
}

// TestDeviceThere does not do without a device that the machine has, nor let a target
// have more of a kind than it is entitled to.
func TestDeviceThere(t *testing.T) {
	for name, entitlements := range map[string][]string{
		"there.test/net=0,required=false": nil,
		"there.test/net=1":                {"device=there.test/net"},
		"there.test/net=*":                {"device=there.test/net=1", "device=there.test/net=2"},
	} {
		w := newWorld(t, "-- Dockerfile --\nFROM alpine:3\nRUN --device="+name+" true\n")
		w.opt.Devices = machine
		w.target("app", func(t *config.Target) { t.Entitlements = entitlements })
		name, _, _ = strings.Cut(name, ",")
		if _, diags := w.build(); !strings.Contains(text(diags), "RUN --device="+name+" is not allowed") {
			t.Errorf("%s, which is there, is left out or allowed by %q:\n%s", name, entitlements, text(diags))
		}
	}
}
