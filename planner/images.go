package planner

import (
	"context"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/zbuild/zbuild/config"
)

// Images resolves base images. Whoever executes plans implements it.
type Images interface {
	// Resolve finds the image that a FROM or COPY --from names, for one platform.
	Resolve(ctx context.Context, req ImageRequest) (*BaseImage, error)
}

// ImageRequest asks for a base image.
type ImageRequest struct {
	// Ref is a normalised name with a tag or digest: "docker.io/library/alpine:3".
	Ref string
	// Explicit says that the author wrote the registry, and did not leave it out.
	Explicit bool
	Platform ocispecs.Platform
	Pull     config.PullPolicy
	// DefaultRegistry is where a name without a registry is looked for first.
	DefaultRegistry string
}
