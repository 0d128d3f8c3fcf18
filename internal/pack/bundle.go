package pack

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	digest "github.com/opencontainers/go-digest"
	imgspec "github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/zbuild/zbuild/internal/exporter"
)

// The media types of Docker's manifests, version 2, schema 2.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList         = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig       = "application/vnd.docker.container.image.v1+json"
	dockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd    = "application/vnd.docker.image.rootfs.diff.tar.zstd" // only containerd and BuildKit speak of it
	attestationsType   = "application/vnd.docker.attestation.manifest.v1+json"
	intotoType         = "application/vnd.in-toto+json"
	predicateType      = "in-toto.io/predicate-type"
	referenceType      = "vnd.docker.reference.type"
	referenceDigest    = "vnd.docker.reference.digest"
	attestationsPrefix = "attestation-manifest"
)

// unknownPlatform is that of manifests which are no images.
var unknownPlatform = ocispecs.Platform{OS: "unknown", Architecture: "unknown"}

// Statement is an in-toto statement about an image.
type Statement struct {
	Name          string // of the file that it is elsewhere, as "provenance.json"
	PredicateType string
	Data          []byte // JSON
}

// Options say what a bundle looks like.
type Options struct {
	How How
	// Docker gives media types of Docker's instead of OCI's.
	Docker bool
	// List makes a list also of a single image.
	List bool
	// Artifact makes attestations OCI artifacts.
	Artifact    bool
	Annotations []exporter.Annotation
	// Attest makes statements about an image whose manifest is final; nil makes
	// none. A bundle that has some is a list.
	Attest func(ctx context.Context, image int, manifest Manifest) ([]Statement, error)
}

// Build makes a bundle of images, one per platform.
func Build(ctx context.Context, c *Compressor, images []*Image, opt Options) (*Bundle, error) {
	list := opt.List || len(images) > 1 || opt.Attest != nil
	if err := checkAnnotations(images, opt, list); err != nil {
		return nil, err
	}
	b := &Bundle{}
	var attestations []Manifest
	for i, img := range images {
		m, blobs, err := image(ctx, c, img, opt)
		if err != nil {
			return nil, err
		}
		b.add(blobs...)
		if t, ok := created(img); ok && t.After(b.Created) {
			b.Created = t
		}
		b.Manifests = append(b.Manifests, m)
		b.Config = blobs[0].Digest
		if opt.Attest == nil {
			continue
		}
		statements, err := opt.Attest(ctx, i, m)
		if err != nil {
			return nil, err
		}
		if len(statements) > 0 {
			a, blobs, err := attestation(m.Descriptor, statements, opt)
			if err != nil {
				return nil, err
			}
			b.add(blobs...)
			attestations = append(attestations, a)
		}
	}
	if !list {
		b.Root, b.Manifests = b.Manifests[0], nil
		return b, nil
	}
	b.Manifests = append(b.Manifests, attestations...)
	b.Config = ""
	var err error
	b.Root, err = index(b.Manifests, opt)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// add adds blobs that are not there yet.
func (b *Bundle) add(blobs ...Blob) {
	for _, blob := range blobs {
		if !slices.ContainsFunc(b.Blobs, func(have Blob) bool { return have.Digest == blob.Digest }) {
			b.Blobs = append(b.Blobs, blob)
		}
	}
}

// index makes the list of manifests.
func index(manifests []Manifest, opt Options) (Manifest, error) {
	index := ocispecs.Index{
		Versioned: imgspec.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex,
		Annotations: annotations(opt.Annotations, exptypes.AnnotationIndex, nil),
	}
	if opt.Docker {
		index.MediaType = dockerList
	}
	for _, m := range manifests {
		index.Manifests = append(index.Manifests, m.Descriptor)
	}
	data, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return Manifest{}, err
	}
	root := manifest(index.MediaType, data)
	root.Descriptor.Annotations = annotations(opt.Annotations, exptypes.AnnotationIndexDescriptor, nil)
	return root, nil
}

// created is when an image was made, if it says so.
func created(img *Image) (time.Time, bool) {
	var config struct {
		Created *time.Time `json:"created"`
	}
	if err := json.Unmarshal(img.Config, &config); err != nil || config.Created == nil {
		return time.Time{}, false
	}
	return *config.Created, true
}

func manifest(mediaType string, data []byte) Manifest {
	return Manifest{Descriptor: dataBlob(mediaType, data).Descriptor, Data: data}
}

func checkAnnotations(images []*Image, opt Options, list bool) error {
	for _, a := range opt.Annotations {
		if !list && (a.Type == exptypes.AnnotationIndex || a.Type == exptypes.AnnotationIndexDescriptor) {
			return fmt.Errorf("the annotation %s is for a list of images; a single image has none", a.Key)
		}
		// As with BuildKit a single image is not asked what platform it is for.
		if a.Platform == nil || len(images) == 1 {
			continue
		}
		found := false
		for _, img := range images {
			found = found || samePlatform(*a.Platform, img.Platform)
		}
		if !found {
			return fmt.Errorf("the annotation %s is for %s, and there is no image for it", a.Key, platforms.FormatAll(*a.Platform))
		}
	}
	return nil
}

