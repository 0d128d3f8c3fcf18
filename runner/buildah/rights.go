//go:build linux

package buildah

// What a RUN may do and use beyond, or short of, the ordinary. That it may was
// settled when the plan was made.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/solver/llbsolver/cdidevices"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements/security"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/zbuild/zbuild/internal/sshagent"
	"github.com/zbuild/zbuild/planner"
)

// setRights gives the process the rights that the RUN asks for. Without
// --security=insecure they are the usual ones, with a filter of system calls.
func (x *execJob) setRights(ctx context.Context) error {
	if x.op.Security == pb.SecurityMode_INSECURE {
		if x.spec.Linux.Resources == nil {
			x.spec.Linux.Resources = &specs.LinuxResources{}
		}
		root := len(x.spec.Process.Capabilities.Effective) > 0
		x.spec.Process.Capabilities = &specs.LinuxCapabilities{}
		if err := security.WithInsecureSpec()(ctx, nil, nil, x.spec); err != nil {
			return err
		}
		if !root { // as for any process that is not root's; see setProcess
			x.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: x.spec.Process.Capabilities.Bounding}
		}
		for i := range x.spec.Mounts {
			if m := &x.spec.Mounts[i]; m.Destination == "/sys" || m.Destination == "/sys/fs/cgroup" {
				m.Options = withoutOption(m.Options, "ro")
			}
		}
	} else {
		setSeccomp(x.spec, x.e.x32())
	}
	if err := x.setDevices(); err != nil {
		return err
	}
	x.setLimits()
	return nil
}

func withoutOption(options []string, name string) []string {
	var out []string
	for _, o := range options {
		if o != name {
			out = append(out, o)
		}
	}
	return out
}

// setDevices adds the devices of --device, as the Container Device Interface
// describes them in /etc/cdi and /run/cdi.
func (x *execJob) setDevices() error {
	if len(x.op.CdiDevices) == 0 {
		return nil
	}
	manager, err := describedDevices()
	if err != nil {
		return err
	}
	if err := manager.InjectDevices(x.spec, x.op.CdiDevices...); err != nil {
		var names []string
		for _, d := range x.op.CdiDevices {
			names = append(names, d.Name)
		}
		return fmt.Errorf("the device %s: %w (devices are described in /etc/cdi and /run/cdi)", strings.Join(names, ", "), err)
	}
	return nil
}

// describedDevices are those that the machine has descriptions of.
func describedDevices(opt ...cdi.Option) (*cdidevices.Manager, error) {
	cache, err := cdi.NewCache(append(opt, cdi.WithAutoRefresh(false))...)
	if err != nil {
		return nil, fmt.Errorf("reading the descriptions of devices: %w", err)
	}
	return cdidevices.NewManager(cache, nil), nil
}

// Devices gives the devices of the machine that a name stands for. One is free if its
// description lets everybody use it.
func (e *Engine) Devices(name string) []planner.Device {
	manager, err := describedDevices()
	if err != nil {
		e.log.Warn("the devices of this machine are not known", "error", err)
		return nil
	}
	return devicesOf(manager, name)
}

func devicesOf(m *cdidevices.Manager, name string) []planner.Device {
	found, err := m.FindDevices(&pb.CDIDevice{Name: name, Optional: true})
	if err != nil {
		return nil
	}
	var out []planner.Device
	for _, d := range found {
		out = append(out, planner.Device{Name: d, Free: m.GetDevice(d).AutoAllow})
	}
	return out
}

// setLimits sets the limits of the target's resources, where there is a cgroup to
// set them in. Elsewhere the build goes on without, and says so.
func (x *execJob) setLimits() {
	limits := x.job.Step.Limits
	if limits == nil {
		return
	}
	if why := x.noLimits(); why != "" {
		x.e.log.Warn("the limits of resources are not set", "step", x.job.Step.Name, "why", why)
		return
	}
	r := x.spec.Linux.Resources
	if limits.Memory > 0 || limits.MemorySwap != 0 {
		r.Memory = &specs.LinuxMemory{}
		if limits.Memory > 0 {
			r.Memory.Limit = &limits.Memory
		}
		if limits.MemorySwap != 0 {
			r.Memory.Swap = &limits.MemorySwap
		}
	}
	cpu := &specs.LinuxCPU{Cpus: limits.CpusetCpus, Mems: limits.CpusetMems}
	if limits.CpuShares > 0 {
		cpu.Shares = &limits.CpuShares
	}
	if limits.CpuPeriod > 0 {
		cpu.Period = &limits.CpuPeriod
	}
	if limits.CpuQuota > 0 {
		cpu.Quota = &limits.CpuQuota
	}
	if *cpu != (specs.LinuxCPU{}) {
		r.CPU = cpu
	}
}

// noLimits says why no limits can be set; "" if they can.
func (x *execJob) noLimits() string {
	switch {
	case x.iso.kind == isolationChroot:
		return "the isolation chroot has no cgroups"
	case x.spec.Linux.Resources == nil || inUserNamespace():
		return "an ordinary user's builds have no cgroup of their own"
	}
	// Either the unified hierarchy, or that of each controller.
	for _, dir := range []string{"/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu"} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if unix.Access(filepath.Dir(dir), unix.W_OK) == nil {
			return ""
		}
	}
	return "cgroups are not mounted, or only to be read"
}

// sshMount serves an SSH agent on a socket for the RUN, and gives its place; "" for
// an optional one that nobody has.
func (x *execJob) sshMount(ctx context.Context, m *pb.Mount) (string, error) {
	opt := m.SSHOpt
	id := cmp.Or(opt.ID, "default")
	var agent *sshagent.Agent
	err := fs.ErrNotExist
	if x.job.Agent != nil {
		agent, err = x.job.Agent(id)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if opt.Optional {
			return "", nil
		}
		return "", fmt.Errorf("the SSH agent %q is required, and the target does not have it; declare it in the target: ssh = [\"%s\"] or [\"%s=PATH\"]", id, id, id)
	}
	if err != nil {
		return "", err
	}
	socket, stop, err := agent.Serve(ctx)
	if err != nil {
		return "", fmt.Errorf("serving the SSH agent %q: %w", id, err)
	}
	x.undo = append(x.undo, func() { _ = stop() }) // the next start removes what stays
	mode := os.FileMode(opt.Mode).Perm()
	return socket, errors.Join(os.Chown(socket, int(opt.Uid), int(opt.Gid)), os.Chmod(socket, mode))
}
