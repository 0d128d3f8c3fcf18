package runner

// Provenance is made by BuildKit's own code, out of what the plan says: what an
// image was built from, and in which steps. It has no values of secrets, and no
// paths of this host.

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	slsa02 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v0.2"
	slsa1 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v1"
	"github.com/moby/buildkit/frontend/dockerfile/version"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/compat"
	"github.com/moby/buildkit/solver/llbsolver/provenance"
	provenancetypes "github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/purl"
	"github.com/moby/buildkit/util/urlutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/pack"
	"github.com/zbuild/zbuild/planner"
)

// Attributes of a provenance attestation, as BuildKit has them.
const (
	attestProvenance = "provenance"
	provenanceMin    = "min"
)

// statementType is version 1 of in-toto's statements.
const statementType = "https://in-toto.io/Statement/v1"

// statement is an in-toto statement:
// https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
type statement struct {
	Type          string    `json:"_type"`
	PredicateType string    `json:"predicateType"`
	Subject       []subject `json:"subject"`
	Predicate     any       `json:"predicate"`
}

// subject is what a statement is about.
type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// attestFor makes the statements that a target asks for about one of its images;
// nil if it asks for none.
func (r *run) attestFor(d *delivery, o *outgoing, images []*pack.Image) func(context.Context, int, pack.Manifest) ([]pack.Statement, error) {
	if !d.exports[0].attested() {
		return nil
	}
	return func(ctx context.Context, i int, m pack.Manifest) ([]pack.Statement, error) {
		subjects := []subject{}
		for _, name := range o.names {
			url, err := purl.RefToPURL(packageurl.TypeDocker, name, m.Descriptor.Platform)
			if err != nil {
				return nil, err
			}
			subjects = append(subjects, subject{Name: url, Digest: digestMap(m.Descriptor.Digest)})
		}
		sboms, err := r.sboms(ctx, d.exports[i])
		if err != nil {
			return nil, err
		}
		for j := range sboms {
			if !sboms[j].core() {
				continue
			}
			var final ocispecs.Manifest // which has the layers' digests
			if err := json.Unmarshal(m.Data, &final); err != nil {
				return nil, err
			}
			if err := r.supplement(ctx, &sboms[j], final.Layers, images[i]); err != nil {
				return nil, err
			}
		}
		return r.statements(ctx, d.exports[i], sboms, subjects)
	}
}

// attested reports whether something is to be stated about a result.
func (x *export) attested() bool {
	return x.result.SBOM.Step != nil || slices.ContainsFunc(x.target.Config.Attest, x.hasProvenance)
}

// hasProvenance reports whether an attestation is the provenance, and there is one: for
// BuildKit, nothing comes from nowhere.
func (x *export) hasProvenance(a config.Attest) bool {
	return a.Type == attestProvenance && x.result.Root.Step != nil
}

func digestMap(d digest.Digest) map[string]string {
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}

