//go:build linux

package buildah

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/signature"
	is "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"

	"github.com/zbuild/zbuild/planner"
	"github.com/zbuild/zbuild/runner"
)

// candidate is one name that an image may have.
type candidate struct {
	name      reference.Named
	localOnly bool
}

// candidates lists where a name may point to, in order: as podman does it, with
// the project's default registry before the others.
func (e *Engine) candidates(req planner.ImageRequest) ([]candidate, error) {
	named, err := reference.ParseNormalizedNamed(req.Ref)
	if err != nil {
		return nil, err
	}
	if req.Explicit || reference.Domain(named) != "docker.io" {
		return []candidate{{name: named}}, nil
	}
	short := reference.FamiliarString(named)
	var out []candidate
	add := func(prefix string, localOnly bool) {
		if n, err := reference.ParseNormalizedNamed(strings.TrimSuffix(prefix, "/") + "/" + short); err == nil {
			out = append(out, candidate{name: n, localOnly: localOnly})
		}
	}
	if req.DefaultRegistry != "" {
		add(req.DefaultRegistry, false)
	}
	add("localhost", true)
	alias, err := e.alias(named)
	if err != nil {
		return nil, fmt.Errorf("reading registries.conf: %w", err)
	}
	if alias != nil {
		return append(out, candidate{name: alias}), nil
	}
	search, err := sysregistriesv2.UnqualifiedSearchRegistries(e.system)
	if err != nil {
		return nil, fmt.Errorf("reading registries.conf: %w", err)
	}
	for _, r := range search {
		if r != "docker.io" {
			add(r, false)
		}
	}
	return append(out, candidate{name: named}), nil
}

// alias is what registries.conf has a short name stand for; nil if nothing.
func (e *Engine) alias(short reference.Named) (reference.Named, error) {
	alias, _, err := sysregistriesv2.ResolveShortNameAlias(e.system, reference.FamiliarName(short))
	if err != nil || alias == nil {
		return nil, err
	}
	out, err := reference.ParseNormalizedNamed(alias.Name())
	if err != nil {
		return nil, err
	}
	if t, ok := short.(reference.Tagged); ok {
		if out, err = reference.WithTag(out, t.Tag()); err != nil {
			return nil, err
		}
	}
	if d, ok := short.(reference.Digested); ok {
		return reference.WithDigest(out, d.Digest())
	}
	return out, nil
}