func samePlatform(a, b ocispecs.Platform) bool {
	return platforms.FormatAll(platforms.Normalize(a)) == platforms.FormatAll(platforms.Normalize(b))
}

// annotations are those of one type; nil if there are none. A list's are not
// narrowed down to a platform.
func annotations(all []exporter.Annotation, kind string, p *ocispecs.Platform) map[string]string {
	var general, special map[string]string
	put := func(m *map[string]string, a exporter.Annotation) {
		if *m == nil {
			*m = make(map[string]string)
		}
		(*m)[a.Key] = a.Value
	}
	for _, a := range all {
		switch {
		case a.Type != kind:
		case a.Platform == nil || p == nil:
			put(&general, a)
		case samePlatform(*a.Platform, *p):
			put(&special, a)
		}
	}
	if general == nil {
		return special
	}
	maps.Copy(general, special)
	return general
}

// image makes the manifest and the blobs of one image, the configuration first.
func image(ctx context.Context, c *Compressor, img *Image, opt Options) (Manifest, []Blob, error) {
	m := ocispecs.Manifest{
		Versioned: imgspec.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest,
		Layers: []ocispecs.Descriptor{}, Annotations: annotations(opt.Annotations, exptypes.AnnotationManifest, &img.Platform),
	}
	configType := ocispecs.MediaTypeImageConfig
	if opt.Docker {
		m.MediaType, configType = dockerManifest, dockerConfig
	}
	blobs := make([]Blob, 1+len(img.Layers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(compressAtOnce)
	for i, l := range img.Layers {
		g.Go(func() (err error) {
			blobs[1+i], err = c.Blob(gctx, l, opt.How)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Manifest{}, nil, err
	}
	diffIDs := make([]digest.Digest, len(img.Layers))
	for i := range blobs[1:] {
		blob := &blobs[1+i]
		if opt.Docker {
			t, err := dockerLayerType(blob.MediaType)
			if err != nil {
				return Manifest{}, nil, err
			}
			blob.MediaType, blob.Annotations = t, nil
		}
		m.Layers = append(m.Layers, blob.Descriptor)
		diffIDs[i] = blob.diffID
	}
	config := img.Config
	if slices.ContainsFunc(diffIDs, func(d digest.Digest) bool { return d != "" }) {
		var err error
		if config, err = withDiffIDs(config, diffIDs); err != nil {
			return Manifest{}, nil, err
		}
	}
	blobs[0] = dataBlob(configType, config)
	m.Config = blobs[0].Descriptor
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return Manifest{}, nil, err
	}
	out := manifest(m.MediaType, data)
	p := img.Platform
	out.Descriptor.Platform = &p
	out.Descriptor.Annotations = annotations(opt.Annotations, exptypes.AnnotationManifestDescriptor, &img.Platform)
	return out, blobs, nil
}

// compressAtOnce is how many layers of an image are compressed at once; gzip uses
// all cores by itself.
const compressAtOnce = 2

func dockerLayerType(t string) (string, error) {
	switch t {
	case ocispecs.MediaTypeImageLayer:
		return dockerLayer, nil
	case ocispecs.MediaTypeImageLayerGzip:
		return dockerLayerGzip, nil
	case ocispecs.MediaTypeImageLayerZstd:
		return dockerLayerZstd, nil
	}
	return "", fmt.Errorf("Docker has no media type for %s", t) //nolint:staticcheck // a name
}

// attestation makes the manifest of what is stated about an image, as BuildKit
// attaches it: see its docs/attestations/attestation-storage.md.
func attestation(of ocispecs.Descriptor, statements []Statement, opt Options) (Manifest, []Blob, error) {
	m := ocispecs.Manifest{Versioned: imgspec.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest}
	blobs := make([]Blob, 1, 1+len(statements))
	config := ocispecs.Image{Platform: unknownPlatform, RootFS: ocispecs.RootFS{Type: "layers"}}
	for _, s := range statements {
		blob := dataBlob(intotoType, s.Data)
		blob.Annotations = map[string]string{predicateType: s.PredicateType}
		blobs = append(blobs, blob)
		m.Layers = append(m.Layers, blob.Descriptor)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, blob.Digest)
	}
	if opt.Artifact {
		m.ArtifactType = attestationsType
		m.Subject = &ocispecs.Descriptor{MediaType: of.MediaType, Digest: of.Digest, Size: of.Size}
		blobs[0] = dataBlob(ocispecs.MediaTypeEmptyJSON, ocispecs.DescriptorEmptyJSON.Data)
		m.Config = ocispecs.DescriptorEmptyJSON
	} else {
		raw, err := json.Marshal(config)
		if err != nil {
			return Manifest{}, nil, err
		}
		blobs[0] = dataBlob(ocispecs.MediaTypeImageConfig, raw)
		m.Config = blobs[0].Descriptor
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return Manifest{}, nil, err
	}
	out := manifest(m.MediaType, data)
	p := unknownPlatform
	out.Descriptor.Platform = &p
	out.Descriptor.Annotations = map[string]string{
		referenceType: attestationsPrefix, referenceDigest: of.Digest.String(),
	}
	return out, blobs, nil
}
