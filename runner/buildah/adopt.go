//go:build linux

package buildah

// A step's layer becomes an image's layer when an image needs it, and only then
// is it read: one pass makes the digest and the tar-split that lets the same tar
// be made again. The files themselves are hard links to the step's, so nothing is
// copied, and either of the two layers can go without the other.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/continuity/sysx"
	digest "github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	tarsplit "github.com/vbatts/tar-split/tar/storage"
	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/idtools"
	"go.podman.io/storage/pkg/ioutils"
	"golang.org/x/sys/unix"

	"github.com/zbuild/zbuild/internal/ctxio"
	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/internal/sealed"
	"github.com/zbuild/zbuild/runner"
)

// imageLayer is a layer of an image.
type imageLayer struct {
	ID     string        `json:"id"` // in the store
	DiffID digest.Digest `json:"diffID"`
	Size   int64         `json:"size"` // bytes of its tar, uncompressed
	// Plain says that files had extended attributes, which the layer is without.
	Plain bool `json:"plain,omitempty"`
}

// chainLayerID is the ID that containers/image gives a layer, which makes equal
// layers on equal parents one.
func chainLayerID(parent string, diffID digest.Digest) string {
	if parent == "" {
		return diffID.Encoded()
	}
	return digest.Canonical.FromString(parent + "+" + diffID.Encoded()).Encoded()
}

// adopt gives the image layer on top of parent that has what lies between the
// snapshots below and s, no file of it younger than clamp if that is set.
func (e *Engine) adopt(ctx context.Context, parent string, below, s runner.Snapshot, clamp *time.Time) (imageLayer, error) {
	if err := ctx.Err(); err != nil {
		return imageLayer{}, err
	}
	on := clampedOn(below, clamp)
	known, found := e.digested(on, s)
	if found {
		made := known.ID
		known.ID = chainLayerID(parent, known.DiffID)
		if e.hasLayer(known.ID) {
			return known, nil
		}
		if l, err := e.store.Layer(made); err == nil && l.Parent == parent && e.hasLayer(made) { // see vacate
			known.ID = made
			return known, nil
		}
	}
	var layer imageLayer
	var err error
	staged := clamp == nil && e.canStage(below, s)
	if staged {
		layer, err = e.adoptStaged(ctx, parent, below, s)
	}
	if !staged || errors.Is(err, errAttributes) {
		layer, err = e.adoptTar(ctx, parent, below, s, changes{clamp, e.attributed(below, s)})
	}
	if err != nil {
		return imageLayer{}, fmt.Errorf("making a layer of %s: %w", s, vanished(err))
	}
	e.noteDigest(on, s, layer)
	return layer, nil
}

// hasLayer reports whether an image's layer is in the store, with its files: another
// program that was stopped, or failed, while it removed one may have left the record
// of a layer whose files are gone.
func (e *Engine) hasLayer(id string) bool {
	if !e.store.Exists(id) {
		return false
	}
	dir, err := e.upperDir(id)
	if err == nil && dir != "" {
		_, err = os.Lstat(dir)
	}
	return !errors.Is(err, fs.ErrNotExist)
}

// vacate gives the ID that a layer can be made under which hasLayer has not found: its own,
// of which there may be a record without files. That is removed, for nothing could ever be
// built on it. If something is there that was built on it before, or an image of it, the
// layer gets another ID.
func (e *Engine) vacate(id string) (string, error) {
	if !e.store.Exists(id) {
		return id, nil
	}
	err := e.store.DeleteLayer(id)
	e.log.Debug("a layer without files", "layer", id, "deleting", err)
	switch {
	case err == nil, isGone(err):
		return id, nil
	case errors.Is(err, storage.ErrLayerHasChildren), errors.Is(err, storage.ErrLayerUsedByImage), errors.Is(err, storage.ErrLayerUsedByContainer):
		return newID(), nil
	}
	return "", err
}

// digested looks up what an earlier adoption found out about a snapshot.
func (e *Engine) digested(below, s runner.Snapshot) (imageLayer, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := below + "+" + s
	if l, ok := e.adopted[key]; ok {
		return l, true
	}
	var l imageLayer
	if _, err := sealed.Read(e.digestFile(below, s), &l); err != nil || l.DiffID.Validate() != nil {
		return l, false
	}
	e.adopted[key] = l
	return l, true
}

