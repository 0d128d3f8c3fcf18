package planner

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/go-archive/compression"
	"github.com/tonistiigi/fsutil/types"

	"github.com/zbuild/zbuild/internal/remote"
)

// What a remote build context has in it is only read here to find the Dockerfile:
// the tree itself is a step like any other.

// remoteRef gives the frontend a look at a remote context: a repository, a
// file, or what an archive has in it.
func (r *run) remoteRef(ops []*pb.Op) (client.Reference, error) {
	var src *pb.SourceOp
	unpack := false
	for _, op := range ops {
		if s := op.GetSource(); s != nil {
			src = s
		}
		if f := op.GetFile(); f != nil {
			unpack = true
		}
	}
	if isRemote(src) {
		m, err := r.u.material(src)
		if err != nil {
			return nil, &remoteError{name: remote.Redact(m.Address), err: err}
		}
		r.read = append(r.read, m)
	}
	switch {
	case src == nil:
	case strings.HasPrefix(src.Identifier, gitScheme):
		read, err := r.u.readTree(src)
		if err != nil {
			return nil, err
		}
		return localFiles(r.u.entrypoint(read)), nil
	case isHTTP(src.Identifier):
		open, name, err := r.u.openFile(src)
		if err != nil {
			return nil, err
		}
		if unpack {
			return localFiles(r.u.entrypoint(func(name string) ([]byte, error) { return readArchive(open, name) })), nil
		}
		return &download{u: r.u, name: name, open: open}, nil
	}
	return nil, &unsupportedError{feature: "Planning from this kind of build context"}
}

// entrypoint reads the Dockerfile of a remote context. The frontend knows it by
// the name that locations carry.
func (u *unit) entrypoint(read func(string) ([]byte, error)) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if name != u.name {
			return read(name)
		}
		data, err := read(u.cfg.Dockerfile)
		if dir, base := path.Split(u.cfg.Dockerfile); errors.Is(err, fs.ErrNotExist) && base == dockerui.DefaultDockerfileName {
			data, err = read(dir + strings.ToLower(base))
		}
		if err != nil {
			return nil, &dockerfileError{err}
		}
		u.src = newSource(u.name, data)
		return data, nil
	}
}

// readArchive reads a file of a tar archive. A link in it is not followed.
func readArchive(open func() (io.ReadCloser, error), name string) ([]byte, error) {
	r, err := open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	want := path.Clean("/" + name)
	var found []byte
	for archive := tar.NewReader(plain); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if path.Clean("/"+h.Name) != want || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > maxFile {
			return nil, &fs.PathError{Op: "read", Path: name, Err: errTooLarge}
		}
		if found, err = io.ReadAll(archive); err != nil { // the last one counts
			return nil, err
		}
		if found == nil {
			found = []byte{}
		}
	}
	if found == nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return found, nil
}

// download is a tree of one file, which came from a URL.
type download struct {
	u    *unit
	name string
	open func() (io.ReadCloser, error)
}

// ReadFile reads the file, or a part of it. Whole, it is the Dockerfile.
func (d *download) ReadFile(_ context.Context, req client.ReadRequest) ([]byte, error) {
	if req.Filename != d.name {
		return nil, &fs.PathError{Op: "read", Path: req.Filename, Err: fs.ErrNotExist}
	}
	r, err := d.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if req.Range != nil && (req.Range.Offset > 0 || req.Range.Length < maxFile) {
		if _, err := io.CopyN(io.Discard, r, int64(req.Range.Offset)); err != nil {
			return nil, err
		}
		return io.ReadAll(io.LimitReader(r, int64(req.Range.Length)))
	}
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = &fs.PathError{Op: "read", Path: req.Filename, Err: errTooLarge}
	}
	if err != nil {
		return nil, err
	}
	d.u.entry = d.name
	d.u.src = newSource(d.u.name, data)
	return data, nil
}

// StatFile tells the size of the file, as far as it matters.
func (d *download) StatFile(_ context.Context, req client.StatRequest) (*types.Stat, error) {
	if req.Path != d.name {
		return nil, &fs.PathError{Op: "stat", Path: req.Path, Err: fs.ErrNotExist}
	}
	r, err := d.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(r, maxFile+1))
	return &types.Stat{Path: req.Path, Size: n, Mode: 0o644}, err
}

// ReadDir is not needed.
func (d *download) ReadDir(context.Context, client.ReadDirRequest) ([]*types.Stat, error) {
	return nil, errors.ErrUnsupported
}

// ToState is not needed.
func (d *download) ToState() (llb.State, error) { return llb.State{}, errors.ErrUnsupported }

// Evaluate does nothing: there is nothing to build.
func (d *download) Evaluate(context.Context) error { return nil }

// sourceMetadata looks at a remote source without reading its files.
func (r *run) sourceMetadata(src *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	u := r.u
	switch {
	case isHTTP(src.Identifier):
		want, err := remoteFile(src)
		if err != nil {
			return nil, err
		}
		f, err := u.remotes.file(want, u.cfg)
		if err != nil {
			return nil, &remoteError{name: remote.Redact(want.URL), err: err}
		}
		out := &sourceresolver.ResolveHTTPResponse{Digest: f.Digest, Filename: f.Name}
		if !f.Modified.IsZero() {
			out.LastModified = &f.Modified
		}
		return &sourceresolver.MetaResponse{Op: src, HTTP: out}, nil
	case strings.HasPrefix(src.Identifier, gitScheme):
		want, err := remoteTree(src)
		if err != nil {
			return nil, err
		}
		t, err := u.remotes.tree(want, u.cfg)
		if err != nil {
			return nil, &remoteError{name: remote.Redact(want.Remote), err: err}
		}
		out := &sourceresolver.ResolveGitResponse{Checksum: t.Object, Ref: t.Ref}
		if t.Commit != t.Object {
			out.CommitChecksum = t.Commit
		}
		if opt.GitOpt != nil && opt.GitOpt.ReturnObject {
			f, err := u.remotes.fetcher()
			if err != nil {
				return nil, err
			}
			if out.CommitObject, err = f.CommitObject(u.ctx, *t, u.remotes.auth(u.cfg)); err != nil {
				return nil, &remoteError{name: remote.Redact(t.Remote), err: err}
			}
		}
		return &sourceresolver.MetaResponse{Op: src, Git: out}, nil
	case strings.HasPrefix(src.Identifier, localScheme):
		return &sourceresolver.MetaResponse{Op: src}, nil // there is nothing to tell of a directory
	}
	return nil, &unsupportedError{feature: "Looking up the metadata of a " + src.Identifier}
}