// Resolve finds a base image and pins it. Nothing of it is fetched but its
// manifest and configuration.
func (e *Engine) Resolve(ctx context.Context, req planner.ImageRequest) (*planner.BaseImage, error) {
	if req.Layout != "" {
		return e.layoutImage(ctx, req)
	}
	names, err := e.candidates(req)
	if err != nil {
		return nil, err
	}
	if req.Pull == "" {
		req.Pull = planner.PullMissing
	}
	var errs []error
	if req.Pull == planner.PullMissing || req.Pull == planner.PullNever {
		for _, c := range names {
			if img, err := e.localImage(ctx, c.name, req.Platform); err == nil {
				return img, nil
			}
		}
		if req.Pull == planner.PullNever {
			return nil, fmt.Errorf("%s for %s is not in the store, and the pull policy is \"never\"",
				reference.FamiliarString(names[len(names)-1].name), platforms.FormatAll(req.Platform))
		}
	}
	for _, c := range names {
		if c.localOnly {
			continue
		}
		img, err := e.remoteImage(ctx, c.name, req.Platform)
		if err == nil {
			return img, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if req.Pull == planner.PullNewer {
		for _, c := range names {
			if img, err := e.localImage(ctx, c.name, req.Platform); err == nil {
				return img, nil
			}
		}
	}
	return nil, errors.Join(errs...)
}

// localImage looks an image up in the store.
func (e *Engine) localImage(ctx context.Context, name reference.Named, p ocispecs.Platform) (*planner.BaseImage, error) {
	sys := e.systemFor(name, p)
	ref, err := is.Transport.NewStoreReference(e.store, name, "")
	if err != nil {
		return nil, err
	}
	_, stored, err := is.ResolveReference(ref)
	if err != nil {
		return nil, err
	}
	img, err := readImage(ctx, ref, name, sys)
	if err != nil {
		return nil, err
	}
	img.ID = stored.ID
	var config ocispecs.Image
	if err := json.Unmarshal(img.Config, &config); err != nil {
		return nil, err
	}
	if !platforms.OnlyStrict(p).Match(platforms.Normalize(config.Platform)) {
		return nil, fmt.Errorf("%s in the store is for %s", name, platforms.FormatAll(config.Platform))
	}
	// A list of images has a record of its own; what is built on is one of them.
	if byConfig, err := e.store.Image(img.ConfigDigest.Encoded()); err == nil {
		img.ID = byConfig.ID
	}
	return img, nil
}

func (e *Engine) remoteImage(ctx context.Context, name reference.Named, p ocispecs.Platform) (*planner.BaseImage, error) {
	ref, err := docker.NewReference(reference.TagNameOnly(trimTag(name)))
	if err != nil {
		return nil, err
	}
	var img *planner.BaseImage
	err = e.persist(ctx, func() error {
		return patiently(ctx, e.patience.answer, func(ctx context.Context, _ func()) (err error) {
			img, err = readImage(ctx, ref, name, e.systemFor(name, p))
			return err
		})
	})
	return img, advise(err, name)
}

// trimTag leaves the digest alone of a name that has both, as the reference
// grammar of registries wants it.
func trimTag(name reference.Named) reference.Named {
	if d, ok := name.(reference.Digested); ok {
		if c, err := reference.WithDigest(reference.TrimNamed(name), d.Digest()); err == nil {
			return c
		}
	}
	return name
}

// readImage reads an image's manifest and configuration.
func readImage(ctx context.Context, ref types.ImageReference, name reference.Named, sys *types.SystemContext) (_ *planner.BaseImage, err error) {
	// Not ref.NewImage, which adds up the sizes of all layers in the store.
	src, err := ref.NewImageSource(ctx, sys)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	img, err := image.FromUnparsedImage(ctx, sys, image.UnparsedInstance(src, nil))
	if err != nil {
		return nil, err
	}
	raw, _, err := img.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigBlob(ctx)
	if err != nil {
		return nil, err
	}
	var oci ocispecs.Image
	if err := json.Unmarshal(config, &oci); err != nil {
		return nil, fmt.Errorf("the configuration of %s: %w", name, err)
	}
	return &planner.BaseImage{
		Ref: name.String(), Digest: digest.FromBytes(raw), ConfigDigest: digest.FromBytes(config),
		Config: config, DiffIDs: oci.RootFS.DiffIDs, Platform: oci.Platform,
	}, nil
}

// base gives the snapshot of a base image, fetching it if it is not in the store.
func (e *Engine) base(ctx context.Context, img *planner.BaseImage) (runner.Snapshot, error) {
	for _, id := range []string{img.ID, img.ConfigDigest.Encoded()} {
		if id == "" {
			continue
		}
		if stored, err := e.store.Image(id); err == nil && (stored.TopLayer != "" || len(img.DiffIDs) == 0) {
			return runner.Snapshot(stored.TopLayer), nil
		}
	}
	return e.pull(ctx, img)
}

// pull copies a base image into the store.
func (e *Engine) pull(ctx context.Context, img *planner.BaseImage) (runner.Snapshot, error) {
	name, err := reference.ParseNormalizedNamed(img.Ref)
	if err != nil {
		return "", err
	}
	pinned, err := reference.WithDigest(reference.TrimNamed(name), img.Digest)
	if err != nil {
		return "", err
	}
	src, err := docker.NewReference(pinned)
	if err != nil {
		return "", err
	}
	// The tag goes to images of this machine's kind only: that is what podman
	// expects under it.
	var dest reference.Named = pinned
	if platforms.Only(platforms.DefaultSpec()).Match(img.Platform) {
		dest = reference.TagNameOnly(name)
		if _, digested := name.(reference.Digested); digested {
			dest = pinned
		}
	}
	var dst types.ImageReference
	if img.Layout == "" {
		dst, err = is.Transport.NewStoreReference(e.store, dest, "")
	} else {
		src, dst, err = e.layoutCopy(img)
	}
	if err != nil {
		return "", err
	}
	policy, err := e.policy()
	if err != nil {
		return "", err
	}
	defer policy.Destroy() //nolint:errcheck // nothing is held
	sys := e.systemFor(name, img.Platform)
	err = e.transfer(ctx, func(accepted func()) error {
		from := patientReference{ImageReference: src, patience: e.patience, accepted: accepted}
		_, err := copy.Image(ctx, policy, dst, from, &copy.Options{SourceCtx: sys, DestinationCtx: sys})
		return err
	})
	if err != nil {
		return "", fmt.Errorf("pulling %s: %w", pinned, advise(err, pinned))
	}
	stored, err := e.store.Image(img.ConfigDigest.Encoded())
	if err != nil {
		if _, stored, err = is.ResolveReference(dst); err != nil {
			return "", fmt.Errorf("pulling %s: %w", pinned, err)
		}
	}
	return runner.Snapshot(stored.TopLayer), nil
}

// systemFor sets up registry access for one name. A registry on this machine may
// speak plain HTTP, as Docker and BuildKit have it, unless registries.conf knows
// better.
func (e *Engine) systemFor(name reference.Named, p ocispecs.Platform) *types.SystemContext {
	sys := *e.system
	sys.OSChoice, sys.ArchitectureChoice, sys.VariantChoice = p.OS, p.Architecture, p.Variant
	host := reference.Domain(name)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if ip := net.ParseIP(strings.Trim(host, "[]")); host == "localhost" || ip != nil && ip.IsLoopback() {
		if r, err := sysregistriesv2.FindRegistry(&sys, name.Name()); err == nil && r == nil {
			sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
		}
	}
	return &sys
}

// policy says which images are trusted: what policy.json says, or all where there
// is none, as with Docker.
func (e *Engine) policy() (*signature.PolicyContext, error) {
	policy, err := signature.DefaultPolicy(e.system)
	if errors.Is(err, os.ErrNotExist) {
		policy, err = &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the signature policy: %w", err)
	}
	return signature.NewPolicyContext(policy)
}

// storeName is the name that an image gets in the store: as with podman and
// buildah, one without a registry is localhost's.
func storeName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("the tag %q: %w", name, err)
	}
	named = reference.TagNameOnly(named)
	first, _, found := strings.Cut(name, "/")
	if !found || !strings.ContainsAny(first, ".:") && first != "localhost" {
		return "localhost/" + reference.FamiliarString(named), nil
	}
	return named.String(), nil
}