func (e *Engine) noteDigest(below, s runner.Snapshot, l imageLayer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.adopted[below+"+"+s] = l
	if err := sealed.Write(e.digestFile(below, s), l); err != nil {
		e.log.Debug("a layer's digest cannot be kept", "error", err)
	}
}

func (e *Engine) digestFile(below, s runner.Snapshot) string {
	return filepath.Join(e.StateDir(), notesName, string(s), "over-"+string(below)+".json")
}

// diff opens the tar of what lies between two snapshots. The store's own Diff
// holds its write lock for as long as the stream is open; the driver's does not. The
// stream ends when ctx does.
func (e *Engine) diff(ctx context.Context, below, s runner.Snapshot) (io.ReadCloser, error) {
	if e.unpacked(below, s) {
		return e.storedDiff(ctx, string(s))
	}
	tar, err := e.compared(below, s)
	if err != nil {
		return nil, err
	}
	return ctxio.NewReadCloser(ctx, tar), nil
}

// unpacked reports whether what lies between two snapshots was unpacked, and the
// store knows what of: the very same tar. Read from the files it would differ by the
// times of whiteouts.
func (e *Engine) unpacked(below, s runner.Snapshot) bool {
	l, err := e.store.Layer(string(s))
	return err == nil && l.UncompressedDigest != "" && l.Parent == string(below)
}

// compared opens the tar of what lies between two snapshots, made of their files. The
// driver makes it where it has a directory of just these. Otherwise that can only be told
// by comparing the trees: of one that does not lie right on the other, when an image is
// squashed, or with a driver that has no such directories. The driver would do the same,
// but it mounts the trees without the store's count of who has them mounted: then one who
// is done takes them away from another, who goes on reading an empty directory, in this
// process or in another.
func (e *Engine) compared(below, s runner.Snapshot) (io.ReadCloser, error) {
	if e.canStage(below, s) {
		driver, err := e.store.GraphDriver()
		if err != nil {
			return nil, err
		}
		return driver.Diff(string(s), nil, string(below), nil, "")
	}
	above, err := e.view(s)
	if err != nil {
		return nil, err
	}
	tar, err := e.exported(below, above.root)
	if err != nil {
		above.close()
		return nil, err
	}
	return ioutils.NewReadCloserWrapper(tar, func() error {
		defer above.close()
		return tar.Close()
	}), nil
}

func (e *Engine) exported(below runner.Snapshot, root string) (io.ReadCloser, error) {
	base, err := e.view(below)
	if err != nil {
		return nil, err
	}
	defer base.close()
	changes, err := archive.ChangesDirs(root, &idtools.IDMappings{}, base.root, &idtools.IDMappings{})
	if err != nil {
		return nil, err
	}
	files, err := changedFiles(root, changes)
	if err != nil {
		return nil, err
	}
	var tar io.ReadCloser
	if below == "" {
		tar, err = archive.TarWithOptions(root, &archive.TarOptions{Compression: archive.Uncompressed})
	} else {
		tar, err = archive.ExportChanges(root, changes, nil, nil)
	}
	if err != nil {
		return nil, err
	}
	return pack.Steady(tar, files), nil
}

// changedFiles lists the files of a tree that a tar of its changes has to have. The library
// leaves out what it cannot read.
func changedFiles(root string, changes []archive.Change) ([]string, error) {
	var files []string
	for _, c := range changes {
		if c.Kind == archive.ChangeDelete || c.Path == "/" {
			continue
		}
		info, err := os.Lstat(filepath.Join(root, c.Path))
		if err != nil {
			return nil, hideRoots(err, root)
		}
		if info.Mode()&fs.ModeSocket == 0 { // which no tar can have
			files = append(files, strings.TrimPrefix(c.Path, "/"))
		}
	}
	return files, nil
}

// canStage reports whether the difference is a directory that can be linked.
func (e *Engine) canStage(below, s runner.Snapshot) bool {
	if dir, err := e.upperDir(string(s)); err != nil || dir == "" {
		return false
	}
	layer, err := e.store.Layer(string(s))
	return err == nil && layer.Parent == string(below) && e.native
}

