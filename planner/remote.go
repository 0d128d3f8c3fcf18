package planner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/remote"
)

// What comes from a URL or a git repository is pinned by its content before
// anything else is looked at, as images are: whoever copies from it is keyed by
// what it copies, and not by a name that means something else tomorrow.

var errNoRemotes = errors.New("nothing can be fetched here")

// remotes resolves each remote source once per plan.
type remotes struct {
	ctx context.Context
	opt Options

	files memo[string, *remote.File]
	trees memo[string, *remote.Tree]
}

func newRemotes(ctx context.Context, opt Options) *remotes { return &remotes{ctx: ctx, opt: opt} }

func (r *remotes) fetcher() (*remote.Fetcher, error) {
	if r.opt.Remotes == nil {
		return nil, errNoRemotes
	}
	return r.opt.Remotes(r.ctx)
}

// file pins a file for a target, with the target's credentials.
func (r *remotes) file(want remote.File, t *config.Target) (*remote.File, error) {
	return r.files.get(fmt.Sprintf("%#v %v", want, t.Secrets), func() (*remote.File, error) {
		f, err := r.fetcher()
		if err != nil {
			return nil, err
		}
		return f.Resolve(r.ctx, want, r.auth(t))
	})
}

// tree pins a tree for a target, with the target's credentials.
func (r *remotes) tree(want remote.Tree, t *config.Target) (*remote.Tree, error) {
	return r.trees.get(fmt.Sprintf("%#v %v %v", want, t.Secrets, t.SSH), func() (*remote.Tree, error) {
		f, err := r.fetcher()
		if err != nil {
			return nil, err
		}
		return f.ResolveTree(r.ctx, want, r.auth(t))
	})
}

// auth are the credentials of a target.
func (r *remotes) auth(t *config.Target) remote.Auth {
	return remote.Auth{
		Secret: func(id string) ([]byte, error) {
			s, ok := t.Secrets[id]
			if !ok || r.opt.Secret == nil {
				return nil, fs.ErrNotExist
			}
			return r.opt.Secret(s)
		},
		Agent: func(ctx context.Context, id string) (string, func(), error) {
			s, ok := t.SSH[id]
			if !ok || r.opt.Agent == nil {
				return "", nil, fs.ErrNotExist
			}
			return r.opt.Agent(ctx, s)
		},
	}
}

// remoteError is something remote that could not be had.
type remoteError struct {
	name string // as it is written, without credentials
	err  error
	at   *hcl.Range // nil if nobody knows
}

func (e *remoteError) Error() string { return e.name + ": " + e.err.Error() }
func (e *remoteError) Unwrap() error { return e.err }

// remoteErrors are all that one conversion did not get.
type remoteErrors []*remoteError

func (e remoteErrors) Error() string { return e[0].Error() }

// The schemes of remote sources.
const (
	gitScheme   = "git://"
	httpScheme  = "http://"
	httpsScheme = "https://"
)

func isHTTP(id string) bool {
	return strings.HasPrefix(id, httpScheme) || strings.HasPrefix(id, httpsScheme)
}

// remoteFile reads an HTTP source of LLB.
func remoteFile(src *pb.SourceOp) (remote.File, error) {
	f := remote.File{URL: src.Identifier, Mode: 0o600, Header: make(map[string]string)}
	number := func(s string) int {
		n, err := strconv.ParseInt(s, 0, 32)
		if err != nil {
			return 0
		}
		return int(n)
	}
	for k, v := range src.Attrs {
		switch k {
		case pb.AttrHTTPChecksum:
			f.Digest = digest.Digest(v)
		case pb.AttrHTTPFilename:
			f.Name = v
		case pb.AttrHTTPPerm:
			f.Mode = uint32(number(v)) & 0o7777
		case pb.AttrHTTPUID:
			f.UID = number(v)
		case pb.AttrHTTPGID:
			f.GID = number(v)
		case pb.AttrHTTPAuthHeaderSecret:
			f.AuthSecret = v
		case pb.AttrHTTPSignatureVerify, pb.AttrHTTPSignatureVerifyPubKey:
			return f, &unsupportedError{feature: "Checking the signature of a download"}
		default:
			if name, ok := strings.CutPrefix(k, pb.AttrHTTPHeaderPrefix); ok {
				f.Header[name] = v
			}
		}
	}
	return f, nil
}

