// Package verifier stands in for github.com/moby/policy-helpers, which verifies
// the signatures of images for source policies written in Rego.
//
// zbuild evaluates no such policy. It needs of buildx what reads the attributes of
// a target, and one of those names a policy's file by a type that lies beside
// the evaluation. With the verification come all of sigstore's formats, whose
// packages compile hundreds of regular expressions whenever the program starts: a
// fifth of what a build takes that has nothing to do. This module has the names
// that buildx compiles against, and every function of it fails.
package verifier

import (
	"context"
	"errors"

	"github.com/moby/policy-helpers/image"
	"github.com/moby/policy-helpers/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrAbsent is what every function answers.
var ErrAbsent = errors.New("this program does not verify signatures for policies")

// Config says where a verifier keeps its state.
type Config struct{ StateDir string }

// ArtifactVerifyOpt is an option of VerifyArtifact.
type ArtifactVerifyOpt func()

// Verifier verifies nothing.
type Verifier struct{}

// NewVerifier fails with ErrAbsent.
func NewVerifier(Config) (*Verifier, error) { return nil, ErrAbsent }

// VerifyImage fails with ErrAbsent.
func (*Verifier) VerifyImage(context.Context, image.ReferrersProvider, ocispecs.Descriptor, *ocispecs.Platform) (*types.SignatureInfo, error) {
	return nil, ErrAbsent
}

// VerifyArtifact fails with ErrAbsent.
func (*Verifier) VerifyArtifact(context.Context, digest.Digest, []byte, ...ArtifactVerifyOpt) (*types.SignatureInfo, error) {
	return nil, ErrAbsent
}
