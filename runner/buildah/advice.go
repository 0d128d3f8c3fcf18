//go:build linux

package buildah

// What the libraries say of a registry is what happened; these words say what its
// reader can do about it.

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"

	"github.com/docker/distribution/registry/api/errcode"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
)

// advised is an error of a registry with what can be done about it.
type advised struct {
	error
	advice string
}

// Error is for error.
func (a *advised) Error() string { return a.error.Error() + "; " + a.advice }

// Unwrap gives the registry's error.
func (a *advised) Unwrap() error { return a.error }

// advise adds to an error of a registry what its reader can do, if that is known.
func advise(err error, name reference.Named) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if advice := registryAdvice(err, reference.Domain(name)); advice != "" {
		return &advised{err, advice}
	}
	return err
}

// advisePush is advise for what is pushed: images that are meant to stay here are
// often called localhost, where nobody listens.
func advisePush(err error, name reference.Named) error {
	var unreachable *net.OpError
	if reference.Domain(name) == "localhost" && errors.As(err, &unreachable) {
		return &advised{err, "no registry listens on this machine: the tags have to name the one to push to"}
	}
	return advise(err, name)
}

func registryAdvice(err error, registry string) string {
	var refused docker.ErrUnauthorizedForCredentials
	var expired *expiredError
	var unknownCA x509.UnknownAuthorityError
	var badName x509.HostnameError
	var badCert x509.CertificateInvalidError
	var unreachable *net.OpError
	var noName *net.DNSError
	switch {
	case registry == "localhost" && errors.As(err, &unreachable):
		return "there is no such image in the store: build it before, or check the name"
	case errors.As(err, &refused), errors.As(err, &expired):
		return fmt.Sprintf("the credentials for %s are wrong or have expired: 'podman login %s' renews them", registry, registry)
	case slices.Contains(codes(err), errcode.ErrorCodeUnauthorized), denied(err):
		return fmt.Sprintf("either there is no such repository, or it takes 'podman login %s' with an account that may use it", registry)
	case errors.Is(err, docker.ErrTooManyRequests), slices.Contains(codes(err), errcode.ErrorCodeTooManyRequests):
		return fmt.Sprintf("wait, 'podman login %s' for a higher limit, or name a mirror in registries.conf", registry)
	case errors.As(err, &unknownCA), errors.As(err, &badName), errors.As(err, &badCert):
		return fmt.Sprintf("put the certificate of its authority into /etc/containers/certs.d/%s/ca.crt, or, if anybody may listen, set insecure = true for it in registries.conf", registry)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Sprintf("%s speaks http: set insecure = true for it in registries.conf, or registry.insecure=true in the output", registry)
	case errors.As(err, &noName), errors.As(err, &unreachable) && unreachable.Op == "dial", errors.Is(err, syscall.ENETUNREACH):
		return "check the name, the network and the proxy ($HTTPS_PROXY); registries.conf can name a mirror"
	}
	return ""
}

// expiredError says that a registry refuses what it accepted a moment ago.
type expiredError struct{ error }

// Unwrap gives the registry's error.
func (e *expiredError) Unwrap() error { return e.error }

// unauthorized reports whether a registry wants other credentials, or newer ones.
func unauthorized(err error) bool {
	var refused docker.ErrUnauthorizedForCredentials
	var status docker.UnexpectedHTTPStatusError
	return errors.As(err, &refused) || errors.As(err, &status) && status.StatusCode == http.StatusUnauthorized ||
		err != nil && slices.Contains(codes(err), errcode.ErrorCodeUnauthorized)
}

// denied reports whether a registry says that somebody may not do something, as some do
// of a token that has run out.
func denied(err error) bool {
	if err == nil {
		return false
	}
	var status docker.UnexpectedHTTPStatusError
	if errors.As(err, &status) && status.StatusCode == http.StatusForbidden || slices.Contains(codes(err), errcode.ErrorCodeDenied) {
		return true
	}
	// Of an answer without a body, as one to HEAD is, the library has the status in an
	// error of its own, which others can only read.
	return strings.Contains(err.Error(), fmt.Sprintf("StatusCode: %d,", http.StatusForbidden))
}

// codes lists what a registry itself calls its error, as the distribution
// specification names errors.
func codes(err error) []errcode.ErrorCode {
	var several errcode.Errors
	if !errors.As(err, &several) {
		several = errcode.Errors{err}
	}
	var codes []errcode.ErrorCode
	for _, err := range several {
		var coder errcode.ErrorCoder
		if errors.As(err, &coder) {
			codes = append(codes, coder.ErrorCode())
		}
	}
	return codes
}