// adoptStaged makes a layer in a directory beside the snapshot's. The store has one
// for that, but podman and buildah empty it whenever they end, in the versions of
// Debian 12 and Ubuntu 24.04, whoever is at work there: then the layer lacks some of
// its files.
func (e *Engine) adoptStaged(ctx context.Context, parent string, below, s runner.Snapshot) (l imageLayer, err error) {
	lowers, err := e.lowerDirs(string(s))
	if err != nil {
		return l, err
	}
	tmp, done, err := e.proc.stage(filepath.Dir(lowers[0]))
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, done()) }()
	d := &linkStage{ctx: ctx, src: lowers[0], below: lowers[1:], tmp: tmp}
	if e.unpacked(below, s) {
		d.open = func() (io.ReadCloser, error) { return e.diff(ctx, below, s) }
	} else if d.skip, err = e.unchanged(below, s); err != nil {
		return imageLayer{}, err
	}
	out, err := d.fill()
	if out.TarSplit != nil {
		defer out.TarSplit.Close() // which the store has done, unless something failed before
	}
	if err != nil {
		return l, err
	}
	l = imageLayer{ID: chainLayerID(parent, out.UncompressedDigest), DiffID: out.UncompressedDigest, Size: out.Size}
	l.ID, err = e.place(l.ID, parent, &out)
	return l, err
}

