package runner

// File trees leave as BuildKit lets them leave: through fsutil, which walks a
// tree in order, and writes it without ever following a link out of its
// destination.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	continuityfs "github.com/containerd/continuity/fs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/util/staticfs"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"

	"github.com/zbuild/zbuild/internal/exporter"
)

// trees opens the file trees of a delivery, one per platform in a directory of
// its own if they are to be split.
func (r *run) trees(ctx context.Context, d *delivery, o *outgoing) (fsutil.FS, func(), error) {
	var closers []func()
	done := func() {
		for _, c := range closers {
			c()
		}
	}
	split := d.several()
	if o.spec.Tree.Split != nil && o.spec.Type == exporter.Local { // which BuildKit does not look at for a tar
		split = *o.spec.Tree.Split
	}
	var dirs []fsutil.Dir
	one := &union{owners: make(map[string]owner)}
	for _, x := range d.exports {
		tree, release, err := r.tree(ctx, x, o)
		if err != nil {
			done()
			return nil, nil, err
		}
		closers = append(closers, release)
		if tree, err = r.withAttestations(ctx, x, o, tree, split); err != nil {
			done()
			return nil, nil, err
		}
		platform := platforms.FormatAll(x.result.Platform)
		if split {
			stat := &fstypes.Stat{Mode: uint32(os.ModeDir | 0o755), Path: platformDir(platform)}
			if e := x.epoch(o); e != nil {
				stat.ModTime = e.UnixNano()
			}
			dirs = append(dirs, fsutil.Dir{FS: tree, Stat: stat})
			continue
		}
		if err := one.add(ctx, tree, platform, len(d.exports) > 1); err != nil {
			done()
			return nil, nil, err
		}
	}
	if split {
		tree, err := fsutil.SubDirFS(dirs)
		if err != nil {
			done()
			return nil, nil, err
		}
		return tree, done, nil
	}
	return one, done, nil
}

