// Package image has the names of policy-helpers' package about chains of
// signatures.
package image

import (
	"context"
	"errors"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// ArtifactTypeCosignSignature is the type of a signature that cosign made.
const ArtifactTypeCosignSignature = "application/vnd.dev.cosign.artifact.sig.v1+json"

// ReferrersProvider fetches what refers to an image.
type ReferrersProvider interface {
	content.Provider
	FetchReferrers(ctx context.Context, dgst digest.Digest, opts ...remotes.FetchReferrersOpt) ([]ocispecs.Descriptor, error)
}

// SignatureChain is what leads from an image to its signature.
type SignatureChain struct {
	AttestationManifest, SignatureManifest *ocispecs.Descriptor
}

// ResolveSignatureChain fails.
func ResolveSignatureChain(context.Context, ReferrersProvider, ocispecs.Descriptor, *ocispecs.Platform) (*SignatureChain, error) {
	return nil, errors.New("this program does not resolve chains of signatures")
}
