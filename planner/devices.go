package planner

// Which of the devices that a RUN asks for it gets.

import (
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// devices leaves a RUN the devices that its target may have. Others are forbidden, unless
// the machine has none of that name, and the RUN can do without.
func (c *canonicalizer) devices(exec *pb.ExecOp, d *draft) error {
	var granted []*pb.CDIDevice
	for _, dev := range exec.CdiDevices {
		if name, ok := c.entitledDevice(dev.Name); ok {
			dev.Name = name
			granted = append(granted, dev)
			continue
		}
		there := c.devicesOf(dev.Name)
		switch {
		case len(there) > 0 && c.mayUse(there):
			granted = append(granted, dev)
		case len(there) > 0 || !dev.Optional:
			return c.forbidden(d, "RUN --device="+dev.Name, "device="+dev.Name)
		}
	}
	exec.CdiDevices = granted
	return nil
}

func (c *canonicalizer) devicesOf(name string) []Device {
	if c.r.u.opt.Devices == nil {
		return nil
	}
	return c.r.u.opt.Devices(c.r.u.ctx, name)
}

// mayUse reports whether the target is entitled to devices of the machine, by whatever
// name: an entitlement may be to a kind, of which it grants the first, or to a class.
func (c *canonicalizer) mayUse(devices []Device) bool {
	granted := map[string]bool{}
	for _, e := range c.r.u.cfg.Entitlements {
		if name, ok := strings.CutPrefix(e, "device="); ok && !strings.Contains(name, ",") {
			for _, d := range c.devicesOf(name) {
				granted[d.Name] = true
			}
		}
	}
	return !slices.ContainsFunc(devices, func(d Device) bool { return !d.Free && !granted[d.Name] })
}

// entitledDevice is the name of a device, given the one that a RUN has for it. ok says
// that the target is entitled to it.
func (c *canonicalizer) entitledDevice(name string) (_ string, ok bool) {
	for _, e := range c.r.u.cfg.Entitlements {
		key, value, named := strings.Cut(e, "=")
		if key != "device" {
			continue
		}
		if !named {
			return name, true
		}
		fields := strings.Split(value, ",")
		for _, f := range fields[1:] {
			if f == "alias="+name {
				return fields[0], true
			}
		}
		kind, all := strings.CutSuffix(fields[0], "=*")
		if of, _, _ := strings.Cut(name, "="); fields[0] == name || all && of == kind {
			return name, true
		}
	}
	return "", false
}
