// Package types has the names of what policy-helpers tells of a signature.
package types

// Kind says who signed.
type Kind int

// SignatureType is a signature's format.
type SignatureType int

// The kinds and formats that buildx tells apart.
const (
	KindDockerGithubBuilder Kind = iota + 1
	KindDockerHardenedImage
	KindSelfSignedGithubRepo
	KindSelfSigned
	KindUntrusted

	SignatureBundleV03 SignatureType = iota + 1
	SignatureSimpleSigningV1
)

// TimestampVerificationResult is a time that somebody vouches for.
type TimestampVerificationResult struct{}

// SignatureInfo is what is known of a signature.
type SignatureInfo struct {
	Kind            Kind
	SignatureType   SignatureType
	Signer          *Signer
	Timestamps      []TimestampVerificationResult
	DockerReference string
	IsDHI           bool
}

// Signer is what a certificate says of who signed.
type Signer struct {
	CertificateIssuer, SubjectAlternativeName, Issuer                                     string
	BuildSignerURI, BuildSignerDigest, RunnerEnvironment                                  string
	SourceRepositoryURI, SourceRepositoryDigest, SourceRepositoryRef                      string
	SourceRepositoryIdentifier, SourceRepositoryOwnerURI, SourceRepositoryOwnerIdentifier string
	BuildConfigURI, BuildConfigDigest, BuildTrigger                                       string
	RunInvocationURI, SourceRepositoryVisibilityAtSigning                                 string
}
