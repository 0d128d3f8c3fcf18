package planner

import (
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/remote"
)

// Plan is everything that a project asks for, as one graph. It is complete,
// inert and immutable: whoever holds it may read it, nobody may change it.
type Plan struct {
	// Steps are in an order in which every step comes after its inputs; the
	// order is the same for the same inputs, byte for byte.
	Steps []*Step
	// Stages are the steps as people see them, in the order of their last step: a
	// stage comes after those it needs.
	Stages []*Stage
	// Targets are the requested targets and those they need, in the order of
	// their names.
	Targets []*Target
	// Sources holds the text of each build file that a Location or a diagnostic
	// may point into, by file name.
	Sources map[string][]byte
	// Files are the absolute paths of all files that planning read or looked for
	// and did not find, sorted: a change to any of them can change the plan.
	Files []string
}

// Target returns the target of that name, or nil.
func (p *Plan) Target(name string) *Target {
	i, ok := slices.BinarySearchFunc(p.Targets, name, func(t *Target, name string) int {
		return strings.Compare(t.Name, name)
	})
	if !ok {
		return nil
	}
	return p.Targets[i]
}

// Step is one vertex of the graph: an operation of BuildKit's LLB, made
// canonical, so that the same work asked for by two targets is one Step.
type Step struct {
	// ID is the digest of the canonical operation, and through its inputs'
	// digests of everything that the step builds on, except the content of local
	// directories.
	ID digest.Digest
	// Op is the canonical operation. Local sources carry no session and no
	// selection. Never written to after planning.
	Op *pb.Op
	// Inputs are parallel to Op.Inputs.
	Inputs []Input
	// Name is the Dockerfile instruction as its author wrote it, with arguments
	// expanded: "RUN make".
	Name string
	// Location is where the instruction stands; its Filename is a key of
	// Plan.Sources. Nil for a step that no instruction stands for.
	Location *hcl.Range
	// Stage is the first stage that has the step. Nil for a build context, which
	// belongs to none.
	Stage *Stage
	// NoCache says that a cached result must not be taken.
	NoCache bool
	// Retries is how often a failed RUN is tried again, RetryDelay the pause
	// before each of these tries.
	Retries    int
	RetryDelay time.Duration
	// Secrets says where the secrets come from that the step may ask for, by id.
	Secrets map[string]config.Secret
	// Image is set for a step that stands for an image of a registry or store.
	Image *BaseImage
	// Local is set for a step that stands for a directory of this host.
	Local *Local
	// File is set for a step that stands for a file behind a URL, Tree for one
	// that stands for a commit of a git repository. Both are resolved. They may
	// have credentials in their address: they are for the engine, not for showing.
	File *remote.File
	Tree *remote.Tree
	// Limits are what the step's process may use; nil sets none. They do not change
	// what the step is.
	Limits *pb.LinuxResources
	// Proxy are the proxies of the target's arguments that the Dockerfile does not
	// declare; nil if there are none. They do not change what the step is.
	Proxy *pb.ProxyEnv
	// SSH says which SSH agents or keys the step may ask for, by id.
	SSH map[string]config.SSH
}

// Input is one edge of the graph: output Index of Step.
type Input struct {
	Step  *Step
	Index int
}

// BaseImage is an image that a build starts from, resolved: its digest is known
// before anything is keyed or run.
type BaseImage struct {
	// Ref is the name that was asked for, normalised, without a digest.
	Ref string
	// Digest is the digest of the image's manifest for the platform, or of the
	// index that names it.
	Digest digest.Digest
	// ConfigDigest identifies the image's configuration.
	ConfigDigest digest.Digest
	// Config is the image's configuration.
	Config []byte
	// DiffIDs are the digests of its uncompressed layers, lowest first.
	DiffIDs  []digest.Digest
	Platform ocispecs.Platform
	// ID is the image's ID in the local store, if it is there.
	ID string
	// Layout is the OCI image layout that the image is in; see ImageRequest.
	Layout string
}

// Local is a build context on this host, and the ignore rules that hold for it.
type Local struct {
	// Dir is an absolute, clean path.
	Dir string
	// Exclude are the patterns of its ignore file, in their order.
	Exclude []string
	// Follow are the paths that Dockerfiles name of it, sorted; empty means all of it.
	// They do not change what the step is.
	Follow []string
}

// Stage is a Dockerfile stage for one platform and one set of arguments.
type Stage struct {
	// ID is the same in every run for the same stage.
	ID string
	// Name is the stage's name, or "stage-N" for one without.
	Name string
	// Base is what its FROM says, arguments expanded.
	Base string
	// From is the stage that its FROM means, be it of the same Dockerfile or the
	// result of another target. Nil if it starts from something else.
	From       *Stage
	Platform   ocispecs.Platform
	Dockerfile string
	// Steps are in order; a step may belong to several stages.
	Steps []*Step
	// Needs are the stages that its steps read from, in the order of Plan.Stages.
	Needs []*Stage
	// Targets are the names of the targets that need this stage, sorted.
	Targets []string
}

// Image formats.
const (
	FormatOCI    = "oci"
	FormatDocker = "docker"
)

// Target is what becomes of a config.Target.
type Target struct {
	Name string
	// Config is the intent that this was made from.
	Config *config.Target
	// Requested is false for a target that is only needed by another.
	Requested bool
	// Asked are the attributes that the Dockerfile frontend was asked with, apart from
	// platforms and contexts.
	Asked map[string]string
	// Results has one element per platform, in the order of the platforms.
	Results []*Result
	// Needs are the targets whose result it builds on or that must come first.
	Needs []string
}

// Result is what a target yields for one platform: a file tree and the
// configuration of the image that is made of it.
type Result struct {
	Target   *Target
	Platform ocispecs.Platform
	// Root is the step that yields the file tree. Its Step is nil for the empty
	// tree.
	Root  Input
	Stage *Stage
	// Config is the image configuration, without root file system.
	Config []byte
	// Base is the image under the result's layers; nil for scratch.
	Base *BaseImage
	// Layers are the steps, lowest first, whose differences are the image's
	// layers above Base.
	Layers []Input
	// Epoch is set when SOURCE_DATE_EPOCH is.
	Epoch *time.Time
	// Materials are what it is made of that comes from URLs and git repositories.
	Materials []Material
	// SBOM is the step that looks at the file tree and leaves a directory of in-toto
	// statements about it. Its Step is nil if nobody asks for an SBOM.
	SBOM Input
	// SBOMStage is the stage of that step.
	SBOMStage *Stage
}