// platformDir is a platform as the name of a directory, as BuildKit has it.
func platformDir(platform string) string {
	return strings.NewReplacer("/", "_", `\`, "_", ":", "_").Replace(platform)
}

// union is the trees of several platforms as one, which have no file in common.
type union struct {
	fsutil.FS // what is walked
	owners    map[string]owner
}

// owner is the tree that has a file. Trees that are only merged are asked in turns,
// and one that lacks a file says so no earlier than when the file is read.
type owner struct {
	tree     fsutil.FS
	platform string
}

// Open is for fsutil.FS.
func (u *union) Open(p string) (io.ReadCloser, error) {
	if o, ok := u.owners[p]; ok {
		return o.tree.Open(p)
	}
	return u.FS.Open(p)
}

// add adds a tree. If there are others, it is an error that one of them has a file of
// the same name.
func (u *union) add(ctx context.Context, tree fsutil.FS, platform string, others bool) error {
	if u.FS == nil {
		u.FS = tree
	} else {
		u.FS = staticfs.NewMergeFS(u.FS, tree)
	}
	if !others {
		return nil
	}
	return tree.Walk(ctx, "", func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return nil
		}
		if other, ok := u.owners[p]; ok {
			return fmt.Errorf("%s is in the trees of %s and of %s; leave platform-split out to give each a directory", p, other.platform, platform)
		}
		u.owners[p] = owner{tree, platform}
		return nil
	})
}

// epoch is the time that a result's files get, nil for their own.
func (x *export) epoch(o *outgoing) *time.Time {
	if o.spec.Tree.Epoch != nil {
		return o.spec.Tree.Epoch.Time
	}
	return x.result.Epoch
}

// tree opens the file tree of one result.
func (r *run) tree(ctx context.Context, x *export, o *outgoing) (fsutil.FS, func(), error) {
	var s Snapshot
	if root := x.result.Root; root.Step != nil {
		s = r.nodes[root.Step].entry.Snapshots[root.Index]
	}
	dir, release, err := r.opt.Engine.View(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	root, err := continuityfs.RootPath(dir, o.spec.Tree.Source)
	var tree fsutil.FS
	if err == nil {
		tree, err = fsutil.NewFS(root)
	}
	if err != nil {
		release()
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err // the place of the mount says nothing
		}
		return nil, nil, fmt.Errorf("src=%s: %w", o.spec.Tree.Source, err)
	}
	if epoch := x.epoch(o); epoch != nil {
		tree, err = fsutil.NewFilterFS(tree, &fsutil.FilterOpt{Map: func(_ string, st *fstypes.Stat) fsutil.MapResult {
			st.ModTime = epoch.UnixNano()
			return fsutil.MapResultKeep
		}})
		if err != nil {
			release()
			return nil, nil, err
		}
	}
	return tree, release, nil
}

// writeTar writes the trees of a delivery as one tar.
func (r *run) writeTar(ctx context.Context, d *delivery, o *outgoing, w io.Writer) error {
	tree, done, err := r.trees(ctx, d, o)
	if err != nil {
		return err
	}
	defer done()
	return fsutil.WriteTar(ctx, tree, w)
}

// writeTree copies the trees of a delivery into a directory. Files belong to who
// runs the build.
func (r *run) writeTree(ctx context.Context, d *delivery, o *outgoing) error {
	tree, done, err := r.trees(ctx, d, o)
	if err != nil {
		return err
	}
	defer done()
	if err := os.MkdirAll(o.dest, 0o700); err != nil {
		return err
	}
	opened, err := os.OpenRoot(o.dest)
	if err != nil {
		return err
	}
	root := fsutil.NewRoot(opened)
	defer root.Close() //nolint:errcheck // a directory, only open
	uid, gid := os.Getuid(), os.Getgid()
	opt := fsutil.ReceiveOpt{Merge: true, Filter: func(_ string, st *fstypes.Stat) bool {
		st.Uid, st.Gid = uint32(max(uid, 0)), uint32(max(gid, 0)) // never negative
		return true
	}}
	if o.spec.Tree.Delete {
		if err := removeOthers(ctx, tree, opened); err != nil {
			return err
		}
	}
	return transfer(ctx, tree, root, opt)
}

// removeOthers removes what is in a directory and not in a tree. What fsutil removes
// by itself is too little where directories that go lie beside one another: it tries
// to remove what was in the second one once more, and fails.
func removeOthers(ctx context.Context, tree fsutil.FS, dest *os.Root) error {
	keep := make(map[string]bool)
	err := tree.Walk(ctx, "", func(p string, _ fs.DirEntry, err error) error {
		keep[filepath.ToSlash(p)] = true
		return err
	})
	if err != nil {
		return err
	}
	return fs.WalkDir(dest.FS(), ".", func(p string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // somebody else removed it
		}
		if err != nil || p == "." || keep[p] {
			return err
		}
		if err := dest.RemoveAll(filepath.FromSlash(p)); err != nil {
			return err
		}
		if entry.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// transfer lets fsutil's two halves talk to each other.
func transfer(ctx context.Context, tree fsutil.FS, dest fsutil.Root, opt fsutil.ReceiveOpt) error {
	g, gctx := errgroup.WithContext(ctx)
	sender, receiver := newStreams(gctx)
	g.Go(func() error {
		defer close(sender.out) // the other half waits for it
		return fsutil.Send(gctx, sender, tree, nil)
	})
	g.Go(func() error { return fsutil.ReceiveRoot(gctx, receiver, dest, opt) })
	return g.Wait()
}

// conn is one end of a connection within the process.
type conn struct {
	ctx context.Context // what fsutil asks for
	in  <-chan []byte
	out chan<- []byte
}

func newStreams(ctx context.Context) (a, b *conn) {
	const depth = 32
	there, back := make(chan []byte, depth), make(chan []byte, depth)
	return &conn{ctx: ctx, in: back, out: there}, &conn{ctx: ctx, in: there, out: back}
}

// Context is for fsutil.Stream.
func (s *conn) Context() context.Context { return s.ctx }

var errMessage = errors.New("not a packet of fsutil's")

// SendMsg is for fsutil.Stream. The packet may be used again at once.
func (s *conn) SendMsg(m any) error {
	p, ok := m.(*fstypes.Packet)
	if !ok {
		return errMessage
	}
	data, err := p.Marshal()
	if err != nil {
		return err
	}
	select {
	case s.out <- data:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// RecvMsg is for fsutil.Stream.
func (s *conn) RecvMsg(m any) error {
	p, ok := m.(*fstypes.Packet)
	if !ok {
		return errMessage
	}
	select {
	case data, ok := <-s.in:
		if !ok {
			return io.EOF
		}
		return p.Unmarshal(data)
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}
