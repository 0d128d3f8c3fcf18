package planner

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/docker/buildx/util/ocilayout"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutScheme is the scheme of sources that are images of a directory; see the OCI
// image layout specification.
const layoutScheme = "oci-layout://"

// layoutStore is the name by which the frontend knows a directory.
func layoutStore(dir string) string {
	return "layout/" + digest.FromString(dir).Encoded()[:16]
}

// layout finds the image that a context names in a directory, and gives the
// context's value in the frontend's words.
func (u *unit) layout(value string) (dir, context string, err error) {
	ref, ok, err := ocilayout.Parse(value)
	if err != nil || !ok {
		return "", "", fmt.Errorf("%s is no address of an OCI layout", value)
	}
	d := ref.Digest
	if d == "" {
		raw, err := u.files.get(filepath.Join(ref.Path, ocispecs.ImageIndexFile))
		if err != nil {
			return "", "", fmt.Errorf("%s is no OCI layout: its %s cannot be read: %s", u.files.name(ref.Path), ocispecs.ImageIndexFile, reason(err))
		}
		if d, err = inIndex(raw, ref.Tag); err != nil {
			return "", "", fmt.Errorf("%s: %w", u.files.name(ref.Path), err)
		}
	}
	return ref.Path, layoutScheme + layoutStore(ref.Path) + "@" + d.String(), nil
}

// inIndex is the digest that a tag has in a layout. A layout with one image that
// has no name has it under every name, as with BuildKit.
func inIndex(raw []byte, tag string) (digest.Digest, error) {
	var index ocispecs.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return "", fmt.Errorf("%s: %w", ocispecs.ImageIndexFile, err)
	}
	var names []string
	for _, m := range index.Manifests {
		name := m.Annotations[ocispecs.AnnotationRefName]
		if name == tag || name == "" && len(index.Manifests) == 1 {
			return m.Digest, m.Digest.Validate()
		}
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return "", fmt.Errorf("there is no image %q in it.%s", tag, hint(tag, "Its images are ", names))
}

// layoutImage resolves an image of a directory.
func (r *run) layoutImage(ref string, opt *sourceresolver.ResolveOCILayoutOpt) (*BaseImage, error) {
	platform := r.u.opt.Platform
	if opt.Platform != nil {
		platform = *opt.Platform
	}
	dir := r.layouts[opt.Store.StoreID]
	img, err := r.u.images.resolve(ImageRequest{Ref: ref, Explicit: true, Platform: platform, Pull: r.u.cfg.Pull, Layout: dir})
	if err != nil {
		r.missing.add(err)
		return nil, err
	}
	r.pins.add(img, platform)
	return img, nil
}
