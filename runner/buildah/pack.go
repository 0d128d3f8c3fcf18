//go:build linux

package buildah

// An image that leaves without being in the store first: its layers are read
// where they are, those of steps from the snapshots themselves.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/continuity/sysx"
	digest "github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/ctxio"
	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/runner"
)

// Pack gives what an image is made of.
func (e *Engine) Pack(ctx context.Context, spec runner.ImageSpec) (*pack.Image, error) {
	var layers []imageLayer
	out := &pack.Image{Platform: spec.Platform}
	var below runner.Snapshot
	if spec.Base != nil {
		var err error
		if below, err = e.base(ctx, spec.Base); err != nil {
			return nil, err
		}
		if layers, err = e.layersOf(spec.Base, string(below)); err != nil {
			return nil, err
		}
		origins := e.origins(spec.Base, len(layers))
		for i, l := range layers {
			layer := e.storedLayer(l)
			if origins != nil {
				layer.Origin = origins[i]
			}
			out.Layers = append(out.Layers, layer)
		}
	}
	for _, s := range ownLayers(spec) {
		l, err := e.digest(ctx, below, s, spec.Clamp)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
		out.Layers = append(out.Layers, e.stepLayer(below, s, l, spec.Clamp))
		below = s
	}
	var err error
	out.Config, _, err = imageConfig(spec, layers)
	return out, err
}

// storedLayer is a layer of an image in the store.
func (e *Engine) storedLayer(l imageLayer) pack.Layer {
	return pack.Layer{DiffID: l.DiffID, Size: l.Size, Open: func(ctx context.Context) (io.ReadCloser, error) { return e.storedDiff(ctx, l.ID) }}
}

// storedDiff opens the tar that a layer of the store was made of. The store is
// locked for as long as its stream is open, so that is not handed to somebody who
// compresses it. The stream ends when ctx does.
func (e *Engine) storedDiff(ctx context.Context, layer string) (io.ReadCloser, error) {
	plain := archive.Uncompressed
	tar, err := e.store.Diff("", layer, &storage.DiffOptions{Compression: &plain})
	if err != nil {
		return nil, fmt.Errorf("reading layer %s: %w", layer, err)
	}
	f, err := e.spool(ctxio.NewReader(ctx, tar))
	if err = errors.Join(err, tar.Close()); err != nil {
		return nil, err
	}
	return ctxio.NewReadCloser(ctx, f), nil
}

// stepLayer is a layer that a step made.
func (e *Engine) stepLayer(below, s runner.Snapshot, l imageLayer, clamp *time.Time) pack.Layer {
	return pack.Layer{DiffID: l.DiffID, Size: l.Size, Open: func(ctx context.Context) (io.ReadCloser, error) {
		return e.changed(ctx, below, s, changes{clamp, l.Plain})
	}}
}

