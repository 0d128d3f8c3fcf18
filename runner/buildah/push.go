//go:build linux

package buildah

// Pushing is two steps: Upload brings blobs and manifests to a repository, where
// only who knows the digest finds them; Publish gives them a name. So several
// images get their names together, when all of them are there.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/common/pkg/retry"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"github.com/zbuild/zbuild/internal/pack"
)

const (
	// blobsAtOnce is how many blobs of a bundle are copied at once.
	blobsAtOnce = 6
	// registryTries is how often a request is made that fails for a reason that may
	// pass.
	registryTries = 5
)

// Upload copies a bundle to a repository.
func (e *Engine) Upload(ctx context.Context, b *pack.Bundle, repository string, insecure bool) error {
	named, err := reference.ParseNormalizedNamed(repository)
	if err != nil {
		return fmt.Errorf("the name %q: %w", repository, err)
	}
	named = reference.TrimNamed(named)
	pinned, err := reference.WithDigest(named, b.Root.Descriptor.Digest)
	if err != nil {
		return err
	}
	ref, err := docker.NewReference(pinned)
	if err != nil {
		return err
	}
	// What is made here is trusted; policies are about what comes in.
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return err
	}
	defer policy.Destroy() //nolint:errcheck // nothing is held
	sys := e.systemFor(named, ocispecs.Platform{})
	if insecure {
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	// What has got there is found there by the next try.
	err = e.transfer(ctx, func(accepted func()) error {
		return patiently(ctx, e.patience.blob, func(ctx context.Context, alive func()) error {
			from := bundleReference{bundle: b, alive: func() { accepted(); alive() }}
			_, err := copy.Image(ctx, policy, ref, from, &copy.Options{
				DestinationCtx: sys, PreserveDigests: true, ImageListSelection: copy.CopyAllImages, MaxParallelDownloads: blobsAtOnce,
			})
			return err
		})
	})
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("pushing to %s: %w", named, advisePush(err, named))
	}
	return nil
}

// Publish gives an uploaded bundle its name.
func (e *Engine) Publish(ctx context.Context, b *pack.Bundle, name string, insecure bool) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fmt.Errorf("the name %q: %w", name, err)
	}
	named = reference.TagNameOnly(named)
	ref, err := docker.NewReference(named)
	if err != nil {
		return err
	}
	err = e.persist(ctx, func() error {
		dest, err := e.destination(ctx, ref, named, insecure)
		if err != nil {
			return err
		}
		defer dest.Close() //nolint:errcheck // nothing is held
		return e.putManifest(ctx, dest, b.Root)
	})
	if err != nil {
		return fmt.Errorf("pushing %s: %w", named, advisePush(err, named))
	}
	return nil
}

// destination opens the way to a repository.
func (e *Engine) destination(ctx context.Context, ref types.ImageReference, named reference.Named, insecure bool) (types.ImageDestination, error) {
	sys := e.systemFor(named, ocispecs.Platform{})
	if insecure {
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	return ref.NewImageDestination(ctx, sys)
}

func (e *Engine) putManifest(ctx context.Context, dest types.ImageDestination, m pack.Manifest) error {
	return patiently(ctx, e.patience.answer, func(ctx context.Context, _ func()) error {
		return dest.PutManifest(ctx, m.Data, nil)
	})
}

// persist tries again what fails for a reason that may pass, and waits longer
// every time.
func (e *Engine) persist(ctx context.Context, fn func() error) error {
	return e.transfer(ctx, func(func()) error { return fn() })
}

// transfer is persist for what takes its time: the registry's leave may run out
// meanwhile, and is asked for anew. fn says when the registry has accepted a request.
func (e *Engine) transfer(ctx context.Context, fn func(accepted func()) error) error {
	delay := e.patience.delay
	expired := false
	for try := 1; ; try++ {
		var accepted atomic.Bool
		began := time.Now()
		err := fn(func() { accepted.Store(true) })
		if err == nil || ctx.Err() != nil {
			return err
		}
		refused := unauthorized(err)
		// Somebody who may only read is refused after something was accepted, too, but at once.
		renew := (refused || denied(err)) && accepted.Load() && time.Since(began) >= e.patience.leave
		expired = expired || renew
		if try == registryTries || !mayPass(err) && !renew {
			if refused && expired {
				return &expiredError{err}
			}
			return err
		}
		e.log.Warn("a registry failed; trying again", "in", delay, "error", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(delay):
		}
		delay *= 2
	}
}

// mayPass reports whether an error of a registry may be gone the next time.
func mayPass(err error) bool {
	var stalled *stalledError
	if errors.As(err, &stalled) {
		return false // it took long enough
	}
	var status docker.UnexpectedHTTPStatusError
	if errors.As(err, &status) {
		return status.StatusCode >= http.StatusInternalServerError || status.StatusCode == http.StatusRequestTimeout
	}
	if errors.Is(err, docker.ErrTooManyRequests) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return true
	}
	var unknown *net.DNSError
	if errors.As(err, &unknown) && unknown.IsNotFound || errors.Is(err, syscall.ECONNREFUSED) {
		return false // nobody is there
	}
	return retry.IsErrorRetryable(err)
}

// patience is how long registries are waited for.
type patience struct {
	answer time.Duration // for an answer to a small request
	blob   time.Duration // between two pieces of a blob
	delay  time.Duration // before the second try
	leave  time.Duration // for which a registry's leave holds at least
}

func usualPatience() patience {
	// The specification of tokens for registries has none that hold for less than a minute.
	return patience{answer: 45 * time.Second, blob: 2 * time.Minute, delay: time.Second, leave: 30 * time.Second}
}

// stalledError says that a registry was given up. The library keeps asking one that
// gets too many requests, and does not say so.
type stalledError struct{ after time.Duration }

func (e *stalledError) Error() string {
	return fmt.Sprintf("the registry has not answered for %s, or only that there are too many requests; check that it is up and can be reached, then try again later", e.after)
}

// patiently stops fn if it calls alive not once within a time.
func patiently(ctx context.Context, limit time.Duration, fn func(ctx context.Context, alive func()) error) error {
	gctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := &stalledError{limit}
	timer := time.AfterFunc(limit, func() { cancel(stalled) })
	defer timer.Stop()
	err := fn(gctx, func() { timer.Reset(limit) })
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(gctx), stalled) {
		return stalled
	}
	return err
}

// livelyReader says that something comes.
type livelyReader struct {
	io.Reader
	alive func()
}

// Read is for io.Reader.
func (l *livelyReader) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if n > 0 {
		l.alive()
	}
	return n, err
}
