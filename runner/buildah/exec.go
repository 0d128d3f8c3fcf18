//go:build linux

package buildah

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/runner"
)

// execJob is one RUN: the trees that it mounts, and what to undo after it.
type execJob struct {
	e      *Engine
	job    runner.Job
	op     *pb.ExecOp
	bundle string
	spec   *specs.Spec
	iso    isolation
	mounts []specs.Mount // those that the Dockerfile asks for
	layers []*stepLayer  // by output; nil where the output is only passed on
	passed []runner.Snapshot
	caches map[string]string // directories of cache mounts, by name
	undo   []func()
	// mounted is what a mount of a build context shows, if that is exactly what was
	// listed.
	mounted *source.Listing

	foreign error // why programs for the step's platform cannot be run here; nil if they can
}

func (e *Engine) doExec(ctx context.Context, op *pb.ExecOp, job runner.Job) (out []runner.Snapshot, err error) {
	x := &execJob{e: e, job: job, op: op, foreign: e.canRun(job.Step.Op.Platform)}
	e.finding.Go(func() { e.x32() }) // which is there when the layer is
	if x.iso, err = e.isolations.current(ctx); err != nil {
		return nil, err
	}
	if x.bundle, err = os.MkdirTemp(e.proc.path(bundlesName), ""); err != nil {
		return nil, err
	}
	defer func() {
		for i := len(x.undo) - 1; i >= 0; i-- {
			x.undo[i]()
		}
		for _, l := range x.layers {
			if l != nil {
				l.drop() // does nothing to those that were frozen
			}
		}
		if err2 := os.RemoveAll(x.bundle); err == nil {
			err = err2
		}
	}()
	root, err := x.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if err := settled(ctx, job, x.mounted); err != nil {
		return nil, err
	}
	if err := x.run(ctx, root); err != nil {
		return nil, err
	}
	for i, l := range x.layers {
		s := x.passed[i]
		if l != nil {
			if s, err = l.freeze(); err != nil {
				return nil, err
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// run describes the container and runs it, and takes the mount points away that
// it made for itself.
func (x *execJob) run(ctx context.Context, root string) error {
	net := networkHost
	if x.op.Network == pb.NetMode_NONE {
		net = networkNone
	}
	x.spec = baseSpec(inUserNamespace(), net)
	x.spec.Root.Path = root
	if err := setProcess(x.spec, x.op.Meta, x.job.Step.Proxy, root); err != nil {
		return err
	}
	if x.foreign != nil && !native(root, x.spec.Process) {
		return x.foreign
	}
	if err := x.setSecretEnv(); err != nil {
		return err
	}
	if err := x.setRights(ctx); err != nil {
		return err
	}
	if err := x.setNames(); err != nil {
		return err
	}
	// What the Dockerfile mounts somewhere is there instead of what is there always.
	x.spec.Mounts = slices.DeleteFunc(x.spec.Mounts, func(always specs.Mount) bool {
		return slices.ContainsFunc(x.mounts, func(m specs.Mount) bool { return m.Destination == always.Destination })
	})
	x.spec.Mounts = append(x.spec.Mounts, x.mounts...)
	var stubs []executor.Mount
	for _, m := range x.mounts {
		stubs = append(stubs, executor.Mount{Dest: m.Destination})
	}
	clean := executor.MountStubsCleaner(context.WithoutCancel(ctx), root, stubs, x.op.Meta.RemoveMountStubsRecursive)
	defer clean()
	if err := makeCwd(x.spec.Process, root); err != nil {
		return err
	}
	err := x.contain(ctx)
	var exit *runner.ExitError
	if errors.As(err, &exit) {
		for _, code := range x.op.Meta.ValidExitCodes {
			if int(code) == exit.Code {
				return nil
			}
		}
	}
	return err
}

// contain runs the container. If that fails and the runtime has not been seen to
// work, it is tried: one that does not work here cannot have run anything, and gives
// way to another.
func (x *execJob) contain(ctx context.Context) error {
	err := x.e.contain(ctx, x)
	if err == nil || x.iso.tried || ctx.Err() != nil || errors.Is(err, errReset) {
		return err
	}
	best, err2 := x.e.isolations.best(ctx)
	if err2 != nil {
		return err2
	}
	if best.runtime == x.iso.runtime {
		return err
	}
	if best.runtime != "" { // of a chroot the engine speaks
		x.e.log.Warn(fmt.Sprintf("%s does not work here, so RUN uses %s", x.iso.runtime, best.runtime), "error", err)
	}
	x.iso = best
	return x.e.contain(ctx, x)
}

// prepare makes every mount that the RUN asks for and gives the root's place.
func (x *execJob) prepare(ctx context.Context) (root string, err error) {
	outputs := 0
	for _, m := range x.op.Mounts {
		outputs = max(outputs, int(m.Output)+1)
	}
	if err := x.lockCaches(ctx); err != nil {
		return "", err
	}
	x.layers = make([]*stepLayer, outputs)
	x.passed = make([]runner.Snapshot, outputs)
	mounts := absoluteMounts(x.op)
	sort.SliceStable(mounts, func(i, j int) bool { return depth(mounts[i].Dest) < depth(mounts[j].Dest) })
	for _, m := range mounts {
		var src string
		switch m.MountType {
		case pb.MountType_BIND:
			src, err = x.bindMount(ctx, m)
			if err == nil && filepath.Clean(m.Dest) == "/" {
				root = src
				continue
			}
		case pb.MountType_CACHE:
			src, err = x.cacheMount(ctx, m)
		case pb.MountType_TMPFS:
			x.mounts = append(x.mounts, tmpfs(m))
			continue
		case pb.MountType_SECRET:
			src, err = x.secretMount(m)
			if src == "" && err == nil {
				continue // optional, and nobody has it
			}
		case pb.MountType_SSH:
			src, err = x.sshMount(ctx, m)
			if src == "" && err == nil {
				continue
			}
		default:
			err = fmt.Errorf("a mount of type %s is not available yet", strings.ToLower(m.MountType.String()))
		}
		if err != nil {
			return "", fmt.Errorf("mounting %s: %w", m.Dest, err)
		}
		x.mounts = append(x.mounts, bind(src, m.Dest, m.Readonly || m.MountType == pb.MountType_SECRET))
	}
	if root == "" {
		return "", errors.New("the step has no root file system")
	}
	return root, nil
}

func depth(p string) int { return strings.Count(strings.Trim(filepath.Clean(p), "/"), "/") }

// bindMount gives the place of a tree: the root, or what --mount=type=bind asks
// for. Changes to it are kept if it is an output, and dropped otherwise.
func (x *execJob) bindMount(ctx context.Context, m *pb.Mount) (string, error) {
	var in runner.Input
	if m.Input >= 0 {
		in = x.job.Inputs[m.Input]
	}
	if in.Local != nil {
		return x.localMount(ctx, m, in)
	}
	if m.Readonly {
		v, err := x.e.view(in.Snapshot)
		if err != nil {
			return "", err
		}
		x.undo = append(x.undo, v.close)
		if m.Output >= 0 {
			x.passed[m.Output] = in.Snapshot
		}
		return selected(v.root, m.Selector)
	}
	layer, err := x.e.newLayer(in.Snapshot)
	if err != nil {
		return "", err
	}
	if m.Output >= 0 {
		x.layers[m.Output] = layer
	} else {
		x.undo = append(x.undo, layer.drop)
	}
	return selected(layer.root, m.Selector)
}

// selected is the path of a selector in a tree, links resolved inside of it.
func selected(root, selector string) (string, error) {
	if selector == "" {
		return root, nil
	}
	p, err := rootfs.RootPath(root, selector)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(p); err != nil {
		return "", &source.NotFoundError{Path: selector}
	}
	return p, nil
}

func tmpfs(m *pb.Mount) specs.Mount {
	opts := []string{"nosuid", "mode=1777"}
	if m.TmpfsOpt != nil && m.TmpfsOpt.Size > 0 {
		opts = append(opts, fmt.Sprintf("size=%d", m.TmpfsOpt.Size))
	}
	return specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: filepath.Clean("/" + m.Dest), Options: opts}
}

// secretMount writes a secret to a file of the bundle, which lies in the run
// directory and goes when the RUN ends. It gives "" for an optional secret that
// nobody has.
func (x *execJob) secretMount(m *pb.Mount) (string, error) {
	opt := m.SecretOpt
	value, err := x.secret(opt.ID, opt.Optional)
	if err != nil || value == nil {
		return "", err
	}
	f, err := os.CreateTemp(x.bundle, "secret-")
	if err != nil {
		return "", err
	}
	_, err = f.Write(value)
	err = errors.Join(err, f.Chown(int(opt.Uid), int(opt.Gid)), f.Chmod(os.FileMode(opt.Mode).Perm()), f.Close())
	return f.Name(), err
}

func (x *execJob) setSecretEnv() error {
	for _, s := range x.op.Secretenv {
		value, err := x.secret(s.ID, s.Optional)
		if err != nil {
			return err
		}
		// An optional one that nobody has is empty, not absent.
		x.spec.Process.Env = append(x.spec.Process.Env, s.Name+"="+string(value))
	}
	return nil
}

// secret asks for a value; nil and no error for an optional one that is not there.
func (x *execJob) secret(id string, optional bool) ([]byte, error) {
	value, err := x.job.Secret(id)
	if errors.Is(err, fs.ErrNotExist) {
		if optional {
			return nil, nil
		}
		return nil, fmt.Errorf("secret %q is required, and the target does not have it; declare it in the target: secret = [\"id=%s,env=NAME\"] or [\"id=%s,src=FILE\"]", id, id, id)
	}
	if value == nil && err == nil {
		value = []byte{}
	}
	return value, err
}
