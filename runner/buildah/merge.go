//go:build linux

package buildah

// Merging puts the layers of trees on top of one another, as an image does: what
// is in a later one hides what is below, and a directory hides a link. A COPY
// --link is a tree of its own, merged with what it is copied to; so a new base
// takes nothing but new links to the same files.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/moby/buildkit/solver/pb"
	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/chrootarchive"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/runner"
)

// mergedFlag marks the layers of trees that were put on others. What is in one of those
// is in an image's layer whatever is below: that does not depend on the base.
const mergedFlag = "zbuild.merged"

func (e *Engine) doMerge(ctx context.Context, op *pb.MergeOp, job runner.Job) ([]runner.Snapshot, error) {
	var trees []runner.Snapshot
	for _, in := range op.Inputs {
		if in.Input < 0 || int(in.Input) >= len(job.Inputs) {
			return nil, errors.New("the operation has no such input")
		}
		if s := job.Inputs[in.Input].Snapshot; s != "" {
			trees = append(trees, s)
		}
	}
	if len(trees) == 0 {
		return []runner.Snapshot{""}, nil
	}
	layer, err := e.newMarkedLayer(trees[0], map[string]any{mergedFlag: true})
	if err != nil {
		return nil, err
	}
	defer layer.drop() // does nothing to one that was frozen
	var above []runner.Snapshot
	for _, t := range trees[1:] {
		chain, err := e.chain(t)
		if err != nil {
			return nil, err
		}
		above = append(above, chain...)
	}
	if len(above) == 1 && e.canStage("", above[0]) {
		return e.linkInto(layer, above[0])
	}
	for _, s := range above {
		if err := e.apply(ctx, s, layer.root); err != nil {
			return nil, hideRoots(err, layer.root)
		}
	}
	s, err := layer.freeze()
	return []runner.Snapshot{s}, err
}

// linkInto makes a fresh layer have what another has that lies on nothing. The
// files are the same ones.
func (e *Engine) linkInto(layer *stepLayer, s runner.Snapshot) ([]runner.Snapshot, error) {
	to, err := e.upperDir(layer.id)
	if err != nil {
		return nil, err
	}
	from, err := e.upperDir(string(s))
	if err != nil {
		return nil, err
	}
	out, err := layer.freezeAfter(func() error {
		// The root stays what it is below: an image's layer says nothing of it.
		var root syscall.Stat_t
		if err := syscall.Stat(to, &root); err != nil {
			return err
		}
		var made graphdriver.DriverWithDifferOutput
		if err := linkTree(from, to, &made); err != nil {
			return err
		}
		times := []unix.Timespec{unix.Timespec(root.Atim), unix.Timespec(root.Mtim)}
		return errors.Join(
			os.Lchown(to, int(root.Uid), int(root.Gid)), unix.Chmod(to, root.Mode&0o7777),
			unix.UtimesNanoAt(unix.AT_FDCWD, to, times, 0),
		)
	})
	return []runner.Snapshot{out}, err
}

// chain lists the layers of a tree, lowest first.
func (e *Engine) chain(s runner.Snapshot) ([]runner.Snapshot, error) {
	var out []runner.Snapshot
	for id := string(s); id != ""; {
		l, err := e.store.Layer(id)
		if err != nil {
			return nil, fmt.Errorf("reading the layers of a tree: %w", err)
		}
		out = append(out, runner.Snapshot(id))
		id = l.Parent
	}
	slices.Reverse(out)
	return out, nil
}

// apply puts what one layer changes into a mounted tree.
func (e *Engine) apply(ctx context.Context, s runner.Snapshot, root string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l, err := e.store.Layer(string(s))
	if err != nil {
		return err
	}
	tar, err := e.diff(ctx, runner.Snapshot(l.Parent), s)
	if err != nil {
		return err
	}
	_, err = chrootarchive.ApplyUncompressedLayer(root, tar, &archive.TarOptions{})
	return errors.Join(err, tar.Close())
}

// doDiff makes a tree of what one tree has and another has not. What the first one
// lacks is marked as removed, so that merging removes it.
func (e *Engine) doDiff(ctx context.Context, op *pb.DiffOp, job runner.Job) (out []runner.Snapshot, err error) {
	at := func(i int64) runner.Snapshot {
		if i < 0 || int(i) >= len(job.Inputs) {
			return ""
		}
		return job.Inputs[i].Snapshot
	}
	lower, upper := at(op.Lower.Input), at(op.Upper.Input)
	switch lower {
	case "":
		return []runner.Snapshot{upper}, nil
	case upper:
		return []runner.Snapshot{""}, nil
	}
	tar, err := e.diff(ctx, lower, upper)
	if err != nil {
		return nil, err
	}
	defer tar.Close()
	id := newID()
	if err := e.proc.begin(id); err != nil {
		return nil, err
	}
	opt := &storage.LayerOptions{Flags: map[string]any{stepFlag: true}}
	_, _, err = e.store.PutLayer(id, "", nil, "", true, opt, tar)
	if err == nil {
		err = e.finished(id)
	}
	if err != nil {
		if err2 := e.deleteLayer(id); err2 == nil || isGone(err2) {
			e.proc.end(id)
		}
		return nil, fmt.Errorf("making a layer of a difference: %w", err)
	}
	return []runner.Snapshot{runner.Snapshot(id)}, nil
}
