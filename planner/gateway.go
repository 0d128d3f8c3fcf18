package planner

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	apicapspb "github.com/moby/buildkit/util/apicaps/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil/types"
)

// The names that the frontend has for the local sources of a build.
const (
	mainContext    = "context"
	dockerfileName = "dockerfile"
	// namedPrefix keeps the names of named contexts apart from the two above.
	namedPrefix = "named:"
)

// gateway is what the Dockerfile frontend sees of the world while it converts
// one target: options, files, images and the results of other targets. It has
// no daemon behind it and builds nothing.
type gateway struct {
	opts   map[string]string
	build  ocispecs.Platform
	locals map[string]func(name string) ([]byte, error) // readers of local sources
	inputs map[string]llb.State
	caps   capabilities
	image  func(ctx context.Context, ref string, platform ocispecs.Platform) (*BaseImage, error)
	layout func(ref string, opt *sourceresolver.ResolveOCILayoutOpt) (*BaseImage, error)
	// remote looks into a remote source; metadata tells what it stands for now.
	remote   func(ops []*pb.Op) (client.Reference, error)
	metadata func(src *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error)
}

var _ client.Client = (*gateway)(nil)

// BuildOpts says what is to be built, and what LLB may use.
func (g *gateway) BuildOpts() client.BuildOpts {
	return client.BuildOpts{
		Opts:    maps.Clone(g.opts), // the frontend writes to it
		Workers: []client.WorkerInfo{{Platforms: []ocispecs.Platform{g.build}}},
		Product: "zbuild",
		LLBCaps: g.caps.llb,
		Caps:    g.caps.frontend,
	}
}

// capabilities are what a frontend may make use of: the same for all targets, and
// made once, for they are long lists.
type capabilities struct{ llb, frontend apicaps.CapSet }

func newCapabilities() capabilities {
	return capabilities{llb: llbCaps(), frontend: gwpb.Caps.CapSet(gwpb.Caps.All())}
}

// llbCaps is the part of LLB that engines are asked for. None has the operation that only
// passes on its input.
func llbCaps() apicaps.CapSet {
	var caps []*apicapspb.APICap
	for _, c := range pb.Caps.All() {
		if apicaps.CapID(c.ID) != pb.CapPassthroughOp {
			caps = append(caps, c)
		}
	}
	return pb.Caps.CapSet(caps)
}

// Solve is how the frontend gets at the files of a build context. It solves
// nothing else.
func (g *gateway) Solve(_ context.Context, req client.SolveRequest) (*client.Result, error) {
	if req.Definition == nil || req.Frontend != "" {
		return nil, errors.New("the frontend asks for another frontend")
	}
	var ops []*pb.Op
	for _, dt := range req.Definition.Def {
		op := new(pb.Op)
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, err
		}
		ops = append(ops, op)
		src := op.GetSource()
		if src == nil {
			continue
		}
		if name, ok := strings.CutPrefix(src.Identifier, localScheme); ok && g.locals[name] != nil {
			res := client.NewResult()
			res.SetRef(localFiles(g.locals[name]))
			return res, nil
		}
	}
	ref, err := g.remote(ops)
	if err != nil {
		return nil, err
	}
	res := client.NewResult()
	res.SetRef(ref)
	return res, nil
}

// Inputs are the results of the targets that this one is linked to.
func (g *gateway) Inputs(context.Context) (map[string]llb.State, error) { return g.inputs, nil }

// ResolveImageConfig gives the frontend an image's configuration and pins its
// name to a digest.
func (g *gateway) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	if opt.OCILayoutOpt != nil {
		img, err := g.layout(ref, opt.OCILayoutOpt)
		if err != nil {
			return "", "", nil, err
		}
		return pinned(img), img.Digest, img.Config, nil
	}
	platform := g.build
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		platform = platforms.Normalize(*opt.ImageOpt.Platform)
	}
	img, err := g.image(ctx, ref, platform)
	if err != nil {
		return "", "", nil, err
	}
	return pinned(img), img.Digest, img.Config, nil
}

// ResolveSourceMetadata looks at a git repository or a URL.
func (g *gateway) ResolveSourceMetadata(_ context.Context, src *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	return g.metadata(src, opt)
}

// NewContainer refuses: planning runs nothing.
func (g *gateway) NewContainer(context.Context, client.NewContainerRequest) (client.Container, error) {
	return nil, errors.New("no container runs while planning")
}

// Warn is not used: warnings of the conversion come with their rule and range
// through dockerfile2llb.ConvertOpt.
func (g *gateway) Warn(context.Context, digest.Digest, string, client.WarnOpts) error { return nil }

// localFiles is a local source as the frontend sees it: something to read a
// Dockerfile or an ignore file from.
type localFiles func(name string) ([]byte, error)

// ReadFile reads a file, or a part of it.
func (l localFiles) ReadFile(_ context.Context, req client.ReadRequest) ([]byte, error) {
	data, err := l(req.Filename)
	if err != nil {
		return nil, err
	}
	if r := req.Range; r != nil {
		data = data[min(r.Offset, len(data)):]
		data = data[:min(r.Length, len(data))]
	}
	return data, nil
}

// StatFile tells the size of a file.
func (l localFiles) StatFile(_ context.Context, req client.StatRequest) (*types.Stat, error) {
	data, err := l(req.Path)
	if err != nil {
		return nil, err
	}
	return &types.Stat{Path: req.Path, Size: int64(len(data)), Mode: 0o644}, nil
}

// ReadDir is not needed.
func (l localFiles) ReadDir(context.Context, client.ReadDirRequest) ([]*types.Stat, error) {
	return nil, errors.ErrUnsupported
}

// ToState is not needed.
func (l localFiles) ToState() (llb.State, error) { return llb.State{}, errors.ErrUnsupported }

// Evaluate does nothing: there is nothing to build.
func (l localFiles) Evaluate(context.Context) error { return nil }

// dirReader reads files of a build context: its ignore file.
func dirReader(f *files, dir string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
		}
		return f.get(filepath.Join(dir, filepath.FromSlash(name)))
	}
}