// remoteTree reads a git source of LLB. Its identifier has the host and the path,
// an attribute the address that somebody wrote.
func remoteTree(src *pb.SourceOp) (remote.Tree, error) {
	id := strings.TrimPrefix(src.Identifier, gitScheme)
	address, fragment, _ := strings.Cut(id, "#")
	t := remote.Tree{Remote: "https://" + address}
	t.Ref, t.Subdir, _ = strings.Cut(fragment, ":")
	for k, v := range src.Attrs {
		switch k {
		case pb.AttrFullRemoteURL:
			t.Remote = v
		case pb.AttrKeepGitDir:
			t.KeepGitDir = v == "true"
		case pb.AttrGitChecksum:
			t.Checksum = v
		case pb.AttrGitSkipSubmodules:
			t.SkipSubmodules = v == "true"
		case pb.AttrGitMTime:
			t.CommitTime = v == "commit"
		case pb.AttrGitFetchByCommit:
			t.FetchByCommit = v == "true"
		case pb.AttrAuthHeaderSecret:
			t.AuthHeader = v
		case pb.AttrAuthTokenSecret:
			t.AuthToken = v
		case pb.AttrMountSSHSock:
			t.SSH = v
		case pb.AttrKnownSSHHosts:
			t.KnownHosts = v
		case pb.AttrGitBundle, pb.AttrGitCheckoutBundle, pb.AttrGitSignatureVerifyPubKey:
			return t, &unsupportedError{feature: "The attribute " + k + " of a git repository"}
		}
	}
	return t, nil
}

// resolveRemotes pins all remote sources of a definition at once, for a server may
// take its time.
func (c *canonicalizer) resolveRemotes(ops []*pb.Op, ids []string) error {
	u := c.r.u
	var g errgroup.Group
	g.SetLimit(8)
	problems := make([]*remoteError, len(ops))
	for i, op := range ops {
		src := op.GetSource()
		if !isRemote(src) {
			continue
		}
		g.Go(func() error {
			var err error
			name := remote.Redact(src.Identifier)
			if isHTTP(src.Identifier) {
				var f remote.File
				if f, err = remoteFile(src); err == nil {
					_, err = u.remotes.file(f, u.cfg)
				}
			} else {
				var t remote.Tree
				if t, err = remoteTree(src); err == nil {
					name = remote.Redact(t.Remote)
					_, err = u.remotes.tree(t, u.cfg)
				}
			}
			if err != nil {
				problems[i] = &remoteError{name: name, err: err}
				if lines := c.lines[ids[i]]; len(lines) > 0 {
					problems[i].at = u.src.lines(lines[0].first, lines[0].last)
				}
			}
			return nil
		})
	}
	_ = g.Wait()
	var all remoteErrors
	for _, p := range problems {
		if p != nil {
			all = append(all, p)
		}
	}
	if len(all) > 0 {
		return all
	}
	return nil
}

// canonicalRemote names a remote source by what it is: the digest of a file, the
// hash of a commit. Credentials and what else does not change it stay behind.
func (c *canonicalizer) canonicalRemote(d *draft) error {
	src := d.op.GetSource()
	if !isRemote(src) {
		return nil
	}
	m, err := c.r.u.material(src)
	if err != nil {
		return err
	}
	d.asked, d.file, d.tree = m.Address, m.File, m.Tree
	if f := m.File; f != nil {
		d.name = "fetch " + withoutUser(f.URL)
		d.op.Op = &pb.Op_Source{Source: canonicalFile(f)}
		return nil
	}
	d.name = "fetch " + remote.Redact(m.Tree.Remote) + " " + m.Tree.Commit[:12]
	d.op.Op = &pb.Op_Source{Source: canonicalTree(m.Tree, strings.TrimPrefix(src.Identifier, gitScheme))}
	return nil
}

func canonicalFile(f *remote.File) *pb.SourceOp {
	attrs := map[string]string{
		pb.AttrHTTPChecksum: f.Digest.String(), pb.AttrHTTPFilename: f.Name, pb.AttrHTTPPerm: "0" + strconv.FormatUint(uint64(f.Mode), 8),
	}
	if f.UID != 0 || f.GID != 0 {
		attrs[pb.AttrHTTPUID], attrs[pb.AttrHTTPGID] = strconv.Itoa(f.UID), strconv.Itoa(f.GID)
	}
	return &pb.SourceOp{Identifier: withoutUser(f.URL), Attrs: attrs}
}

