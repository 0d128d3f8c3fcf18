package planner

import (
	"context"
	"io/fs"
	"os"
	"runtime"

	"github.com/containerd/platforms"
	"github.com/hashicorp/hcl/v2"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/config"
	"github.com/zbuild/zbuild/internal/remote"
)

// Options is everything that a plan depends on besides the project.
type Options struct {
	// Images resolves base images. Without it, a project that starts from an
	// image cannot be planned.
	Images Images
	// Jobs is how many targets are planned at once; 0 means one per CPU. The plan
	// does not depend on it.
	Jobs int
	// Platform is the platform that builds run on; the zero value means that of
	// this machine.
	Platform ocispecs.Platform
	// Dir is the absolute directory that file names in locations and in
	// diagnostics are relative to; empty means the project's. Files outside of it
	// keep their absolute names.
	Dir string
	// ReadFile reads Dockerfiles and ignore files; nil means ReadFile of this
	// package. Every file is read at most once per plan.
	ReadFile func(path string) ([]byte, error)
	// Stat looks at build contexts; nil means os.Stat.
	Stat func(path string) (fs.FileInfo, error)
	// Remotes gives what fetches from URLs and git repositories, when first
	// something asks for it. Without it, a project that needs them cannot be
	// planned.
	Remotes func(context.Context) (*remote.Fetcher, error)
	// Secret reads the value of a secret, for servers that ask for one; nil has
	// none.
	Secret func(config.Secret) ([]byte, error)
	// Agent opens an SSH agent that listens on a socket until done is called; nil
	// has none.
	Agent func(ctx context.Context, s config.SSH) (socket string, done func(), err error)
	// Devices gives the devices of this machine that a name stands for: one, those of
	// a kind, or of a class. nil has none.
	Devices func(ctx context.Context, name string) []Device
}

// Device is a device of a machine, as its Container Device Interface describes it.
type Device struct {
	Name string // in full, vendor.com/class=name
	Free bool   // everybody may use it
}

func (o Options) withDefaults(project *config.Project) Options {
	if o.Jobs <= 0 {
		o.Jobs = runtime.GOMAXPROCS(0)
	}
	if o.Platform.OS == "" {
		o.Platform = platforms.DefaultSpec()
	}
	o.Platform = platforms.Normalize(o.Platform)
	if o.Dir == "" {
		o.Dir = project.Dir
	}
	if o.ReadFile == nil {
		o.ReadFile = ReadFile
	}
	if o.Stat == nil {
		o.Stat = os.Stat
	}
	if o.Images == nil {
		o.Images = noImages{}
	}
	return o
}

// PullPolicy is config's, under a name for engines, which know no build file.
type PullPolicy = config.PullPolicy

// The pull policies.
const (
	PullMissing = config.PullMissing
	PullNewer   = config.PullNewer
	PullAlways  = config.PullAlways
	PullNever   = config.PullNever
)

// Images resolves base images. The engine implements it: it knows the local
// store, the registries and the credentials.
type Images interface {
	// Resolve finds the image that a FROM, a COPY --from or a context names, for
	// one platform. It may be called from several goroutines at once. The image's
	// Digest, Ref and Config must be set.
	Resolve(ctx context.Context, req ImageRequest) (*BaseImage, error)
}

// ImageRequest asks for an image.
type ImageRequest struct {
	// Ref is the name, normalised and with a tag or a digest:
	// docker.io/library/alpine:3.
	Ref string
	// Explicit says that the author wrote the registry down. Otherwise the
	// docker.io of Ref is an assumption, and DefaultRegistry and the usual search
	// list come first.
	Explicit bool
	Platform ocispecs.Platform
	Pull     PullPolicy
	// DefaultRegistry is a registry, with or without a path, that unqualified
	// names come from. Empty means none.
	DefaultRegistry string
	// Layout is the absolute path of an OCI image layout that the image is in; Ref
	// has its digest then, and a name that means nothing. Empty means a registry or
	// the local store.
	Layout string
}

type noImages struct{}

// Resolve finds nothing.
func (noImages) Resolve(context.Context, ImageRequest) (*BaseImage, error) {
	return nil, errNoImages
}

// Cause tells diagnostics apart that are not about what somebody wrote. It is
// found in Diagnostic.Extra; see CauseOf.
type Cause string

const (
	// CauseProject is a mistake in a build file or a Dockerfile. It is what a
	// diagnostic without a cause is about.
	CauseProject Cause = ""
	// CauseImage is a base image, or another remote source, that could not be had.
	CauseImage Cause = "image"
	// CauseCanceled says that planning was interrupted.
	CauseCanceled Cause = "canceled"
)

// CauseOf tells what a diagnostic is about.
func CauseOf(d *hcl.Diagnostic) Cause {
	cause, _ := d.Extra.(Cause)
	return cause
}