// place makes a staged layer one of the store's, unless it has that already, and gives its
// ID, which is the one that it is to have if that can be. The
// store itself would then remove the files of the layer that is there and put the
// staged ones in their place, and whoever is killed in the middle of that leaves an
// image with half a layer. So no two look and apply at once, in whatever processes.
func (e *Engine) place(id, parent string, staged *graphdriver.DriverWithDifferOutput) (string, error) {
	lock, err := lockFile(e.StateDir(), unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if e.hasLayer(id) {
		return id, nil
	}
	if id, err = e.vacate(id); err != nil {
		return "", err
	}
	if err := e.durable.note(id); err != nil {
		return "", err
	}
	_, err = e.store.ApplyStagedLayer(storage.ApplyStagedLayerOptions{ID: id, ParentLayer: parent, DiffOutput: staged})
	// Another sync may have taken the note away meanwhile, that of an image made at the
	// same time: then this one's image would be recorded without one.
	return id, errors.Join(err, e.durable.note(id))
}

// adoptTar makes a layer the long way, through a tar stream, with any driver. The
// first pass finds the digest, for the layer's ID depends on it.
func (e *Engine) adoptTar(ctx context.Context, parent string, below, s runner.Snapshot, c changes) (imageLayer, error) {
	l, err := e.read(ctx, below, s, c)
	if err != nil {
		return imageLayer{}, err
	}
	l.ID = chainLayerID(parent, l.DiffID)
	if e.hasLayer(l.ID) {
		return l, nil
	}
	if l.ID, err = e.vacate(l.ID); err != nil {
		return imageLayer{}, err
	}
	tar, err := e.changed(ctx, below, s, c)
	if err != nil {
		return imageLayer{}, err
	}
	defer tar.Close()
	if err := e.durable.note(l.ID); err != nil {
		return imageLayer{}, err
	}
	layer, _, err := e.store.PutLayer(l.ID, parent, nil, "", false, &storage.LayerOptions{UncompressedDigest: l.DiffID}, tar)
	if errors.Is(err, storage.ErrDuplicateID) {
		return l, nil
	}
	// Another sync may have taken the note away while the layer was being written.
	if err = errors.Join(err, e.durable.note(l.ID)); err != nil {
		return imageLayer{}, err
	}
	if layer.UncompressedDigest != l.DiffID {
		return imageLayer{}, fmt.Errorf("the layer changed while it was read: %s became %s", l.DiffID, layer.UncompressedDigest)
	}
	return l, nil
}

// linkStage makes a layer by linking the files of a directory.
type linkStage struct {
	ctx   context.Context
	src   string                        // the directory
	below []string                      // the directories that it lies on
	tmp   string                        // where the layer is made
	skip  unchanged                     // what has no place in the layer
	open  func() (io.ReadCloser, error) // the same as a tar stream, if that cannot be made of the files
}

// fill makes the layer and says what the store has to know of it.
func (d *linkStage) fill() (graphdriver.DriverWithDifferOutput, error) {
	dest := filepath.Join(d.tmp, "dir")
	out := graphdriver.DriverWithDifferOutput{Target: dest}
	info, err := os.Lstat(d.src)
	if err != nil {
		return out, err
	}
	mode := info.Mode()
	out.RootDirMode = &mode
	if err := os.Mkdir(dest, 0o700); err != nil {
		return out, err
	}
	split, err := os.Create(filepath.Join(d.tmp, "tar-split"))
	if err != nil {
		return out, err
	}
	out.TarSplit = split
	if d.open == nil {
		l := &linkTar{ctx: d.ctx, src: d.src, dest: dest, skip: d.skip, convert: archive.GetWhiteoutConverter(archive.OverlayWhiteoutFormat, d.below)}
		err = l.run(split, &out)
		return out, err
	}
	var linked graphdriver.DriverWithDifferOutput
	linking := make(chan error, 1)
	go func() { linking <- linkTree(d.src, dest, &linked) }()
	err = d.digest(split, &out)
	err = errors.Join(<-linking, err)
	out.UIDs, out.GIDs = linked.UIDs, linked.GIDs
	return out, err
}

// digest reads the tar stream once, for everything that it tells.
func (d *linkStage) digest(split io.Writer, out *graphdriver.DriverWithDifferOutput) error {
	tar, err := d.open()
	if err != nil {
		return err
	}
	defer tar.Close()
	sum := digest.Canonical.Digester()
	in, done, err := asm.NewInputTarStreamWithDone(io.TeeReader(tar, sum.Hash()), tarsplit.NewJSONPacker(split), tarsplit.NewDiscardFilePutter())
	if err != nil {
		return err
	}
	out.Size, err = io.Copy(io.Discard, in)
	if err = errors.Join(err, in.Close(), <-done); err != nil {
		return err
	}
	out.UncompressedDigest = sum.Digest()
	return nil
}

// linkTree makes a second tree of the same files. Directories cannot be linked
// and are made anew; a whiteout is a device, and linked like any file.
func linkTree(src, dest string, out *graphdriver.DriverWithDifferOutput) error {
	uids, gids := map[uint32]bool{}, map[uint32]bool{}
	var dirs []madeDir
	err := filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("no owner is known of %s", p)
		}
		uids[st.Uid], gids[st.Gid] = true, true
		target := filepath.Join(dest, strings.TrimPrefix(p, src))
		if !d.IsDir() {
			return os.Link(p, target)
		}
		if p != src {
			if err := os.Mkdir(target, 0o700); err != nil {
				return err
			}
		}
		dirs = append(dirs, madeDir{target, st})
		return copyDirXattrs(p, target)
	})
	if err != nil {
		return err
	}
	out.UIDs, out.GIDs = slices.Sorted(maps.Keys(uids)), slices.Sorted(maps.Keys(gids))
	return finishDirs(dirs)
}

// finishDirs gives directories their owners, modes and times, innermost first:
// making files changes the times of their directory.
func finishDirs(dirs []madeDir) error {
	for _, d := range slices.Backward(dirs) {
		if err := os.Lchown(d.path, int(d.stat.Uid), int(d.stat.Gid)); err != nil {
			return err
		}
		if err := unix.Chmod(d.path, d.stat.Mode&0o7777); err != nil {
			return err
		}
		times := []unix.Timespec{unix.Timespec(d.stat.Atim), unix.Timespec(d.stat.Mtim)}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, d.path, times, 0); err != nil {
			return err
		}
	}
	return nil
}

// copyDirXattrs copies a directory's attributes, and of the overlay's own only
// the one that hides what lies below; the others speak of the directory that
// they are on.
func copyDirXattrs(src, dest string) error {
	names, err := sysx.LListxattr(src)
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.Contains(n, ".overlay.") && !strings.HasSuffix(n, ".overlay.opaque") {
			continue
		}
		value, err := sysx.LGetxattr(src, n)
		if err != nil {
			return err
		}
		if err := sysx.LSetxattr(dest, n, value, 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}
