//go:build linux

package buildah

// File operations: COPY, ADD, WORKDIR and what else makes files without a
// process. The actions of one operation work in one layer for as long as each
// builds on the one before, which is nearly always.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	rootfs "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/solver/pb"
	fscopy "github.com/tonistiigi/fsutil/copy"

	"github.com/zbuild/zbuild/internal/source"
	"github.com/zbuild/zbuild/runner"
)

// fileJob runs the actions of one file operation.
type fileJob struct {
	e    *Engine
	ctx  context.Context
	refs []*fileRef // the operation's inputs, then what each action left
	uses []int      // how often each ref is still needed as a base
	// list lists what is selected of a build context, if it can.
	list func(context.Context, source.Tree, source.Selection) (*source.Listing, error)
	// unpacks says that an archive may be unpacked over what was copied before. One may
	// have a hard link to a file that is there, and give that another owner and mode: so
	// nothing that is there may be a file of another layer.
	unpacks bool
	fills   []*filling // that were done
	others  bool       // something was done to a layer after the first of them, and not by them
	views   []*view
	settle  func(exactly *source.Listing) error
}

// fileRef is a tree that an action may build on or read: an input, or a layer
// that an earlier action works in.
type fileRef struct {
	input runner.Input
	layer *stepLayer
	froze bool
}

func (e *Engine) doFile(ctx context.Context, op *pb.FileOp, job runner.Job) (out []runner.Snapshot, err error) {
	f := &fileJob{e: e, ctx: ctx, list: job.List, settle: func(l *source.Listing) error { return settled(ctx, job, l) }}
	for _, in := range job.Inputs {
		f.refs = append(f.refs, &fileRef{input: in})
	}
	defer f.close()
	f.uses = make([]int, len(f.refs)+len(op.Actions))
	outputs := 0
	for _, a := range op.Actions {
		f.unpacks = f.unpacks || len(op.Actions) > 1 && a.GetCopy().GetAttemptUnpackDockerCompatibility()
		if a.Input >= 0 {
			f.uses[a.Input]++
		}
		if a.SecondaryInput >= 0 {
			f.uses[a.SecondaryInput]++
		}
		outputs = max(outputs, int(a.Output)+1)
	}
	results := make([]*fileRef, outputs)
	for i, a := range op.Actions {
		ref, err := f.act(a)
		if err != nil {
			return nil, f.moved(err)
		}
		f.refs = append(f.refs, ref)
		if a.Output >= 0 {
			results[a.Output] = ref
			f.uses[len(job.Inputs)+i]++ // an output must stay as it is
		}
	}
	if err := f.settle(f.exactly()); err != nil {
		return nil, err
	}
	out = make([]runner.Snapshot, outputs)
	for i, r := range results {
		if r == nil {
			return nil, fmt.Errorf("the operation has no output %d", i)
		}
		if out[i], err = f.snapshot(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// close drops what is not finished and closes what was open.
func (f *fileJob) close() {
	for _, r := range f.refs {
		if r.layer != nil && !r.froze {
			r.layer.drop()
		}
	}
	for _, v := range f.views {
		v.close()
	}
}

// moved makes of an error that may come of files that changed while they were copied
// the one that says so, if they did.
func (f *fileJob) moved(err error) error {
	if source.Moved(err) {
		if changed := f.settle(nil); changed != nil {
			return changed
		}
	}
	return err
}

// act does one action and gives the tree that it left.
func (f *fileJob) act(a *pb.FileAction) (*fileRef, error) {
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	ref, err := f.base(int(a.Input))
	if err != nil {
		return nil, err
	}
	err = f.perform(ref, a)
	if err != nil && ref.layer != nil {
		ref.layer.drop()
	}
	return ref, err
}

func (f *fileJob) perform(ref *fileRef, a *pb.FileAction) error {
	if err := ref.layer.back(); err != nil {
		return err
	}
	if x, ok := a.Action.(*pb.FileAction_Copy); ok {
		return f.copy(ref.layer, x.Copy, int(a.SecondaryInput))
	}
	f.spoil(ref.layer)
	root := ref.layer.root
	switch x := a.Action.(type) {
	case *pb.FileAction_Mkdir:
		return f.mkdir(root, x.Mkdir)
	case *pb.FileAction_Mkfile:
		return f.mkfile(root, x.Mkfile)
	case *pb.FileAction_Rm:
		return remove(root, x.Rm)
	case *pb.FileAction_Symlink:
		return f.symlink(root, x.Symlink)
	}
	return fmt.Errorf("unknown file operation %T", a.Action)
}

// base gives a layer that the next action may write to, on top of ref i.
func (f *fileJob) base(i int) (*fileRef, error) {
	var parent runner.Snapshot
	if i >= 0 {
		r := f.refs[i]
		f.uses[i]--
		if r.layer != nil && !r.froze && f.uses[i] == 0 {
			return &fileRef{layer: r.layer}, nil // nobody else looks at it
		}
		if r.input.Local != nil {
			return nil, errors.New("a build context cannot be written to")
		}
		var err error
		if parent, err = f.snapshot(r); err != nil {
			return nil, err
		}
	}
	var marks map[string]any
	if slices.ContainsFunc(f.refs, func(r *fileRef) bool { return r.input.Local != nil }) {
		marks = map[string]any{contextFlag: true}
	}
	layer, err := f.e.newMarkedLayer(parent, marks)
	if err != nil {
		return nil, err
	}
	return &fileRef{layer: layer}, nil
}

func (f *fileJob) snapshot(r *fileRef) (runner.Snapshot, error) {
	if r.layer == nil {
		return r.input.Snapshot, nil
	}
	if !r.froze {
		s, err := r.layer.freeze()
		if err != nil {
			return "", err
		}
		r.froze = true
		f.remember(s)
	}
	return runner.Snapshot(r.layer.id), nil
}

// open gives the root of a tree to read from, until the operation has ended. The tree
// of a context has its ignore rules; that of a snapshot has none.
func (f *fileJob) open(i int) (source.Tree, error) {
	var s runner.Snapshot // FROM scratch has nothing in it
	if i >= 0 {
		r := f.refs[i]
		if r.input.Local != nil {
			return source.Tree{Dir: r.input.Local.Dir, Exclude: r.input.Local.Exclude}, nil
		}
		var err error
		if s, err = f.snapshot(r); err != nil {
			return source.Tree{}, err
		}
	}
	v, err := f.e.view(s)
	if err != nil {
		return source.Tree{}, err
	}
	f.views = append(f.views, v)
	return source.Tree{Dir: v.root}, nil
}

func (f *fileJob) mkdir(root string, a *pb.FileActionMkDir) error {
	owner, err := f.owner(a.Owner, root)
	if err != nil {
		return err
	}
	p, err := rootfs.RootPath(root, a.Path)
	if err != nil {
		return err
	}
	mode := os.FileMode(a.Mode).Perm()
	if a.MakeParents {
		_, err := fscopy.MkdirAll(p, mode, chowner(owner), timestamp(a.Timestamp))
		return hideRoots(err, root)
	}
	if err := os.Mkdir(p, mode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return hideRoots(err, root)
	}
	if err := os.Chmod(p, mode); err != nil { // whatever the umask has left of it
		return hideRoots(err, root)
	}
	if err := fscopy.Chown(p, nil, chowner(owner)); err != nil {
		return err
	}
	return fscopy.Utimes(p, timestamp(a.Timestamp))
}

// mkfile writes a file beside its place and renames it there, so that nothing
// that already has the name is ever written through.
func (f *fileJob) mkfile(root string, a *pb.FileActionMkFile) (err error) {
	owner, err := f.owner(a.Owner, root)
	if err != nil {
		return err
	}
	dir, base := path.Split(cleanPath(a.Path))
	if base == "" {
		return fmt.Errorf("%q is a directory", a.Path)
	}
	parent, err := rootfs.RootPath(root, dir)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(parent, ".zbuild-")
	if err != nil {
		return hideRoots(err, root)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
			err = hideRoots(err, root)
		}
	}()
	_, err = tmp.Write(a.Data)
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err = fscopy.Chown(tmp.Name(), nil, chowner(owner)); err != nil {
		return err
	}
	if err = os.Chmod(tmp.Name(), os.FileMode(a.Mode).Perm()); err != nil {
		return err
	}
	if err = fscopy.Utimes(tmp.Name(), timestamp(a.Timestamp)); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), filepath.Join(parent, base))
}