func canonicalTree(t *remote.Tree, id string) *pb.SourceOp {
	address, _, _ := strings.Cut(id, "#")
	attrs := map[string]string{pb.AttrGitChecksum: t.Commit}
	if t.KeepGitDir {
		// Then the tag's own hash and the ref's name are in the tree.
		attrs[pb.AttrKeepGitDir], attrs[pb.AttrGitChecksum] = "true", t.Object
	}
	if t.SkipSubmodules {
		attrs[pb.AttrGitSkipSubmodules] = "true"
	}
	if t.CommitTime {
		attrs[pb.AttrGitMTime] = "commit"
	}
	ref := t.Commit
	if t.KeepGitDir {
		ref = t.Ref
	}
	if t.Subdir != "" {
		ref += ":" + t.Subdir
	}
	return &pb.SourceOp{Identifier: gitScheme + address + "#" + ref, Attrs: attrs}
}

// withoutUser is a URL without user and password.
func withoutUser(url string) string {
	scheme, rest, ok := strings.Cut(url, "://")
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	if i := strings.LastIndexByte(authority, '@'); ok && i >= 0 {
		return scheme + "://" + authority[i+1:] + tail
	}
	return url
}

// readTree reads files of a tree that a definition of the frontend's names.
func (u *unit) readTree(src *pb.SourceOp) (func(string) ([]byte, error), error) {
	want, err := remoteTree(src)
	if err != nil {
		return nil, err
	}
	t, err := u.remotes.tree(want, u.cfg)
	if err != nil {
		return nil, &remoteError{name: remote.Redact(want.Remote), err: err}
	}
	f, err := u.remotes.fetcher()
	if err != nil {
		return nil, err
	}
	return func(name string) ([]byte, error) {
		return f.ReadFile(u.ctx, *t, u.remotes.auth(u.cfg), name)
	}, nil
}

// openFile opens the content of a file that a definition of the frontend's names.
func (u *unit) openFile(src *pb.SourceOp) (func() (io.ReadCloser, error), string, error) {
	want, err := remoteFile(src)
	if err != nil {
		return nil, "", err
	}
	file, err := u.remotes.file(want, u.cfg)
	if err != nil {
		return nil, "", &remoteError{name: remote.Redact(want.URL), err: err}
	}
	f, err := u.remotes.fetcher()
	if err != nil {
		return nil, "", err
	}
	return func() (io.ReadCloser, error) {
		r, _, err := f.Open(u.ctx, *file, u.remotes.auth(u.cfg))
		return r, err
	}, file.Name, nil
}

// readURL reads a Dockerfile that lies behind a URL.
func (u *unit) readURL(url string) ([]byte, error) {
	open, _, err := u.openFile(&pb.SourceOp{Identifier: url})
	if err != nil {
		return nil, err
	}
	r, err := open()
	if err != nil {
		return nil, &remoteError{name: remote.Redact(url), err: err}
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = &fs.PathError{Op: "read", Path: path.Base(url), Err: errTooLarge}
	}
	return data, err
}

// reportRemotes reports what could not be had from elsewhere.
func (u *unit) reportRemotes(errs []*remoteError) {
	for _, e := range errs {
		at := e.at
		if at == nil {
			at = u.remotePlace(e.name)
		}
		var unsupported *unsupportedError
		if errors.As(e.err, &unsupported) {
			u.errorf(at, upperFirst(unsupported.feature)+" is not available yet", "%s", cmp.Or(unsupported.advice, "A later release will have it."))
			continue
		}
		detail := e.err.Error()
		if !strings.Contains(detail, e.name) {
			detail = e.Error()
		}
		u.report(&hcl.Diagnostic{
			Severity: hcl.DiagError, Subject: at, Summary: "Cannot fetch a remote source", Detail: sentence(detail), Extra: CauseImage,
		})
	}
}

// remotePlace is the place of the context, or of the Dockerfile, that has an
// address.
func (u *unit) remotePlace(name string) *hcl.Range {
	for _, key := range slices.Sorted(maps.Keys(u.cfg.Contexts)) {
		if strings.HasPrefix(remote.Redact(u.cfg.Contexts[key].Value), name) {
			return u.contextRange(key)
		}
	}
	if remote.Redact(u.cfg.Dockerfile) == name {
		return u.cfg.At("dockerfile")
	}
	return u.cfg.At("context")
}