// statements are what is to be said of a result, about subjects.
func (r *run) statements(ctx context.Context, x *export, sboms []found, subjects []subject) ([]pack.Statement, error) {
	var out []pack.Statement
	for i := range sboms {
		s, err := sboms[i].statement(subjects)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	for _, a := range x.target.Config.Attest {
		if !x.hasProvenance(a) {
			continue
		}
		kind, predicate, err := r.provenance(ctx, x, a.Attrs)
		if err != nil {
			return nil, err
		}
		s, err := newStatement(attestProvenance+".json", kind, subjects, predicate)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func newStatement(name, kind string, subjects []subject, predicate any) (pack.Statement, error) {
	data, err := json.Marshal(statement{Type: statementType, PredicateType: kind, Subject: subjects, Predicate: predicate})
	return pack.Statement{Name: name, PredicateType: kind, Data: data}, err
}

// describe tells the provenance of what a target yields, in the form that bake's
// metadata file has it in.
func (r *run) describe(ctx context.Context, d *delivery) error {
	d.result.Provenance = make(map[string]json.RawMessage)
	for _, x := range d.exports {
		if x.result.Root.Step == nil {
			continue // see hasProvenance
		}
		p, err := r.predicate(ctx, x, nil)
		if err != nil {
			return err
		}
		old := p.ConvertToSLSA02()
		if r.opt.Provenance == provenanceMin {
			old.BuildConfig, old.Metadata = nil, nil
		}
		raw, err := json.Marshal(old)
		if err != nil {
			return err
		}
		platform := ""
		if d.several() {
			platform = platforms.FormatAll(x.result.Platform)
		}
		d.result.Provenance[platform] = raw
	}
	return nil
}

// provenance is the predicate and its type.
func (r *run) provenance(ctx context.Context, x *export, attrs map[string]string) (string, any, error) {
	p, err := r.predicate(ctx, x, attrs)
	if err != nil {
		return "", nil, err
	}
	if provenancetypes.ProvenanceSLSA(attrs["version"]) == provenancetypes.ProvenanceSLSA02 {
		return slsa02.PredicateSLSAProvenance, p.ConvertToSLSA02(), nil
	}
	return slsa1.PredicateSLSAProvenance, p, nil
}

func (r *run) predicate(ctx context.Context, x *export, attrs map[string]string) (*provenancetypes.ProvenancePredicateSLSA1, error) {
	steps := reachable(x.result.Root.Step)
	capture := &provenance.Capture{TargetPlatform: platforms.FormatAll(x.result.Platform)}
	capture.Request = request(x)
	captureSources(capture, x, steps)
	for _, s := range reachable(x.result.SBOM.Step) {
		if s.Image != nil && !slices.Contains(steps, s) {
			addImage(capture, s.Image)
		}
	}
	capture.Sort()
	p, err := provenance.NewPredicate(capture)
	if err != nil {
		return nil, err
	}
	p.BuildDefinition.InternalParameters.ProvenanceCustomEnv = map[string]any{"dockerfileVersion": version.Version()}
	meta := p.RunDetails.Metadata
	started, finished := r.begin.UTC(), r.opt.Now().UTC()
	meta.StartedOn, meta.FinishedOn = &started, &finished
	meta.InvocationID = r.id
	meta.Reproducible = isTrue(attrs["reproducible"])
	p.RunDetails.Builder.ID = attrs["builder-id"]
	if cmp.Or(attrs["mode"], "max") == provenanceMin {
		scrub(p)
	} else {
		def, err := r.definition(x, steps)
		if err != nil {
			return nil, err
		}
		if _, err := provenance.AddBuildConfig(ctx, p, capture, built{def}, false); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// scrub leaves out what a build may have been told in confidence.
func scrub(p *provenancetypes.ProvenancePredicateSLSA1) {
	req := &p.BuildDefinition.ExternalParameters.Request
	args := make(map[string]string)
	for k, v := range req.Args {
		if strings.HasPrefix(k, "build-arg:") || strings.HasPrefix(k, "label:") {
			p.RunDetails.Metadata.Completeness.Request = false
			continue
		}
		args[k] = v
	}
	req.Args, req.Secrets, req.SSH = args, nil, nil
}

// reachable lists the steps that a result is made of, inputs first.
func reachable(root *planner.Step) []*planner.Step {
	var out []*planner.Step
	seen := make(map[*planner.Step]bool)
	var visit func(*planner.Step)
	visit = func(s *planner.Step) {
		if s == nil || seen[s] {
			return
		}
		seen[s] = true
		for _, in := range s.Inputs {
			visit(in.Step)
		}
		out = append(out, s)
	}
	visit(root)
	return out
}

// request is what the Dockerfile frontend was asked.
func request(x *export) provenancetypes.Parameters {
	t := x.target.Config
	p := provenancetypes.Parameters{
		Frontend: "dockerfile.v0", CompatibilityVersion: compat.CompatibilityVersionCurrent,
		Args: maps.Clone(x.target.Asked),
	}
	p.Args["filename"] = filepath.Base(t.Dockerfile)
	if remoteContext(t) {
		p.Args["context"] = t.Context.Value
		if !filepath.IsAbs(t.Dockerfile) && t.DockerfileInline == nil {
			p.Args["filename"] = t.Dockerfile
		}
	}
	if p.Args["target"] == "" {
		delete(p.Args, "target")
	}
	if v := t.Args[argSeveral]; v != "" {
		p.Args["multi-platform"] = v // as the frontend has it
	}
	for name, c := range t.Contexts {
		p.Args["context:"+name] = asContext(name, c)
	}
	return p
}

// remoteContext reports whether a target's build context is on no disk of this host.
func remoteContext(t *config.Target) bool {
	return t.Context.Kind == config.ContextGit || t.Context.Kind == config.ContextHTTP
}

// asContext is a named context as a frontend is told of it, without places on this host.
func asContext(name string, c config.Context) string {
	switch c.Kind {
	case config.ContextDir:
		return "local:" + name
	case config.ContextTarget:
		return "input:" + name
	case config.ContextImage:
		return c.Raw
	case config.ContextOCILayout:
		return "oci-layout:" + name
	default:
		return urlutil.RedactCredentials(c.Value)
	}
}

// captureSources notes what comes from elsewhere.
func captureSources(c *provenance.Capture, x *export, steps []*planner.Step) {
	for _, s := range steps {
		switch {
		case s.Image != nil:
			addImage(c, s.Image)
		case s.Local != nil:
			c.AddLocal(provenancetypes.LocalSource{Name: contextName(x, s.Local)})
		case s.Op.GetExec() != nil:
			captureExec(c, s.Op.GetExec())
		}
	}
	for _, m := range x.result.Materials {
		captureRemote(c, m)
	}
	if !remoteContext(x.target.Config) {
		c.AddLocal(provenancetypes.LocalSource{Name: "context"}) // where the ignore file is
		c.AddLocal(provenancetypes.LocalSource{Name: "dockerfile"})
	}
}

// captureRemote notes what comes from a server.
func captureRemote(c *provenance.Capture, m planner.Material) {
	if m.File != nil {
		c.AddHTTP(provenancetypes.HTTPSource{URL: m.Address, Digest: m.File.Digest})
		return
	}
	c.AddGit(provenancetypes.GitSource{URL: m.Address, Commit: m.Tree.Object})
	for _, id := range []string{m.Tree.AuthToken, m.Tree.AuthHeader} {
		if id != "" {
			c.AddSecret(provenancetypes.Secret{ID: id, Optional: true})
		}
	}
	if m.Tree.SSH != "" {
		c.AddSSH(provenancetypes.SSH{ID: m.Tree.SSH, Optional: true})
	}
}

// captureExec notes what a RUN is given.
func captureExec(c *provenance.Capture, op *pb.ExecOp) {
	c.NetworkAccess = c.NetworkAccess || op.Network != pb.NetMode_NONE
	for _, m := range op.Mounts {
		switch {
		case m.MountType == pb.MountType_SECRET && m.SecretOpt != nil:
			c.AddSecret(provenancetypes.Secret{ID: m.SecretOpt.ID, Optional: m.SecretOpt.Optional})
		case m.MountType == pb.MountType_SSH && m.SSHOpt != nil:
			c.AddSSH(provenancetypes.SSH{ID: m.SSHOpt.ID, Optional: m.SSHOpt.Optional})
		}
	}
	for _, s := range op.Secretenv {
		c.AddSecret(provenancetypes.Secret{ID: s.ID, Optional: s.Optional})
	}
}

func addImage(c *provenance.Capture, img *planner.BaseImage) {
	p := img.Platform
	c.AddImage(provenancetypes.ImageSource{Ref: img.Ref, Platform: &p, Digest: img.Digest})
}

// contextName is what the target calls a directory.
func contextName(x *export, l *planner.Local) string {
	t := x.target.Config
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		if c := t.Contexts[name]; c.Kind == config.ContextDir && c.Value == l.Dir {
			return name
		}
	}
	return "context"
}

// definition is the graph of a result, without places on this host.
func (r *run) definition(x *export, steps []*planner.Step) (*pb.Definition, error) {
	def := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	src := &pb.Source{Locations: map[string]*pb.Locations{}}
	files := make(map[string]int32)
	renamed := make(map[*planner.Step]digest.Digest)
	add := func(op *pb.Op) (digest.Digest, error) {
		raw, err := op.MarshalVT()
		if err != nil {
			return "", err
		}
		def.Def = append(def.Def, raw)
		return digest.FromBytes(raw), nil
	}
	for _, s := range steps {
		op := s.Op.CloneVT()
		if s.Local != nil {
			op.GetSource().Identifier = "local://" + contextName(x, s.Local)
		}
		for i, in := range s.Inputs {
			if in.Step != nil && i < len(op.Inputs) {
				op.Inputs[i].Digest = string(renamed[in.Step])
			}
		}
		var err error
		if renamed[s], err = add(op); err != nil {
			return nil, err
		}
		if at := s.Location; at != nil {
			i, ok := files[at.Filename]
			if !ok {
				i = int32(len(src.Infos)) // files of a plan
				files[at.Filename] = i
				src.Infos = append(src.Infos, &pb.SourceInfo{Filename: filepath.Base(at.Filename), Data: r.plan.Sources[at.Filename], Language: "Dockerfile"})
			}
			src.Locations[string(renamed[s])] = &pb.Locations{Locations: []*pb.Location{{
				SourceIndex: i,
				Ranges: []*pb.Range{{
					Start: &pb.Position{Line: int32(at.Start.Line)}, // lines of a file
					End:   &pb.Position{Line: int32(at.End.Line)},   // lines of a file
				}},
			}}}
		}
	}
	root := x.result.Root
	if root.Step == nil {
		return &pb.Definition{}, nil
	}
	def.Source = src
	_, err := add(&pb.Op{Inputs: []*pb.Input{{Digest: string(renamed[root.Step]), Index: int64(root.Index)}}})
	return def, err
}

// built is a definition as solver.ResultProxy, of which provenance wants nothing
// else.
type built struct{ def *pb.Definition }

var _ solver.ResultProxy = built{}

// ID is for solver.ResultProxy.
func (built) ID() string { return "" }

// Result is for solver.ResultProxy.
func (built) Result(context.Context) (solver.CachedResult, error) { return nil, nil } // there is none

// Release is for solver.ResultProxy.
func (built) Release(context.Context) error { return nil }

// Definition is for solver.ResultProxy.
func (b built) Definition() *pb.Definition { return b.def }

// Provenance is for solver.ResultProxy.
func (built) Provenance() any { return nil }