func (f *fileJob) symlink(root string, a *pb.FileActionSymlink) error {
	owner, err := f.owner(a.Owner, root)
	if err != nil {
		return err
	}
	dir, base := path.Split(cleanPath(a.Newpath))
	parent, err := rootfs.RootPath(root, dir)
	if err != nil {
		return err
	}
	p := filepath.Join(parent, base)
	if err := os.Symlink(a.Oldpath, p); err != nil {
		return hideRoots(err, root)
	}
	if err := fscopy.Chown(p, nil, chowner(owner)); err != nil {
		return err
	}
	return fscopy.Utimes(p, timestamp(a.Timestamp))
}

func remove(root string, a *pb.FileActionRm) error {
	matches := []string{cleanPath(a.Path)}
	if a.AllowWildcard {
		var err error
		if matches, err = fscopy.ResolveWildcards(root, cleanPath(a.Path), false); err != nil {
			return hideRoots(err, root)
		}
	}
	for _, m := range matches {
		dir, base := path.Split(cleanPath(m))
		if base == "" {
			return errors.New("the root directory cannot be removed")
		}
		parent, err := rootfs.RootPath(root, dir)
		if err != nil {
			return err
		}
		p := filepath.Join(parent, base)
		if !a.AllowNotFound {
			if _, err := os.Lstat(p); err != nil {
				return hideRoots(err, root)
			}
		}
		if err := os.RemoveAll(p); err != nil {
			return hideRoots(err, root)
		}
	}
	return nil
}

func needDir(root, dir string) error {
	p, err := rootfs.RootPath(root, dir)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(p); err != nil {
		return hideRoots(err, root)
	}
	return nil
}

// cleanPath keeps the slash at the end that says "into this directory".
func cleanPath(p string) string {
	c := path.Clean("/" + p)
	if c != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")) {
		c += "/"
	}
	return c
}

func timestamp(ns int64) *time.Time {
	if ns == -1 {
		return nil
	}
	t := time.Unix(ns/1e9, ns%1e9)
	return &t
}

// hideRoots takes the places where trees are mounted out of an error, so that
// its paths are those that the Dockerfile's author knows.
func hideRoots(err error, roots ...string) error {
	if err == nil {
		return nil
	}
	hide := func(p string) string {
		for _, r := range roots {
			if rest, ok := strings.CutPrefix(p, r); ok && (rest == "" || rest[0] == '/') {
				return "/" + strings.TrimPrefix(rest, "/")
			}
		}
		return p
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return &fs.PathError{Op: pe.Op, Path: hide(pe.Path), Err: pe.Err}
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		return &os.LinkError{Op: le.Op, Old: hide(le.Old), New: hide(le.New), Err: le.Err}
	}
	return err
}
