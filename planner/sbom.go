package planner

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/hashicorp/hcl/v2"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/attestations"
	"github.com/moby/buildkit/frontend/attestations/sbom"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/exporter"
)

// What an SBOM is made by is a step like others: a container of the generator's
// image that has the result, and what the Dockerfile wants looked at besides,
// mounted. It is BuildKit's own graph: see its docs/attestations/sbom-protocol.md.

const (
	// scanOut is where a generator leaves what it has found.
	scanOut = "/run/out"
	// scanEnv begins the names of the variables that a generator is told things by.
	scanEnv = "BUILDKIT_SCAN_"
)

// generatorError is an SBOM's generator that cannot be had.
type generatorError struct {
	name string
	err  error
}

func (e *generatorError) Error() string { return e.err.Error() }
func (e *generatorError) Unwrap() error { return e.err }

// sbomAttrs are the attributes of the SBOM that the target asks for. What is not
// attached to anything is not made.
func (u *unit) sbomAttrs() (attrs map[string]string, ok bool) {
	attached := u.cfg.Requested && slices.ContainsFunc(u.cfg.Outputs, func(out config.Output) bool {
		spec, err := exporter.Parse(out.Type, out.Attrs)
		return err == nil && spec.Attests()
	})
	for _, a := range u.cfg.Attest {
		if attached && a.Type == attestations.KeyTypeSbom {
			return a.Attrs, true
		}
	}
	return nil, false
}

// sbomOpt is the frontend's option for an SBOM with these attributes.
func sbomOpt(attrs map[string]string) string {
	if len(attrs) == 0 {
		return ""
	}
	var fields []string
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		fields = append(fields, k+"="+attrs[k])
	}
	var b strings.Builder
	w := csv.NewWriter(&b)
	_ = w.Write(fields) // a strings.Builder takes everything
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

// scan is the graph of the result's SBOM; nil if the target has none.
func (r *run) scan(c *dockerui.Client, res *dockerfile2llb.Result) (*pb.Definition, error) {
	attrs, ok := r.u.sbomAttrs()
	if !ok || c.SBOM == nil {
		return nil, nil // there is none
	}
	platform := r.u.opt.Platform // of the machine that it runs on
	scanner, err := sbom.CreateSBOMScanner(r.u.ctx, generators{r, attrs["generator"]}, c.SBOM.Generator, platform,
		sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &platform}}, c.SBOM.Parameters)
	if err != nil {
		return nil, &generatorError{name: c.SBOM.Generator, err: err}
	}
	var opts []llb.ConstraintsOpt
	if res.IsIgnoreCache {
		opts = append(opts, llb.IgnoreCache)
	}
	att, err := scanner(r.u.ctx, platforms.FormatAll(r.platform), res.SBOM.Core, res.SBOM.Extras, opts...)
	if err != nil {
		return nil, err
	}
	def, err := att.Ref.Marshal(r.u.ctx)
	if err != nil {
		return nil, err
	}
	return def.ToPB(), nil
}

// generators finds the image that makes an SBOM.
type generators struct {
	r     *run
	wrote string // what its author calls it; empty for the default
}

var _ sourceresolver.MetaResolver = generators{}

// ResolveSourceMetadata resolves the generator's image and pins it.
func (g generators) ResolveSourceMetadata(_ context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	u := g.r.u
	ref := strings.TrimPrefix(op.Identifier, imageScheme)
	img, err := u.images.resolve(ImageRequest{
		Ref: ref, Explicit: g.wrote == "" || explicit(g.wrote), Platform: *opt.ImageOpt.Platform, Pull: u.cfg.Pull,
	})
	if err != nil {
		return nil, err
	}
	g.r.pins.add(img, *opt.ImageOpt.Platform)
	return &sourceresolver.MetaResponse{
		Op:    &pb.SourceOp{Identifier: imageScheme + pinned(img)},
		Image: &sourceresolver.ResolveImageResponse{Digest: img.Digest, Config: img.Config},
	}, nil
}

// canonicalScan makes a generator's step the same in every plan, and has it leave
// nothing but what it found: not what it did to its own image.
func (c *canonicalizer) canonicalScan(d *draft) error {
	exec := d.op.GetExec()
	if !d.scan || exec == nil {
		return nil
	}
	// The frontend has parameters in no order. What one sets last holds, so only
	// those change places.
	isParameter := func(env string) bool { return strings.HasPrefix(env, scanEnv) }
	var own, parameters []string
	for _, env := range exec.Meta.Env {
		if isParameter(env) {
			parameters = append(parameters, env)
		} else {
			own = append(own, env)
		}
	}
	slices.Sort(parameters)
	exec.Meta.Env = slices.Concat(own, parameters)
	for _, m := range exec.Mounts {
		if err := c.scanUsed(d, m); err != nil {
			return err
		}
		m.Output = int64(pb.SkipOutput)
		if path.Clean(m.Dest) == scanOut {
			m.Output = 0
		}
		if path.Clean(m.Dest) == "/" && m.Input >= 0 && d.inputs[m.Input].v.image != nil {
			d.name = "SBOM by " + d.inputs[m.Input].v.image.Ref
		}
	}
	return nil
}

// scanUsed has a generator see of a build context what the Dockerfile takes of it,
// as with BuildKit: what else lies there says nothing about the image.
func (c *canonicalizer) scanUsed(d *draft, m *pb.Mount) error {
	if m.Input < 0 || d.inputs[m.Input].v.local == nil {
		return nil
	}
	used := c.follow[d.op.Inputs[m.Input].Digest]
	if len(used) == 0 {
		return nil
	}
	cp := &pb.FileActionCopy{AllowEmptyWildcard: true}
	for _, p := range used {
		if p = path.Clean("/" + p); p == "/" {
			cp.IncludePatterns = nil
			break
		}
		cp.IncludePatterns = append(cp.IncludePatterns, p[1:])
	}
	slices.Sort(cp.IncludePatterns)
	in := d.inputs[m.Input]
	tree, err := c.copied(in, &draft{name: "what is taken of " + c.r.u.files.name(in.v.local.Dir)}, cp)
	if err == nil {
		d.inputs[m.Input] = tree
	}
	return err
}

// reportGenerator reports a generator that cannot be had.
func (r *run) reportGenerator(e *generatorError) {
	u := r.u
	var img *imageError
	text := e.Error()
	if errors.As(e, &img) {
		text = img.Error() // without what the frontend says around it
	}
	u.report(&hcl.Diagnostic{
		Severity: hcl.DiagError, Subject: u.cfg.At("attest"), Summary: "Cannot get the SBOM's generator",
		Detail: fmt.Sprintf("%s: %s Another one can be named: attest = [\"type=sbom,generator=IMAGE\"].", e.name, sentence(text)),
		Extra:  CauseImage,
	})
}