// spool copies a stream to a file without a name.
func (e *Engine) spool(r io.Reader) (*os.File, error) {
	dir := filepath.Join(e.StateDir(), blobsName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, spoolPrefix)
	if err != nil {
		return nil, err
	}
	err = os.Remove(f.Name())
	if err == nil {
		_, err = io.Copy(f, r)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

const (
	blobsName   = "blobs"
	spoolPrefix = "layer-"
)

// changes are what is different in a layer from what a step left.
type changes struct {
	clamp *time.Time // no file is younger, if it is set
	plain bool       // files have no extended attributes
}

// changed opens the tar of what a step changed between two snapshots, with changes.
func (e *Engine) changed(ctx context.Context, below, s runner.Snapshot, c changes) (io.ReadCloser, error) {
	tar, err := e.own(ctx, below, s)
	if err != nil {
		return nil, err
	}
	if c.plain {
		tar = pack.Plain(tar)
	}
	if c.clamp != nil {
		tar = pack.Clamp(tar, *c.clamp)
	}
	return tar, nil
}

// own opens the tar of what lies between two snapshots without what is unchanged: the
// very same that a staged layer has.
func (e *Engine) own(ctx context.Context, below, s runner.Snapshot) (io.ReadCloser, error) {
	if e.unpacked(below, s) || !e.canStage(below, s) {
		return e.diff(ctx, below, s)
	}
	lowers, err := e.lowerDirs(string(s))
	if err != nil {
		return nil, err
	}
	skip, err := e.unchanged(below, s)
	if err != nil {
		return nil, err
	}
	return pack.Stream(func(w io.Writer) error {
		out := bufio.NewWriterSize(w, 256<<10)
		l := &linkTar{ctx: ctx, src: lowers[0], skip: skip, to: out, convert: archive.GetWhiteoutConverter(archive.OverlayWhiteoutFormat, lowers[1:])}
		return errors.Join(l.run(io.Discard, &graphdriver.DriverWithDifferOutput{}), out.Flush())
	}), nil
}

// errAttributes says that files of a layer have extended attributes that stay
// behind: they cannot be linked.
var errAttributes = errors.New("files have extended attributes")

// attributed reports whether files that lie between two snapshots may have
// extended attributes that no layer has. What was unpacked is left as it was.
func (e *Engine) attributed(below, s runner.Snapshot) bool {
	if e.unpacked(below, s) {
		return false
	}
	if !e.canStage(below, s) {
		return true // to find out is no cheaper than to go without
	}
	dir, err := e.upperDir(string(s))
	if err != nil {
		return true
	}
	err = filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return errIfAttributed(p)
	})
	return err != nil
}

// errIfAttributed is errAttributes for a file that has some, or might.
func errIfAttributed(p string) error {
	attributed, err := hasAttributes(p)
	if err != nil || attributed {
		return errors.Join(err, errAttributes)
	}
	return nil
}

// hasAttributes reports whether a file has extended attributes that would go into
// a tar, and that no layer has.
func hasAttributes(p string) (bool, error) {
	n, err := unix.Llistxattr(p, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "listxattr", Path: p, Err: err}
	}
	names, err := sysx.LListxattr(p)
	return slices.ContainsFunc(names, leftBehind), err
}

// inTar reports whether the store puts an extended attribute into a layer's tar.
func inTar(name string) bool {
	return name == "security.capability" || name == "security.ima" ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// leftBehind reports whether an extended attribute is not to be in an image's layer.
func leftBehind(name string) bool { return inTar(name) && !pack.InLayers(name) }

// digest finds out what a snapshot's layer is, without making one.
func (e *Engine) digest(ctx context.Context, below, s runner.Snapshot, clamp *time.Time) (imageLayer, error) {
	on := clampedOn(below, clamp)
	if known, ok := e.digested(on, s); ok {
		return known, nil
	}
	if err := ctx.Err(); err != nil {
		return imageLayer{}, err
	}
	l, err := e.read(ctx, below, s, changes{clamp, e.attributed(below, s)})
	if err != nil {
		return imageLayer{}, fmt.Errorf("reading %s: %w", s, err)
	}
	e.noteDigest(on, s, l)
	return l, nil
}

// read reads what a layer is made of once, for its digest and size. Which layer of the
// store it is, its ID, depends on what it will lie on.
func (e *Engine) read(ctx context.Context, below, s runner.Snapshot, c changes) (imageLayer, error) {
	tar, err := e.changed(ctx, below, s, c)
	if err != nil {
		return imageLayer{}, err
	}
	sum := digest.Canonical.Digester()
	size, err := io.Copy(sum.Hash(), tar)
	if err = errors.Join(err, tar.Close()); err != nil {
		return imageLayer{}, err
	}
	return imageLayer{DiffID: sum.Digest(), Size: size, Plain: c.plain}, nil
}

// clampedOn is what notes call the snapshot below: with other times a layer is
// another one.
func clampedOn(below runner.Snapshot, clamp *time.Time) runner.Snapshot {
	if clamp == nil {
		return below
	}
	return runner.Snapshot(fmt.Sprintf("%s@%d", below, clamp.Unix()))
}

// View mounts a snapshot for reading.
func (e *Engine) View(_ context.Context, s runner.Snapshot) (string, func(), error) {
	v, err := e.view(s)
	if err != nil {
		return "", nil, err
	}
	return v.root, v.close, nil
}
